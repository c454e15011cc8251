"""Write data/generation: small models of every architecture and the texts that transformers generates with them.

    python generate.py

Greedy, float32, from transformers' own `generate`. The texts are longer than one piece of a prompt (512 tokens) or
one size of the cache (256), the sliding window is shorter than all of them. A token counts as golden only if float64
chooses the same: `generate.py` stops if rounding could decide.
"""

import copy
import os
import shutil
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.dont_write_bytecode = True

import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

import corpus
import modelfiles
from cases import common, gpt2_config, rope
from texts import save_tokenizer

FOLDER = Path(__file__).resolve().parent / "data" / "generation"
POSITIONS = 700
SHORT = corpus.VALID[0]
LONG = " ".join(corpus.TRAIN * 20)


def models():
    llama = dict(num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=rope(10000.0))
    gpt2 = gpt2_config()
    gpt2.n_positions = POSITIONS
    return [
        ("gpt2", "plain", 31, GPT2LMHeadModel, gpt2, ["c_attn", "c_fc"]),
        ("llama", "bos", 32, LlamaForCausalLM, LlamaConfig(**common(max_position_embeddings=4096, **llama)),
         ["q_proj", "v_proj", "down_proj"]),
        ("mistral", "bos-eos", 33, MistralForCausalLM,
         MistralConfig(**common(max_position_embeddings=4096, sliding_window=24, **llama)), ["q_proj", "o_proj"]),
    ]


def adapter(folder, targets, seed, to):
    torch.manual_seed(seed)
    model = get_peft_model(modelfiles.load(folder), LoraConfig(r=4, lora_alpha=8, target_modules=targets,
                                                               fan_in_fan_out=targets[0] == "c_attn"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(to)
    (to / "README.md").unlink(missing_ok=True)


def prompt_ids(tokenizer, text, tokens):
    """A beginning of `text` of about so many tokens, as text, with the ids that begin it."""
    for end in range(len(text)):
        ids = tokenizer.encode(text[:end]).ids
        if len(ids) >= tokens:
            break
    eos = tokenizer.token_to_id("</s>")
    return text[:end], ids[:-1] if ids[-1] == eos else ids


def greedy(folder, adapter_folder, ids, tokens, double=False):
    model = modelfiles.load(folder)
    if adapter_folder is not None:
        model = PeftModel.from_pretrained(model, adapter_folder).eval()
    if double:
        model = model.double()
    with torch.no_grad():
        out = model.generate(input_ids=torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                             do_sample=False, max_new_tokens=tokens, pad_token_id=0)
    return out[0, len(ids):].tolist()


def case(folder, adapter_name, tokenizer, text, prompt_tokens, tokens, eos):
    text, ids = prompt_ids(tokenizer, text, prompt_tokens)
    where = folder.parent / adapter_name if adapter_name else None
    single = greedy(folder, where, ids, tokens)
    assert single == greedy(folder, where, ids, tokens, double=True), (folder, "rounding decides")
    ended = single[-1] in eos
    made = single[:-1] if ended else single
    print(folder.parent.name, adapter_name, len(ids), len(made), "ended" if ended else "", len(set(made)), "different")
    before, whole = tokenizer.decode(ids), tokenizer.decode(ids + made)
    assert whole.startswith(before)
    return {
        "adapter": adapter_name, "prompt": text, "prompt_ids": ids, "max_tokens": tokens, "tokens": made, "ended": ended,
        "text": whole[len(before):],
    }


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, kind, seed, family, config, targets in models():
        folder = FOLDER / name / "model"
        folder.mkdir(parents=True)
        torch.manual_seed(seed)
        model = family(copy.deepcopy(config))
        modelfiles.randomize(model, seed)
        model.save_pretrained(folder)
        tokenizer = save_tokenizer(kind, folder)
        adapter(folder, targets, seed, FOLDER / name / "adapter")
        eos = [1]
        cases = [
            case(folder, None, tokenizer, SHORT, 10, 300, eos),
            case(folder, None, tokenizer, LONG, 600, 60, eos),
            case(folder, "adapter", tokenizer, SHORT, 12, 60, eos),
        ]
        if name != "gpt2":
            cases.append(case(folder, None, tokenizer, LONG, 1020, 40, eos))
        modelfiles.write_json(FOLDER / name / "expected.json", {
            "versions": {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__},
            "cases": cases,
        }, indent=1)


if __name__ == "__main__":
    main()
