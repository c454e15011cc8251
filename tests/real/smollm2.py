"""Makes a Hugging Face folder of SmolLM2's GGUF: weights in bf16, tokenizer, configuration.

    python smollm2.py MODEL.gguf FOLDER

GGUF keeps a Llama under names and in an order of its own. Three things must be turned back:
the quantized blocks into numbers, the rows of the query and key projections (which stand interleaved, pair by
pair, for llama.cpp's rotary embedding) into the two halves that Hugging Face rotates, and the tokenizer's lists
into a tokenizer.json. Needs the packages of requirements.txt.
"""

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
from gguf import GGUFReader, dequantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

OUTSIDE_BLOCKS = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
INSIDE_BLOCKS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
CONTROL_TOKEN = 3  # GGUF's token type for special tokens


class Gguf:
    """The file's metadata by key, those of the architecture by their short names."""

    def __init__(self, path: Path):
        self.reader = GGUFReader(path)
        self.values = {key: field.contents() for key, field in self.reader.fields.items()}
        for key, expected in {
            "general.architecture": "llama",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
        }.items():
            if self.values.get(key) != expected:
                sys.exit(f"{path}: {key} is {self.values.get(key)!r}; only {expected!r} can be converted")

    def model(self, key: str):
        return self.values[f"llama.{key}"]

    def tokenizer(self, key: str):
        return self.values.get(f"tokenizer.ggml.{key}")


def halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """[heads * head_dim, in], rows in pairs (x0 y0 x1 y1 ...) -> the same with each head as (x0 x1 ... y0 y1 ...)."""
    out, width = rows.shape
    pairs = rows.reshape(heads, out // heads // 2, 2, width)
    return pairs.transpose(0, 2, 1, 3).reshape(out, width)


def weights(gguf: Gguf) -> dict[str, np.ndarray]:
    heads = {"attn_q": gguf.model("attention.head_count"), "attn_k": gguf.model("attention.head_count_kv")}
    found = {}
    for tensor in gguf.reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = dequantize(tensor.data, tensor.tensor_type).reshape(shape).astype(np.float32)
        if tensor.name in OUTSIDE_BLOCKS:
            found[OUTSIDE_BLOCKS[tensor.name]] = values
            continue
        match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor.name)
        if not match or match[2] not in INSIDE_BLOCKS:
            sys.exit(f"tensor {tensor.name} has no counterpart in a Hugging Face Llama")
        if match[2] in heads:
            values = halves(values, heads[match[2]])
        found[f"model.layers.{match[1]}.{INSIDE_BLOCKS[match[2]]}.weight"] = values
    return found


def bf16(values: np.ndarray) -> bytes:
    """f32 rounded to the nearest bf16, ties to even; weights hold no NaN, so the carry cannot make one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + (np.uint32(0x7FFF) + odd)) >> 16).astype("<u2").tobytes()


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        start, end = end, end + 2 * tensors[name].size
        header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(bf16(tensors[name]))


def special_tokens(gguf: Gguf) -> dict[int, str]:
    kinds = gguf.tokenizer("token_type")
    return {i: token for i, token in enumerate(gguf.tokenizer("tokens")) if kinds[i] == CONTROL_TOKEN}


def tokenizer(gguf: Gguf) -> Tokenizer:
    vocabulary = {token: i for i, token in enumerate(gguf.tokenizer("tokens"))}
    merges = [tuple(merge.split(" ")) for merge in gguf.tokenizer("merges")]
    made = Tokenizer(models.BPE(vocabulary, merges))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in special_tokens(gguf).values()]
    )
    if made.get_vocab_size() != len(vocabulary):
        sys.exit(f"the tokenizer has {made.get_vocab_size()} tokens, the model {len(vocabulary)}")
    return made


def token_ids(gguf: Gguf) -> dict[str, int]:
    return {f"{role}_token_id": gguf.tokenizer(f"{role}_token_id") for role in ("bos", "eos")} | {
        "pad_token_id": gguf.tokenizer("padding_token_id")
    }


def config(gguf: Gguf, tied: bool) -> dict:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": gguf.model("embedding_length"),
        "intermediate_size": gguf.model("feed_forward_length"),
        "num_hidden_layers": gguf.model("block_count"),
        "num_attention_heads": gguf.model("attention.head_count"),
        "num_key_value_heads": gguf.model("attention.head_count_kv"),
        "head_dim": gguf.model("rope.dimension_count"),
        "max_position_embeddings": gguf.model("context_length"),
        # Stored as f32: 1e-5 comes out as 9.999999747378752e-06.
        "rms_norm_eps": float(f"{gguf.model('attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": gguf.model("rope.freq_base"),
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "vocab_size": len(gguf.tokenizer("tokens")),
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        **token_ids(gguf),
    }


def tokenizer_config(gguf: Gguf) -> dict:
    tokens = gguf.tokenizer("tokens")
    plain = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(gguf.tokenizer("add_bos_token")),
        "added_tokens_decoder": {str(i): {"content": t, **plain} for i, t in special_tokens(gguf).items()},
        "bos_token": tokens[gguf.tokenizer("bos_token_id")],
        "eos_token": tokens[gguf.tokenizer("eos_token_id")],
        "unk_token": tokens[gguf.tokenizer("unknown_token_id")],
        "pad_token": tokens[gguf.tokenizer("padding_token_id")],
        "chat_template": gguf.values["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
        "model_max_length": gguf.model("context_length"),
    }


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    gguf, folder = Gguf(Path(sys.argv[1])), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    tensors = weights(gguf)
    write_safetensors(folder / "model.safetensors", tensors)
    tokenizer(gguf).save(str(folder / "tokenizer.json"))
    for name, value in {
        "config.json": config(gguf, tied="lm_head.weight" not in tensors),
        "generation_config.json": token_ids(gguf),
        "tokenizer_config.json": tokenizer_config(gguf),
    }.items():
        (folder / name).write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{folder}: {len(tensors)} tensors, {sum(t.size for t in tensors.values())} parameters")


if __name__ == "__main__":
    main()
