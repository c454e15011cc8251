"""GPT-2 and Llama written out, with every place where a bf16 run rounds made a call.

`rounding` decides what a rounding does (see mixed.py):
  activation(x)    a result stored as an activation; its gradient is stored, too
  passed(x)        a value read by one of several ops: only the gradient that op sends back is rounded
  weight(name, w)  a weight on its way into a product, or held in bf16
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F


@dataclass
class Weights:
    """f32 tensors by their names in the model's file, and LoRA factors by module name."""

    tensors: dict
    config: object
    inv_freq: torch.Tensor | None = None
    frozen: bool = False
    scale: float = 0.0
    lora: dict = field(default_factory=dict)
    """module name -> (A [r, in], B [out, r])"""


def linear(weights, rounding, name, x):
    """A layer of a model, Conv1D ([in, out]) for GPT-2, with its bias and its adapter."""
    weight = rounding.weight(f"{name}.weight", weights.tensors[f"{name}.weight"])
    if weights.config.model_type == "gpt2":
        weight = weight.T
    y = rounding.activation(rounding.passed(x) @ weight.T)
    bias = weights.tensors.get(f"{name}.bias")
    if bias is not None:
        y = rounding.activation(y + rounding.weight(f"{name}.bias", bias))
    if name in weights.lora:
        a, b = (rounding.weight(f"{name}.{which}", w) for which, w in zip("AB", weights.lora[name]))
        low = rounding.activation(rounding.passed(x) @ a.T)
        wide = rounding.activation(low @ b.T)
        y = rounding.activation(y + rounding.activation(weights.scale * wide))
    return y


def norm_parameter(weights, rounding, name):
    """Trained norm weights are used as the f32 they are; frozen ones are held in bf16."""
    value = weights.tensors[name]
    return rounding.weight(name, value) if weights.frozen else value


def attend(rounding, q, k, v, mask):
    """q [B, T, H, D], k and v [B, T, G, D]; f32 inside, rounded once."""
    repeat = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeat, 2), v.repeat_interleave(repeat, 2)
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    length = q.shape[1]
    seen = torch.ones(length, length, dtype=torch.bool).tril() & (mask[:, None, None, :] > 0)
    # Right padding: a row that is all padding still sees its first token, so no row is empty.
    probabilities = scores.masked_fill(~seen, float("-inf")).softmax(-1)
    return rounding.activation(torch.einsum("bhts,bshd->bthd", probabilities, v)).flatten(2)


def gpt2(weights, rounding, batch):
    config, prefix = weights.config, "transformer."
    heads, length = config.n_head, batch.input_ids.shape[1]

    def norm(name, x):
        scale, shift = (norm_parameter(weights, rounding, f"{name}.{which}") for which in ("weight", "bias"))
        return rounding.activation(F.layer_norm(rounding.passed(x), x.shape[-1:], scale, shift, config.layer_norm_epsilon))

    table = rounding.weight(f"{prefix}wte.weight", weights.tensors[f"{prefix}wte.weight"])
    places = rounding.weight(f"{prefix}wpe.weight", weights.tensors[f"{prefix}wpe.weight"])
    x = rounding.activation(table[batch.input_ids] + places[:length])
    for layer in range(config.n_layer):
        block = f"{prefix}h.{layer}"
        qkv = linear(weights, rounding, f"{block}.attn.c_attn", norm(f"{block}.ln_1", x))
        q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, -1))
        out = linear(weights, rounding, f"{block}.attn.c_proj", attend(rounding, q, k, v, batch.mask))
        x = rounding.activation(x + out)
        up = linear(weights, rounding, f"{block}.mlp.c_fc", norm(f"{block}.ln_2", x))
        up = rounding.activation(F.gelu(up, approximate="tanh"))
        x = rounding.activation(x + linear(weights, rounding, f"{block}.mlp.c_proj", up))
    return norm(f"{prefix}ln_f", x) @ table.T


def rotated(x, angles):
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos()[None, :, None, :], angles.sin()[None, :, None, :]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def llama(weights, rounding, batch):
    config = weights.config
    angles = torch.arange(batch.input_ids.shape[1])[:, None].float() * weights.inv_freq

    def norm(name, x):
        y = rounding.passed(x)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps)
        return rounding.activation(y * norm_parameter(weights, rounding, f"{name}.weight"))

    def projected(name, x, heads):
        return linear(weights, rounding, name, x).unflatten(-1, (heads, config.head_dim))

    table = rounding.weight("model.embed_tokens.weight", weights.tensors["model.embed_tokens.weight"])
    x = rounding.activation(table[batch.input_ids])
    for layer in range(config.num_hidden_layers):
        block = f"model.layers.{layer}"
        y = norm(f"{block}.input_layernorm", x)
        q = projected(f"{block}.self_attn.q_proj", y, config.num_attention_heads)
        k = projected(f"{block}.self_attn.k_proj", y, config.num_key_value_heads)
        v = projected(f"{block}.self_attn.v_proj", y, config.num_key_value_heads)
        q, k = (rounding.activation(rotated(part, angles)) for part in (q, k))
        out = linear(weights, rounding, f"{block}.self_attn.o_proj", attend(rounding, q, k, v, batch.mask))
        x = rounding.activation(x + out)
        y = norm(f"{block}.post_attention_layernorm", x)
        gate = linear(weights, rounding, f"{block}.mlp.gate_proj", y)
        up = linear(weights, rounding, f"{block}.mlp.up_proj", y)
        gated = rounding.activation(F.silu(gate) * up)
        x = rounding.activation(x + linear(weights, rounding, f"{block}.mlp.down_proj", gated))
    x = norm("model.norm", x)
    head = table if config.tie_word_embeddings else rounding.weight("lm_head.weight", weights.tensors["lm_head.weight"])
    return x @ head.T
