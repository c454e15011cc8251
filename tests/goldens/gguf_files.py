"""Write data/gguf: small Llamas as GGUF files of every kind that is read, and what transformers and gguf make of them.

    python gguf_files.py

Needs `gguf` and `sentencepiece` besides the other requirements. The files are written with llama.cpp's own Python
package, rows of q and k in llama.cpp's order. The losses are those of the dequantized model in transformers. Where
transformers reads the file itself, that model must be the same bit for bit.
"""

import io
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
sys.dont_write_bytecode = True

import gguf
import numpy as np
import sentencepiece
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import corpus
import modelfiles
import training
from cases import common, rope
from texts import EOS, build_tokenizer, make_batch, read_examples

FOLDER = Path(__file__).resolve().parent / "data" / "gguf"
TEXT = FOLDER.parent / "text"
SEQ_LEN = 32

# Whatever cutting, normalizing and bytes may trip over.
TEXTS = [
    *corpus.VALID, "", " ", "   three spaces before, two after  ", "line\n\n\nline\r\n\tindented\n", "3.14159 and 1234567",
    "It's we'll THEY'RE don't", "naïve Ångström e\u0301 fi ﬁ", "日本語のテキスト、中文。", "🦀🏳️‍🌈 emoji", "a</s>b <s> c",
    "\u00a0no-break\u200bzero-width", "\u2581 is SentencePiece's space", "🜁 unheard of \ue000 \x00 \x7f",
]

LLAMA3_SCALING = rope(500.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                      original_max_position_embeddings=32)
CASES = {
    "f32": (Kind.F32, dict(rope_parameters=LLAMA3_SCALING, num_key_value_heads=2)),
    "f16": (Kind.F16, dict(num_key_value_heads=2, tie_word_embeddings=True)),
    "bf16": (Kind.BF16, dict(num_key_value_heads=4, attention_bias=True)),
    "q8_0": (Kind.Q8_0, dict(num_key_value_heads=1, head_dim=12, tie_word_embeddings=True)),
    "q4_0": (Kind.Q4_0, dict(num_key_value_heads=2)),
    "q4_1": (Kind.Q4_1, dict(num_key_value_heads=2, rope_parameters=rope(1000.0, rope_type="linear", factor=2.0))),
}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def llama_name(name):
    module, leaf = name.rsplit(".", 1)
    if module.startswith("model.layers."):
        _, _, layer, part = module.split(".", 3)
        return f"blk.{layer}.{NAMES[part]}.{leaf}"
    return f"{NAMES[module]}.{leaf}"


