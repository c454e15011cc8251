"""Write every golden under data/. See README.md for what the files mean.

    python make.py            all cases and the op goldens
    python make.py gpt2 ops   only these
"""

import math
import os
import shutil
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
sys.dont_write_bytecode = True

import peft
import safetensors
import tokenizers
import torch
import transformers
from safetensors.torch import load_file, save_file

import mixed
import modelfiles
import ops
import training
from cases import build_cases
from texts import EOS, batch_for_step, read_examples, write_data

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
TEXT = DATA / "text"
LOGIT_ROWS = 2
NOISE = 2e-6
"""Greatest relative distance of a float32 loss from its float64 twin: a fiftieth of the 1e-4 that is tested."""


def versions():
    modules = {"torch": torch, "transformers": transformers, "peft": peft, "tokenizers": tokenizers,
               "safetensors": safetensors}
    return {name: module.__version__.split("+")[0] for name, module in modules.items()}


def encoded(examples):
    return [{"ids": example.ids, "first_target": example.first_target} for example in examples]


def relative(left, right):
    return abs(left - right) / abs(right)


def norm(tensors):
    return math.sqrt(sum((tensor.double() ** 2).sum().item() for tensor in tensors))


def first_batch(case, folder, examples, tensors):
    """Logits, loss and gradients of the first four training rows."""
    size, seq_len = 4, 32
    batch = batch_for_step(examples, 1, size, seq_len)
    model = modelfiles.load(folder / "model")
    training.check_against_transformers(model, batch)
    logits = training.forward(model, batch)
    loss = training.token_loss_sum(logits, batch) / batch.tokens
    tensors["logits"] = (logits * batch.mask[..., None]).detach()[:LOGIT_ROWS].clone()
    with training.true_float64():
        double = modelfiles.load(folder / "model", attention="sdpa").double()
        loss_f64 = training.batch_loss(double, batch)
    result = {
        "data": "../text/train.jsonl", "rows": list(range(size)), "seq_len": seq_len,
        "input_ids": batch.input_ids.tolist(), "target_ids": batch.target_ids.tolist(),
        "weights": batch.weights.int().tolist(), "lengths": batch.lengths, "tokens": batch.tokens,
        "logits_rows": LOGIT_ROWS, "loss": loss.item(), "loss_f64": loss_f64.item(),
    }
    if case.gradients:
        loss.backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        for name, gradient in gradients.items():
            tensors[f"grad.{name}"] = gradient.clone()
        result["grad_norm"] = norm(gradients.values())
        loss_f64.backward()
        result["grad_error_f32"] = worst_gradient(gradients, dict(double.named_parameters()))
    return result


def worst_gradient(single, double):
    """How far float32 gradients lie from float64 ones: greatest |difference| / norm of the tensor."""
    worst = 0.0
    for name, parameter in double.items():
        exact = parameter.grad
        scale = max(exact.norm().item() / math.sqrt(exact.numel()), 1e-7)
        worst = max(worst, (single[name].double() - exact).abs().max().item() / scale)
    return worst


def summary(single, double):
    """Each trained tensor after the last step: L2 norm, sum, and L2 distance from its float64 twin."""
    result = {}
    for name, tensor in sorted(single.items()):
        exact, tensor = double[name].detach(), tensor.detach().double()
        result[name] = {
            "norm": tensor.norm().item(), "sum": tensor.sum().item(), "distance_f64": (tensor - exact).norm().item()
        }
    return result


def flags(run):
    """The run as command line flags."""
    result = {
        "method": run.method, "batch": run.batch, "seq-len": run.seq_len, "steps": run.steps, "lr": run.lr,
        "schedule": run.schedule, "warmup": run.warmup, "weight-decay": run.weight_decay, "beta1": run.beta1,
        "beta2": run.beta2, "eps": run.eps, "clip": run.clip, "no-shuffle": True,
        "precision": "bf16" if run.bf16 else "f32",
    }
    if run.method == "lora":
        result |= {"rank": run.rank, "alpha": run.alpha, "targets": run.targets}
    return result


