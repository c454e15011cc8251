"""The loss of a model folder on a data file, with an adapter or without, as transformers and PEFT compute it.

    python peft_eval.py MODEL DATA [ADAPTER] [--seq-len N]

For an adapter that the product wrote, this shows that PEFT loads it, and `finetune eval` must print the same loss.
"""

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import torch
from peft import PeftModel
from tokenizers import Tokenizer

import training
from modelfiles import load
from texts import read_examples


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("adapter", type=Path, nargs="?")
    parser.add_argument("--seq-len", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    eos = json.loads((arguments.model / "config.json").read_text())["eos_token_id"]
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    examples = read_examples(tokenizer, arguments.data, eos[0] if isinstance(eos, list) else eos)
    model = load(arguments.model)
    if arguments.adapter:
        model = PeftModel.from_pretrained(model, arguments.adapter).eval()

    def loss_sum(batch):
        return training.token_loss_sum(training.forward(model, batch), batch)

    print(json.dumps(training.evaluate(loss_sum, examples, SimpleNamespace(batch=4, seq_len=arguments.seq_len))))


if __name__ == "__main__":
    main()
