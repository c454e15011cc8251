#!/usr/bin/env python3
"""Golden numbers of the real SmolLM2-135M: held-out loss and short training curves, from transformers and PEFT.

usage: golden.py MODEL_FOLDER      (the folder that fetch.py makes; packages as in ../goldens/requirements.txt)

Writes data/{train,valid}.jsonl (paragraphs of ../../demo), data/adapter (a starting adapter made by PEFT) and
data/expected.json. Weights as in the file, widened to float32; all arithmetic in float32.
"""
import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "goldens"))

import torch  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

import training  # noqa: E402
from cases import Run  # noqa: E402
from modelfiles import write_json  # noqa: E402
from texts import read_examples  # noqa: E402

DATA = HERE / "data"
DEMO = HERE.parent.parent / "demo"


def paragraphs(path, count):
    """The first long paragraphs of a text, a row each."""
    text = path.read_text().split("\n\n")
    rows = [" ".join(part.split()) for part in text if len(part) > 300]
    return rows[:count]


def main():
    torch.set_num_threads(2)
    model = Path(sys.argv[1])
    DATA.mkdir(exist_ok=True)
    for name, count in (("train", 16), ("valid", 6)):
        rows = paragraphs(DEMO / f"{name}.txt", count)
        (DATA / f"{name}.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    eos = json.loads((model / "config.json").read_text())["eos_token_id"]
    eos = eos if isinstance(eos, int) else eos[0]
    examples, valid = (read_examples(tokenizer, DATA / f"{name}.jsonl", eos) for name in ("train", "valid"))
    common = dict(batch=4, seq_len=128, steps=4, weight_decay=0.01, clip=1.0)
    runs = {
        "full": Run(name="full", method="full", lr=2e-5, **common),
        "lora": Run(name="lora", method="lora", lr=1e-3, rank=2, alpha=4, targets="q_proj,v_proj", **common),
    }
    training.make_adapter(model, runs["lora"], DATA / "adapter", 5)
    expected = {}
    for name, run in runs.items():
        result, *_ = training.curve(model, run, DATA / "adapter" if name == "lora" else None, examples, valid)
        expected[name] = {"lr": run.lr, "seq-len": run.seq_len, "batch": run.batch, **result}
        print(name, [step["loss"] for step in result["steps"]], result["eval_before"], result["eval_after"])
    write_json(DATA / "expected.json", expected)


if __name__ == "__main__":
    main()
