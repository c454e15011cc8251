#!/usr/bin/env python3
"""LoRA on a shape with random weights: finetune, and beside it another program on the same work.

    tests/bench/lora.py --finetune target/release/finetune --backend mlx [--peer mlx_lora.py] [--preset llama-1b ...]
        [--peer "torch_lora.py --device cuda --compile"] [--models FOLDER] [--repeat 2]

Prints one JSON line a program and preset: tokens a second (the median of the steps after the warm-up) and the peak
of memory. The presets are shapes of known models; weights are random and tokens are those of a text, rows full.
--peer is a program, with arguments if need be, that takes --model PRESET --method --rank --batch --seq --steps --warmup
--dtype and prints one JSON line with tokens_per_s and peak_mib. It may be given several times. All run in turn with
finetune, so that they see the same machine.
--models keeps the models, with weights that PyTorch has made, for further runs; without it they are made each time.
"""
import argparse
import json
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile

DEMO = pathlib.Path(__file__).resolve().parents[2] / "demo"


def llama(vocab, hidden, inner, layers, heads, key_heads, theta):
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": key_heads, "rms_norm_eps": 1e-5, "rope_theta": theta, "hidden_act": "silu",
        "max_position_embeddings": 8192, "tie_word_embeddings": True, "initializer_range": 0.02,
        "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "bfloat16",
    }


# Shape, batch, length.
PRESETS = {
    "llama-1b": (llama(128256, 2048, 8192, 16, 32, 8, 500000.0), 4, 1024),
    "smollm2-135m": (llama(49152, 576, 1536, 30, 9, 3, 100000.0), 8, 1024),
    "tiny": (llama(4096, 64, 160, 2, 4, 2, 10000.0), 2, 64),
}


def last_json(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with exit status {done.returncode}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def weights(shape):
    import torch

    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    linears = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden),
               "self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden),
               "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    normal = lambda *size: (torch.randn(*size, device=device) * 0.02).to(torch.bfloat16).cpu()
    ones = lambda: torch.ones(hidden, dtype=torch.bfloat16)
    made = {"model.embed_tokens.weight": normal(shape["vocab_size"], hidden), "model.norm.weight": ones()}
    for layer in range(shape["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        made |= {f"{at}{name}.weight": normal(*size) for name, size in linears.items()}
        made |= {f"{at}{name}.weight": ones() for name in ("input_layernorm", "post_attention_layernorm")}
    return made


def model(preset, folder, with_weights):
    shape, _, length = PRESETS[preset]
    folder.mkdir(parents=True)
    if with_weights:
        from safetensors.torch import save_file

        save_file(weights(shape), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / "tokenizer.json").write_bytes((DEMO / "model/tokenizer.json").read_bytes())
    # A row is cut at the length; each is longer than that in tokens of any tokenizer that merges up to 8 letters.
    lines = (DEMO / "box/sample.jsonl").read_text().splitlines()
    text = " ".join(" ".join(json.loads(line)["text"] for line in lines).split())
    row = 8 * length
    starts = range(0, max(1, len(text) - row), max(1, (len(text) - row) // 64))
    rows = [{"text": (text[start:] + " " + text)[:row]} for start in starts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def finetune(a, preset, out):
    _, batch, length = PRESETS[preset]
    folder = pathlib.Path(a.models or out) / preset
    if not folder.exists():
        model(preset, folder, bool(a.models))
    steps = a.warmup + a.steps
    command = [a.finetune, "train", "--json", "--backend", a.backend,
               "--model", folder if a.models else folder / "config.json",
               "--data", folder / "rows.jsonl", "--out", out / "run", "--method", "lora", "--rank", a.rank,
               "--precision", a.precision, "--batch", batch, "--seq-len", length, "--lr", 1e-4,
               "--weight-decay", 0.0, "--steps", steps, "--save-every", steps]
    if a.plugins:
        command += ["--plugins", a.plugins]
    events = last_json([str(part) for part in command])
    start = next(event for event in events if event["event"] == "start")
    timed = [event for event in events if event["event"] == "step" and event["step"] > a.warmup]
    tokens = {event["tokens"] for event in timed}
    return {
        "program": "finetune", "backend": start["backend"], "device": start["device"], "preset": preset,
        "tokens_per_step": sorted(tokens),
        "tokens_per_s": statistics.median(event["tokens"] / event["step_s"] for event in timed),
        "peak_mib": max(event["memory_bytes"] for event in timed) / 2**20,
        "planned_mib": start["peak_bytes_planned"] / 2**20, "losses": [event["loss"] for event in timed],
    }


def peer(a, preset, program):
    _, batch, length = PRESETS[preset]
    command = [sys.executable, *shlex.split(program), "--model", preset, "--method", "lora", "--rank", a.rank, "--batch", batch,
               "--seq", length, "--steps", a.steps, "--warmup", a.warmup, "--dtype", a.precision]
    line = last_json([str(part) for part in command])[-1]
    return {"program": line.get("peer", program), "command": program, "preset": preset, "tokens_per_s": line["tokens_per_s"],
            "peak_mib": line["peak_mib"]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--finetune", default="target/release/finetune")
    p.add_argument("--plugins")
    p.add_argument("--backend", default="mlx")
    p.add_argument("--peer", action="append", default=[])
    p.add_argument("--preset", nargs="+", choices=sorted(PRESETS), default=["llama-1b", "smollm2-135m"])
    p.add_argument("--models")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--rank", type=int, default=16)
    p.add_argument("--steps", type=int, default=10)
    p.add_argument("--warmup", type=int, default=4)
    p.add_argument("--precision", default="bf16", choices=["bf16", "f32"])
    a = p.parse_args()
    for preset in [preset for preset in a.preset for _ in range(a.repeat)]:
        with tempfile.TemporaryDirectory() as out:
            print(json.dumps(finetune(a, preset, pathlib.Path(out))), flush=True)
        for program in a.peer:
            print(json.dumps(peer(a, preset, program)), flush=True)


if __name__ == "__main__":
    main()
