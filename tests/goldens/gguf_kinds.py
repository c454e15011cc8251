"""Small GGUF models in every kind that is read, with what must come of them.

    python gguf_kinds.py      needs the package gguf besides those of requirements.txt

Each file under data/gguf-kinds is a random Llama of one kind of tensors, with one kind of tokenizer. It is written by
the package gguf as llama.cpp's convert_hf_to_gguf.py does (rows of q and k in pairs). `expected.json` has for each
the SHA-256 of every tensor as f32, checked bit for bit against transformers' own GGUF loader; the token ids of
`TEXTS`, by the package tokenizers with the parts that the models' own tokenizer.json files have, or, for
SentencePiece, by its definition written out; and the loss on data/text/valid.jsonl by transformers.
"""

import copy
import hashlib
import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy as np
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

import corpus
import modelfiles
import training
from texts import BOS, EOS, EOT, SPECIAL, Example

HERE = Path(__file__).resolve().parent
DATA = HERE / "data" / "gguf-kinds"
VALID = HERE / "data" / "text" / "valid.jsonl"
SEQ_LEN = 32
TEMPLATE = ("{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '<|eot|>' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
TEXTS = [
    "", " ", "  two  spaces ", "The capital of France is", "Hello, World! It's 12345 o'clock, we'll SEE.",
    "Grüße, naïve cafe\u0301 — привет 你好\u3000世界 \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "line\nline\r\n\n\n  indented\tand\ttabs   \n", "x=1;y+=2**10 // 3.14e-5 $5 <b>", "١٢٣ ½ ² Ⅷ 1234567",
    "a<s>b</s> c <|eot|>\nd<|eot|>", "\u00a0\u2028\0\u0001 end", "THEThe the tHE thethe", "▁x ▁▁ y",
]
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
          r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
          r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def split(pattern):
    return [pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


ALONE = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
# As in the tokenizer.json of GPT-2, SmolLM, Llama 3, Qwen 2 and Mistral Nemo.
CUTS = {
    "gpt-2": ([ALONE], None, False),
    "smollm": ([pre_tokenizers.Digits(individual_digits=True), ALONE], None, False),
    "llama-bpe": (split(LLAMA3), None, True),
    "qwen2": (split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), normalizers.NFC(), False),
    "tekken": (split(TEKKEN), None, True),
}


class ByteLevel:
    """A byte-level BPE vocabulary, and the keys that describe it."""

    def __init__(self, pre, add_bos):
        cut, normalizer, ignore_merges = CUTS[pre]
        raw = Tokenizer(models.BPE())
        raw.pre_tokenizer = pre_tokenizers.Sequence(cut)
        raw.train_from_iterator(corpus.TOKENIZER, trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
        model = json.loads(raw.to_str())["model"]
        self.merges = [tuple(merge) for merge in model["merges"]]
        self.tokens = sorted(model["vocab"], key=model["vocab"].get)
        whole = models.BPE(vocab=model["vocab"], merges=self.merges, ignore_merges=ignore_merges)
        self.raw = Tokenizer(whole)
        self.raw.pre_tokenizer = pre_tokenizers.Sequence(cut)
        if normalizer:
            self.raw.normalizer = normalizer
        self.raw.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL])
        self.pre, self.add_bos, self.eos = pre, add_bos, self.tokens.index(EOS)

    def encode(self, text):
        ids = self.raw.encode(text, add_special_tokens=False).ids
        return [self.tokens.index(BOS)] * self.add_bos + ids

    def write(self, writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types([gguf.TokenType.CONTROL if token in SPECIAL else gguf.TokenType.NORMAL
                                for token in self.tokens])
        writer.add_token_merges([" ".join(merge) for merge in self.merges])
        writer.add_bos_token_id(self.tokens.index(BOS))
        writer.add_eos_token_id(self.eos)
        # What llama-bpe and tekken imply is left out, so that it has to be known.
        if self.pre not in ("llama-bpe", "tekken"):
            writer.add_add_bos_token(self.add_bos)


class SentencePiece:
    """A vocabulary with scores: while two neighbours make a token, those that make the best one do."""

    def __init__(self):
        raw = Tokenizer(models.BPE())
        raw.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        raw.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
        raw.train_from_iterator(corpus.TOKENIZER, trainers.BpeTrainer(vocab_size=140, show_progress=False))
        model = json.loads(raw.to_str())["model"]
        pieces = [left + right for left, right in model["merges"]]
        pieces += sorted(piece for piece in model["vocab"] if len(piece) == 1)
        self.special = ["<unk>", BOS, EOS]
        self.tokens = self.special + [f"<0x{byte:02X}>" for byte in range(256)] + ["<|eot|>"] + pieces
        self.scores = [0.0] * 260 + [-float(rank) for rank in range(len(pieces))]
        self.rank = {piece: self.scores[260 + rank] for rank, piece in enumerate(pieces)}
        self.id = {token: id for id, token in enumerate(self.tokens)}
        self.eos = self.id[EOS]

    def encode(self, text):
        ids, rest = [self.id[BOS]], text
        while rest:
            at, token = min([(rest.find(token), token) for token in self.special + [EOT] if token in rest],
                            default=(len(rest), ""))
            if at:
                ids += self.piece(rest[:at])
            if token:
                ids.append(self.id[token])
            rest = rest[at + len(token):]
        return ids

    def piece(self, text):
        parts = list("▁" + text.replace(" ", "▁"))
        while True:
            found = [(self.rank[left + right], -at) for at, (left, right) in enumerate(zip(parts, parts[1:]))
                     if left + right in self.rank]
            if not found:
                break
            at = -max(found)[1]
            parts[at:at + 2] = [parts[at] + parts[at + 1]]
        ids = []
        for part in parts:
            known = [self.id[part]] if part in self.rank else [3 + byte for byte in part.encode()]
            ids += known
        return ids

    def write(self, writer):
        kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
        kinds += [gguf.TokenType.USER_DEFINED] + [gguf.TokenType.NORMAL] * (len(self.tokens) - 260)
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list(self.tokens)
        writer.add_token_scores(self.scores)
        writer.add_token_types(kinds)
        writer.add_unk_token_id(0)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)


