"""Tokenizers, data files, and the way from a row to a batch."""

import json
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import corpus

VOCAB_SIZE = 320
BOS, EOS, EOT, PAD_ID = "<s>", "</s>", "<|eot|>", 0
SPECIAL = [BOS, EOS, EOT]


def build_tokenizer(kind):
    """`plain` adds no special token, `bos` puts one in front, `bos-eos` adds both ends."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.TOKENIZER, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE, tokenizer.get_vocab_size()
    ids = [(token, tokenizer.token_to_id(token)) for token in (BOS, EOS)]
    if kind == "bos":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=ids[:1]
        )
    elif kind == "bos-eos":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BOS} $A {EOS}", pair=f"{BOS} $A {EOS} {BOS}:1 $B:1 {EOS}:1", special_tokens=ids
        )
    else:
        tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def save_tokenizer(kind, folder):
    """Write tokenizer.json and tokenizer_config.json; return the tokenizer as read back."""
    tokenizer = build_tokenizer(kind)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS)
    wrapped.save_pretrained(folder)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in corpus.TRAIN:
        assert saved.encode(text).ids == tokenizer.encode(text).ids
        assert wrapped(text)["input_ids"] == saved.encode(text).ids
    return saved


def write_data(folder):
    """Write the JSONL files shared by all cases."""
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, rows):
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")

    write("train.jsonl", [{"text": text} for text in corpus.TRAIN])
    write("valid.jsonl", [{"text": text} for text in corpus.VALID])
    write("completion.jsonl", [{"prompt": p, "completion": c} for p, c in corpus.COMPLETION])


@dataclass
class Example:
    """A whole encoded row; `ids[first_target:]` are the tokens that count in the loss."""

    ids: list
    first_target: int


def read_examples(tokenizer, path, eos):
    """Encode each row with special tokens on and see that it ends with `eos`."""
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if "text" in row:
            ids, first_target = tokenizer.encode(row["text"]).ids, 1
        else:
            prompt = tokenizer.encode(row["prompt"]).ids
            ids = tokenizer.encode(row["prompt"] + row["completion"]).ids
            halves = prompt + tokenizer.encode(row["completion"], add_special_tokens=False).ids
            if prompt[-1] != eos:
                assert ids == halves, row
                first_target = len(prompt)
            else:  # the tokenizer closes the prompt as well: take that token out
                assert ids == prompt[:-1] + halves[len(prompt):] + [eos], row
                first_target = len(prompt) - 1
        if ids[-1] != eos:
            ids = ids + [eos]
        examples.append(Example(ids, first_target))
    return examples


@dataclass
class Batch:
    """Right-padded rows: int64 [B, T] ids, targets and mask; float64 [B, T] target weights."""

    input_ids: torch.Tensor
    target_ids: torch.Tensor
    weights: torch.Tensor
    mask: torch.Tensor
    lengths: list

    @property
    def tokens(self):
        return int(self.weights.sum().item())


def make_batch(examples, seq_len):
    cut = [example.ids[: seq_len + 1] for example in examples]
    lengths = [len(ids) - 1 for ids in cut]
    shape = (len(cut), max(lengths))
    inputs = torch.full(shape, PAD_ID, dtype=torch.int64)
    targets = torch.full(shape, PAD_ID, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    weights = torch.zeros(shape, dtype=torch.float64)
    for row, (ids, length, example) in enumerate(zip(cut, lengths, examples)):
        inputs[row, :length] = torch.tensor(ids[:-1])
        targets[row, :length] = torch.tensor(ids[1:])
        mask[row, :length] = 1
        first = max(example.first_target - 1, 0)
        weights[row, first:length] = 1.0
        assert weights[row].sum() > 0, "a row without a target"
    return Batch(inputs, targets, weights, mask, lengths)


def batch_for_step(examples, step, size, seq_len):
    """File order, around again at the end; `step` counts from 1."""
    first = (step - 1) * size
    return make_batch([examples[(first + k) % len(examples)] for k in range(size)], seq_len)