def make_run(case, folder, run, tokenizer, eos, tensors):
    """One training run: its float32 curve, the float64 losses beside it, adapters, first gradients."""
    examples = read_examples(tokenizer, TEXT / run.data, eos)
    valid = read_examples(tokenizer, TEXT / "valid.jsonl", eos)
    result = {
        "name": run.name, "flags": flags(run), "data": f"../text/{run.data}", "valid": "../text/valid.jsonl",
        "adapter": None, "adapter_final": None,
    }
    adapter = None
    if run.method == "lora":
        result |= {"adapter": f"{run.name}/adapter", "adapter_final": f"{run.name}/adapter_final"}
        adapter = folder / result["adapter"]
        training.make_adapter(folder / "model", run, adapter, case.seed + 100)
    single, parameters, gradients, model = training.curve(folder / "model", run, adapter, examples, valid)
    double, exact_parameters, *_ = training.curve(folder / "model", run, adapter, examples, valid, double=True)
    for step, exact in zip(single["steps"], double["steps"]):
        step["loss_f64"] = exact["loss"]
        step["grad_norm_f64"] = exact["grad_norm"]
        assert relative(step["loss"], exact["loss"]) < NOISE, (case.name, run.name, step)
    single["eval_after"]["loss_f64"] = double["eval_after"]["loss"]
    assert single["eval_after"]["loss"] < single["eval_before"]["loss"], (case.name, run.name, "did not learn")
    result |= single
    result["final"] = summary(parameters, exact_parameters)
    if run.bf16:
        result["bf16"] = mixed.bf16_run(folder / "model", run, adapter, examples, valid, single)
    elif run.method == "lora":
        training.save_adapter(model, folder / result["adapter_final"])
        saved = training.load_adapter_tensors(adapter)
        assert sorted(saved) == sorted(gradients), (sorted(saved)[:4], sorted(gradients)[:4])
        for name, gradient in gradients.items():
            tensors[f"{run.name}.grad.{name}"] = gradient
    if run.bf16:
        result["adapter_final"] = None
    return result


def make_case(case):
    folder = DATA / case.name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer, configs = modelfiles.write_model(case, folder / "model")
    copies = []
    if case.name == "gpt2":
        modelfiles.write_gpt2_noprefix(folder / "model", folder / "model-noprefix")
        copies.append("model-noprefix")
    if case.name == "llama2":
        modelfiles.write_sharded(folder / "model", folder / "model-sharded")
        copies.append("model-sharded")
    if case.name == "mistral":
        modelfiles.check_differs(folder / "model", "sliding_window", None)
    if case.name == "llama3":
        default = {"rope_type": "default", "rope_theta": 500.0}
        modelfiles.check_differs(folder / "model", "rope_parameters", default)
    eos = tokenizer.token_to_id(EOS)
    files = {name: read_examples(tokenizer, TEXT / name, eos) for name in ("train.jsonl", "valid.jsonl", "completion.jsonl")}
    tensors = {}
    model = modelfiles.load(folder / "model")
    expected = {
        "format": 1, "case": case.name, "versions": versions(), "model": "model", "same_models": copies,
        "configs": configs, "model_type": model.config.model_type, "weights_dtype": case.dtype,
        "parameters": sum(parameter.numel() for parameter in model.parameters()), "eos_token_id": eos,
        "encoded": {f"../text/{name}": encoded(examples) for name, examples in files.items()},
        "batch": first_batch(case, folder, files["train.jsonl"], tensors),
        "runs": [make_run(case, folder, run, tokenizer, eos, tensors) for run in case.runs],
    }
    tensors = {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}
    save_file(tensors, folder / "expected.safetensors")
    modelfiles.write_json(folder / "expected.json", expected, indent=1)
    report(expected)


def report(expected):
    batch = expected["batch"]
    print(f"{expected['case']}: {expected['parameters']} parameters, loss {batch['loss']:.5f}, "
          f"grad error f32 {batch.get('grad_error_f32', 0):.1e}")
    for run in expected["runs"]:
        noise = max(relative(step["loss"], step["loss_f64"]) for step in run["steps"])
        norms = [step["grad_norm"] for step in run["steps"]]
        print(f"  {run['name']}: {run['steps'][0]['loss']:.4f} -> {run['steps'][-1]['loss']:.4f}, "
              f"eval {run['eval_before']['loss']:.4f} -> {run['eval_after']['loss']:.4f}, "
              f"grad norm {min(norms):.3f}..{max(norms):.3f}, f32 noise {noise:.1e}")
        if "bf16" in run:
            print(f"    bf16: {mixed.describe(run)}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    wanted = set(sys.argv[1:])
    cases = build_cases()
    known = {case.name for case in cases} | {"ops"}
    if wanted - known:
        sys.exit(f"unknown: {sorted(wanted - known)}; there are: {sorted(known)}")
    write_data(TEXT)
    for case in cases:
        if not wanted or case.name in wanted:
            make_case(case)
    if not wanted or "ops" in wanted:
        ops.write(DATA / "ops")


if __name__ == "__main__":
    main()
