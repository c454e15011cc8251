"""Losses, gradients and training curves, with the semantics written in README.md."""

import contextlib
import json

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mistral.modeling_mistral import MistralRMSNorm

from cases import GPT2_ATTENTION, LLAMA_ATTENTION
from modelfiles import load, write_json
from texts import batch_for_step, make_batch


@contextlib.contextmanager
def true_float64():
    """transformers' RMS norm computes in float32 whatever the model's dtype; here it must not."""

    def forward(self, hidden):
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return self.weight * (hidden * scale)

    kept = [(norm, norm.forward) for norm in (LlamaRMSNorm, MistralRMSNorm)]
    for norm, _ in kept:
        norm.forward = forward
    try:
        yield
    finally:
        for norm, old in kept:
            norm.forward = old


def token_loss_sum(logits, batch):
    """Sum of cross entropies over the target tokens."""
    losses = F.cross_entropy(logits.flatten(0, 1), batch.target_ids.flatten(), reduction="none")
    return (losses * batch.weights.flatten().to(losses.dtype)).sum()


def forward(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).logits


def batch_loss(model, batch):
    return token_loss_sum(forward(model, batch), batch) / batch.tokens


def evaluate(loss_sum, examples, run):
    """Mean loss over every target token of a file, each row once."""
    total, tokens = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(examples), run.batch):
            batch = make_batch(examples[first : first + run.batch], run.seq_len)
            total += loss_sum(batch).item()
            tokens += batch.tokens
    return {"loss": total / tokens, "tokens": tokens}


def scheduler(optimizer, run):
    if run.schedule == "constant":
        return get_constant_schedule_with_warmup(optimizer, run.warmup)
    make = {"linear": get_linear_schedule_with_warmup, "cosine": get_cosine_schedule_with_warmup}[run.schedule]
    return make(optimizer, run.warmup, run.steps)


def train(parameters, loss_sum, examples, valid, run):
    """Run the steps. `loss_sum(batch)` gives the summed token loss; `parameters` are the trained ones."""
    optimizer = torch.optim.AdamW(
        parameters, lr=run.lr, betas=(run.beta1, run.beta2), eps=run.eps, weight_decay=run.weight_decay
    )
    schedule = scheduler(optimizer, run)
    before = evaluate(loss_sum, valid, run)
    steps = []
    for step in range(1, run.steps + 1):
        batch = batch_for_step(examples, step, run.batch, run.seq_len)
        loss = loss_sum(batch) / batch.tokens
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, run.clip if run.clip > 0 else float("inf"))
        lr = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        steps.append({"step": step, "loss": loss.item(), "lr": lr, "grad_norm": norm.item(), "tokens": batch.tokens})
    return {"steps": steps, "eval_before": before, "eval_after": evaluate(loss_sum, valid, run)}


def lora_targets(run, model):
    gpt2 = model.config.model_type == "gpt2"
    if run.targets == "all-linear":
        return "all-linear", gpt2
    if run.targets == "attention":
        return (GPT2_ATTENTION if gpt2 else LLAMA_ATTENTION), gpt2
    return run.targets.split(","), gpt2


def save_adapter(model, folder):
    """PEFT's own files, made independent of set order and of where they were written."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = None
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    write_json(path, config)


def make_adapter(model_folder, run, folder, seed):
    """A starting adapter whose B is not zero, so that every factor matters from the first step."""
    model = load(model_folder)
    targets, gpt2 = lora_targets(run, model)
    config = LoraConfig(
        r=run.rank, lora_alpha=run.alpha, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM",
        target_modules=targets, fan_in_fan_out=gpt2,
    )
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if parameter.requires_grad:
                values = 0.1 * rng.standard_normal(tuple(parameter.shape))
                parameter.copy_(torch.from_numpy(values.astype(np.float32)))
    save_adapter(model, folder)


def load_adapter(model_folder, folder, attention="eager"):
    return PeftModel.from_pretrained(load(model_folder, attention=attention), folder, is_trainable=True).eval()


def trainable(model):
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def saved_name(name):
    """A parameter's name as it is in PEFT's or transformers' file."""
    return name.replace(".default.weight", ".weight")


def build(model_folder, run, adapter, double):
    """The model of a run: (module, trained parameters by saved name)."""
    attention = "sdpa" if double else "eager"
    if run.method == "lora":
        model = load_adapter(model_folder, adapter, attention)
    else:
        model = load(model_folder, attention=attention)
    if double:
        model.double()
    return model, {saved_name(name): parameter for name, parameter in trainable(model).items()}


def first_gradients(model, parameters, examples, run):
    """Gradients of the first step's loss, before clipping."""
    batch = batch_for_step(examples, 1, run.batch, run.seq_len)
    batch_loss(model, batch).backward()
    gradients = {name: parameter.grad.detach().clone() for name, parameter in parameters.items()}
    model.zero_grad()
    return gradients


def curve(model_folder, run, adapter, examples, valid, double=False):
    """One run in float32 or float64: (curve, trained tensors, first gradients, module)."""
    with true_float64() if double else contextlib.nullcontext():
        model, parameters = build(model_folder, run, adapter, double)
        gradients = first_gradients(model, parameters, examples, run)
        result = train(
            list(parameters.values()), lambda batch: token_loss_sum(forward(model, batch), batch), examples, valid, run
        )
    return result, parameters, gradients, model


def check_against_transformers(model, batch):
    """transformers' own loss, asked for the same mean, must be the loss used here."""
    labels = torch.full_like(batch.input_ids, -100)
    counted = batch.weights[:, :-1] > 0
    labels[:, 1:][counted] = batch.target_ids[:, :-1][counted]
    inputs = batch.input_ids
    last = (batch.weights[:, -1] > 0).nonzero().flatten()
    with torch.no_grad():
        theirs = model(input_ids=inputs, attention_mask=batch.mask, labels=labels, num_items_in_batch=batch.tokens).loss
        logits = forward(model, batch)
        for row in last:  # labels inside the window miss the target after its last token
            theirs = theirs + F.cross_entropy(logits[row, -1], batch.target_ids[row, -1]) / batch.tokens
        ours = token_loss_sum(logits, batch) / batch.tokens
    assert abs(theirs.item() - ours.item()) < 2e-6 * ours.item(), (theirs, ours)


def load_adapter_tensors(folder):
    return load_file(folder / "adapter_model.safetensors")