CASES = [
    SimpleNamespace(name="f32", kind=Kind.F32, tokenizer=lambda: SentencePiece(), heads=4, keys=4, tied=False),
    SimpleNamespace(name="f16", kind=Kind.F16, tokenizer=lambda: ByteLevel("gpt-2", False), heads=4, keys=2, tied=True),
    SimpleNamespace(name="bf16", kind=Kind.BF16, tokenizer=lambda: ByteLevel("llama-bpe", True), heads=2, keys=1,
                    tied=True, llama3=True),
    SimpleNamespace(name="q8_0", kind=Kind.Q8_0, tokenizer=lambda: ByteLevel("qwen2", False), heads=4, keys=1,
                    tied=False, linear=4.0),
    SimpleNamespace(name="q4_0", kind=Kind.Q4_0, tokenizer=lambda: ByteLevel("tekken", True), heads=4, keys=2,
                    tied=False, embedding=Kind.Q8_0, alignment=64),
    SimpleNamespace(name="q4_1", kind=Kind.Q4_1, tokenizer=lambda: ByteLevel("smollm", False), heads=4, keys=2,
                    tied=True, embedding=Kind.Q8_0, template=TEMPLATE),
]
OUTSIDE = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
           "lm_head.weight": "output.weight"}
INSIDE = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
          "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
          "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def their_name(name):
    if name in OUTSIDE:
        return OUTSIDE[name]
    _, _, block, rest = name.split(".", 3)
    part, leaf = rest.rsplit(".", 1)
    return f"blk.{block}.{INSIDE[part]}.{leaf}"


def in_pairs(rows, heads):
    """convert_hf_to_gguf.py's `permute`."""
    return rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def config(case, vocabulary):
    rope = {"rope_type": "default", "rope_theta": 500.0}
    if getattr(case, "llama3", False):
        rope |= {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                 "original_max_position_embeddings": 32}
    if hasattr(case, "linear"):
        rope |= {"rope_type": "linear", "factor": case.linear}
    return LlamaConfig(vocab_size=vocabulary, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                       num_attention_heads=case.heads, num_key_value_heads=case.keys, max_position_embeddings=64,
                       rms_norm_eps=1e-5, rope_parameters=rope, tie_word_embeddings=case.tied, bos_token_id=0,
                       eos_token_id=1, pad_token_id=None)


def factors(config):
    """convert_hf_to_gguf.py's rope_freqs for Llama 3."""
    rope, width = config.rope_parameters, config.hidden_size // config.num_attention_heads
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    context, result = rope["original_max_position_embeddings"], []
    for freq in 1.0 / (rope["rope_theta"] ** (torch.arange(0, width, 2, dtype=torch.float32) / width)):
        wave = 2 * np.pi / float(freq)
        smooth = (context / wave - low) / (high - low)
        blended = 1 / ((1 - smooth) / rope["factor"] + smooth)
        result.append(1 if wave < context / high else rope["factor"] if wave > context / low else blended)
    return np.array(result, dtype=np.float32)


