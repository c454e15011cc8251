#!/usr/bin/env python3
"""The floor under a training step of LoRA on a GPU: what its arithmetic takes, and what it takes op by op.

    tests/bench/floor.py --finetune target/release/finetune [--preset llama-1b ...] [--tflops 780] [--tbytes 3.0]

The ops are those of the candle plugin, listed by its profile of a step on the processor, with one layer and with two
and a small vocabulary; the other layers are as the second. Arithmetic: the multiplications and additions of products
and of attention (half of it, for the causal mask) at --tflops, in TFLOP/s. Op by op: each op takes the longer of its
arithmetic and of reading its operands and writing its results once, at --tbytes, in TB/s. The defaults are what one
H100 reached with an 8192 x 8192 x 8192 product in bf16 and with a copy. Takes about a minute.
"""
import argparse
import collections
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import lora

VOCAB = 4096
VIEWS = {"reshape", "permute", "broadcast", "slice", "constant", "iota"}
BYTES = {"f32": 4, "bf16": 2, "f16": 2, "u32": 4, "bool": 1}


def tensors(text):
    found = re.findall(r"(f32|bf16|f16|u32|bool)\[([\d,]*)\]", text)
    return [(BYTES[dtype], [int(length) for length in shape.split(",") if length]) for dtype, shape in found]


def elements(shape):
    product = 1
    for length in shape:
        product *= length
    return product


def profile(a, preset, layers):
    shape, batch, length = lora.PRESETS[preset]
    lora.PRESETS["small"] = ({**shape, "num_hidden_layers": layers, "vocab_size": VOCAB}, batch, length)
    with tempfile.TemporaryDirectory() as out:
        out = pathlib.Path(out)
        lora.model("small", out / "model", False)
        command = [a.finetune, "train", "--backend", "candle-cpu", "--model", out / "model/config.json",
                   "--data", out / "model/rows.jsonl", "--out", out / "run", "--method", "lora", "--rank", 16,
                   "--precision", "bf16", "--batch", batch, "--seq-len", length, "--weight-decay", 0.0, "--steps", 1]
        done = subprocess.run([str(part) for part in command], stderr=subprocess.PIPE, text=True,
                              env={**os.environ, "FINETUNE_CANDLE_PROFILE": "1"})
    if done.returncode != 0:
        sys.exit(done.stderr)
    ops = collections.Counter()
    for line in done.stderr.splitlines():
        if found := re.match(r"\s*[\d.]+ ms\s+(\d+) (\w+) \((.*)\) -> (.*)", line):
            ops[found.groups()[1:]] += int(found[1])
    return ops


def cost(op, operands, results, vocab):
    """FLOPs and bytes of one op."""
    inputs, outputs = tensors(operands), tensors(results)
    traffic = sum(size * elements(shape) for size, shape in inputs + outputs)
    first = inputs[0][1] if inputs else []
    if op == "matmul":
        inner = (elements(first) * elements(inputs[1][1]) / elements(outputs[0][1])) ** 0.5
        return 2 * elements(outputs[0][1]) * inner, traffic
    if op in ("attention", "attention_grad"):
        batch, length, heads, channels = first
        return (2 if op == "attention" else 5) * batch * heads * length * length * channels, traffic
    if op == "linear_cross_entropy":
        # Logits are written, read for their sums, read for the gradient, which is written in their place and read.
        rows, hidden = first
        return 4 * rows * vocab * hidden, inputs[0][0] * (5 * rows * vocab + 2 * vocab * hidden)
    return 0, traffic


def floor(a, preset):
    shape, batch, length = lora.PRESETS[preset]
    one, two = profile(a, preset, 1), profile(a, preset, 2)
    counts = {op: one[op] + (shape["num_hidden_layers"] - 1) * (two[op] - one[op]) for op in one | two}
    rows = collections.defaultdict(lambda: [0, 0.0, 0.0])
    for (op, operands, results), count in counts.items():
        if op in VIEWS or count == 0:
            continue
        flops, traffic = cost(op, operands, results, shape["vocab_size"])
        arithmetic, memory = flops / a.tflops / 1e9, traffic / a.tbytes / 1e9
        is_thin = op == "matmul" and min(min(shape) for _, shape in tensors(operands)) == 16
        row = rows["matmul (adapters)" if is_thin else op]
        for i, value in enumerate([count, count * arithmetic, count * max(arithmetic, memory)]):
            row[i] += value
    rows["all"] = [sum(column) for column in zip(*rows.values())]
    print(f"{preset}, {batch} x {length} tokens\n{'op':24}{'count':>7}{'arithmetic':>13}{'op by op':>13}")
    for name, (count, arithmetic, least) in sorted(rows.items(), key=lambda row: row[1][2]):
        if least >= 0.1:
            print(f"{name:24}{count:7}{arithmetic:10.1f} ms{least:10.1f} ms")
    tokens = batch * length
    print(f"{'k tokens/s':31}{tokens / rows['all'][1]:13.0f}{tokens / rows['all'][2]:13.0f}\n")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--finetune", default="target/release/finetune")
    p.add_argument("--preset", nargs="+", choices=sorted(lora.PRESETS), default=["llama-1b", "smollm2-135m"])
    p.add_argument("--tflops", type=float, default=780.0)
    p.add_argument("--tbytes", type=float, default=3.0)
    a = p.parse_args()
    for preset in a.preset:
        floor(a, preset)


if __name__ == "__main__":
    main()