def llama_order(name, tensor, config):
    """llama.cpp turns neighbouring channels, transformers those half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return tensor
    return tensor.reshape(heads, 2, -1, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)


def write_sizes(writer, config):
    head = config.head_dim
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if head * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head)
        writer.add_value_length(head)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def frequency_factors(config):
    """What llama.cpp's converter writes for Llama 3's scaling: unscaled over scaled frequencies."""
    scaled, _ = transformers.modeling_rope_utils.ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    theta = config.rope_parameters["rope_theta"]
    plain = 1.0 / theta ** (torch.arange(0, config.head_dim, 2).float() / config.head_dim)
    return (plain / scaled).numpy()


def write_tokenizer(writer, tokenizer):
    description = json.loads(tokenizer.to_str())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.token_to_id)
    special = {token["content"] for token in description["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in description["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in special else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)


def write_case(name, kind, config, tokenizer):
    """The GGUF file, and the model that it stands for as transformers has it."""
    model = LlamaForCausalLM(config).eval()
    modelfiles.randomize(model, 400 + len(name) + int(kind))
    writer = gguf.GGUFWriter(FOLDER / f"{name}.gguf", "llama")
    write_sizes(writer, config)
    write_tokenizer(writer, tokenizer)
    with torch.no_grad():
        for full, parameter in model.named_parameters():
            rows = llama_order(full, parameter.numpy(), config)
            fits = rows.ndim == 2 and rows.shape[1] % 32 == 0
            used = kind if fits or (rows.ndim == 2 and kind in (Kind.F16, Kind.BF16)) else Kind.F32
            data = gguf.quantize(np.ascontiguousarray(rows), used)
            writer.add_tensor(llama_name(full), data, raw_dtype=used)
            values = gguf.dequantize(data, used)
            back = np.empty_like(rows)
            order = llama_order(full, np.arange(len(rows)), config)
            back[order] = values.reshape(rows.shape)
            parameter.copy_(torch.from_numpy(back))
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", frequency_factors(config).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def loss(model, examples):
    total = tokens = 0
    for example in examples:
        batch = make_batch([example], SEQ_LEN)
        with torch.no_grad():
            total += training.token_loss_sum(training.forward(model, batch), batch).item()
        tokens += batch.tokens
    return {"loss": total / tokens, "tokens": tokens}


def same_in_transformers(name, model):
    """Whether transformers' own reader gives this model; it leaves out Llama 3's scaling, biases and head sizes."""
    other = AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file=f"{name}.gguf", dtype=torch.float32)
    ours = dict(model.named_parameters())
    for full, parameter in other.named_parameters():
        assert torch.equal(parameter, ours[full]), (name, full)


def sentence_piece():
    """A SentencePiece vocabulary like Llama 2's, its GGUF file without a usable model, and its ids."""
    with tempfile.TemporaryDirectory() as scratch:
        text = Path(scratch) / "text"
        text.write_text("\n".join(corpus.TOKENIZER), encoding="utf-8")
        trained = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            input=str(text), model_writer=trained, model_type="bpe", vocab_size=420, byte_fallback=True,
            character_coverage=0.9995, split_digits=True, normalization_rule_name="identity", remove_extra_whitespaces=False,
            add_dummy_prefix=True, allow_whitespace_only_pieces=True, minloglevel=2, num_threads=1)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    config = LlamaConfig(**common(hidden_size=32, intermediate_size=32, num_hidden_layers=1, vocab_size=len(pieces)))
    writer = gguf.GGUFWriter(FOLDER / "sentencepiece.gguf", "llama")
    write_sizes(writer, config)
    count = range(len(pieces))
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([pieces.id_to_piece(id) for id in count])
    writer.add_token_scores([pieces.get_score(id) for id in count])
    kind = lambda id: (gguf.TokenType.UNKNOWN if pieces.is_unknown(id) else gguf.TokenType.CONTROL if pieces.is_control(id)
                       else gguf.TokenType.BYTE if pieces.is_byte(id) else gguf.TokenType.NORMAL)
    writer.add_token_types([kind(id) for id in count])
    writer.add_bos_token_id(pieces.bos_id())
    writer.add_eos_token_id(pieces.eos_id())
    writer.add_unk_token_id(pieces.unk_id())
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(False)
    model = LlamaForCausalLM(config)
    modelfiles.randomize(model, 500)
    for full, parameter in model.named_parameters():
        rows = llama_order(full, parameter.detach().numpy(), config)
        kind_of = Kind.Q4_0 if rows.ndim == 2 else Kind.F32
        writer.add_tensor(llama_name(full), gguf.quantize(np.ascontiguousarray(rows), kind_of), raw_dtype=kind_of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # SentencePiece takes no special token out of a text; every program that finds them first does.
    texts = [text for text in TEXTS if "</s>" not in text]
    return [{"text": text, "ids": [pieces.bos_id(), *pieces.encode(text)]} for text in texts]


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    tokenizer = build_tokenizer("bos")
    examples = read_examples(tokenizer, TEXT / "valid.jsonl", tokenizer.token_to_id(EOS))
    losses = {}
    for name, (kind, options) in CASES.items():
        parameters = dict(rope_parameters=rope(10000.0), rms_norm_eps=1e-5, intermediate_size=64, head_dim=8) | options
        model = write_case(name, kind, LlamaConfig(**common(**parameters)), tokenizer)
        losses[name] = loss(model, examples)
        if name in ("q4_0", "f16"):
            same_in_transformers(name, model)
        print(name, losses[name])
    versions = {"torch": torch.__version__.split("+")[0], "transformers": transformers.__version__,
                "gguf": __import__("importlib.metadata").metadata.version("gguf"), "sentencepiece": sentencepiece.__version__}
    encoded = [{"text": text, "ids": tokenizer.encode(text).ids} for text in TEXTS]
    modelfiles.write_json(FOLDER / "expected.json", {
        "versions": versions, "seq_len": SEQ_LEN, "losses": losses,
        "encoded": {"f32": encoded, "sentencepiece": sentence_piece()},
    }, indent=1)


if __name__ == "__main__":
    main()