def write(case, path, model, tokenizer):
    """The file; returns each tensor as it can be read back."""
    writer = gguf.GGUFWriter(path, "llama")
    if hasattr(case, "alignment"):
        writer.add_custom_alignment(case.alignment)
    setup = model.config
    writer.add_block_count(setup.num_hidden_layers)
    writer.add_context_length(setup.max_position_embeddings)
    writer.add_embedding_length(setup.hidden_size)
    writer.add_feed_forward_length(setup.intermediate_size)
    writer.add_head_count(case.heads)
    writer.add_head_count_kv(case.keys)
    writer.add_layer_norm_rms_eps(setup.rms_norm_eps)
    writer.add_rope_freq_base(setup.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(setup.hidden_size // case.heads)
    writer.add_vocab_size(setup.vocab_size)
    if hasattr(case, "linear"):
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(case.linear)
    tokenizer.write(writer)
    if hasattr(case, "template"):
        writer.add_chat_template(case.template)
    read = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and case.tied:
            continue
        values, kind = tensor.numpy(), case.kind if tensor.dim() == 2 else Kind.F32
        if name in ("model.embed_tokens.weight", "lm_head.weight"):
            kind = getattr(case, "embedding", kind)
        data = gguf.quantize(values, kind)
        read[name] = gguf.dequantize(data, kind).reshape(values.shape).astype(np.float32)
        for part, heads in (("q_proj", case.heads), ("k_proj", case.keys)):
            if part in name:
                data = in_pairs(data, heads)
        writer.add_tensor(their_name(name), data, raw_dtype=kind)
    if getattr(case, "llama3", False):
        writer.add_tensor("rope_freqs.weight", factors(setup))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return read


def make(number, case):
    tokenizer = case.tokenizer()
    setup = config(case, len(tokenizer.tokens))
    model = LlamaForCausalLM(copy.deepcopy(setup)).eval()
    modelfiles.randomize(model, 100 + number)
    path = DATA / f"{case.name}.gguf"
    read = write(case, path, model, tokenizer)
    with torch.device("meta"):
        empty = LlamaForCausalLM(copy.deepcopy(setup))
    theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=empty)["tensors"]
    for name, values in read.items():
        assert np.array_equal(theirs[name].float().numpy(), values), (case.name, name)
    weights = {name: torch.from_numpy(values) for name, values in read.items()}
    left = model.load_state_dict(weights, strict=False)
    assert not left.unexpected_keys and left.missing_keys in ([], ["lm_head.weight"]), left
    model.tie_weights()
    examples = []
    for line in VALID.read_text(encoding="utf-8").splitlines():
        ids = tokenizer.encode(json.loads(line)["text"])
        examples.append(Example(ids + [tokenizer.eos], 1))

    def loss_sum(batch):
        return training.token_loss_sum(training.forward(model, batch), batch)

    result = training.evaluate(loss_sum, examples, SimpleNamespace(batch=4, seq_len=SEQ_LEN))
    hashes = {name: hashlib.sha256(values.astype("<f4").tobytes()).hexdigest() for name, values in read.items()}
    return result | {"ids": [tokenizer.encode(text) for text in TEXTS], "end": tokenizer.eos, "tensors": hashes}


def write_tiny(name, add_tokenizer):
    """Files that are nearly all header, for readers of damaged ones to begin from."""
    writer = gguf.GGUFWriter(DATA / f"{name}.gguf", "llama")
    for add in (writer.add_block_count, writer.add_head_count):
        add(1)
    for add in (writer.add_embedding_length, writer.add_feed_forward_length, writer.add_rope_dimension_count):
        add(4)
    writer.add_layer_norm_rms_eps(1e-5)
    tokens = add_tokenizer(writer)
    writer.add_token_list(tokens)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), 4), np.float16))
    writer.add_tensor("output_norm.weight", np.ones(4, np.float32))
    for part in INSIDE.values():
        shape = 4 if part.endswith("norm") else (4, 4)
        writer.add_tensor(f"blk.0.{part}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tiny_bytes(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_merges(["a b", "Ġ ab"])
    writer.add_token_types([2, 3, 3, 4, 1, 1, 1, 1, 1])
    return ["<unk>", "<s>", "</s>", "<x>", "a", "b", "Ġ", "ab", "Ġab"]


def tiny_pieces(writer):
    writer.add_tokenizer_model("llama")
    writer.add_token_types([2, 3, 3, 6, 4, 1, 1, 1, 1])
    writer.add_token_scores([0.0, 0.0, 0.0, 0.0, 0.0, -1.0, -2.0, -3.0, -4.0])
    writer.add_add_space_prefix(True)
    writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.0)
    return ["<unk>", "<s>", "</s>", "<0x0A>", "<x>", "ab", "a", "b", "▁"]


def main():
    torch.set_num_threads(1)
    DATA.mkdir(parents=True, exist_ok=True)
    versions = {"gguf": metadata.version("gguf"), "torch": torch.__version__.split("+")[0], "transformers": transformers.__version__}
    files = {case.name: make(number, case) for number, case in enumerate(CASES)}
    write_tiny("tiny-bytes", tiny_bytes)
    write_tiny("tiny-pieces", tiny_pieces)
    # Version 2 differs from 3 in nothing but the number.
    content = bytearray((DATA / "q4_0.gguf").read_bytes())
    content[4] = 2
    (DATA / "q4_0.gguf").write_bytes(content)
    modelfiles.write_json(DATA / "expected.json", {"versions": versions, "seq_len": SEQ_LEN, "texts": TEXTS, "files": files})


if __name__ == "__main__":
    main()
