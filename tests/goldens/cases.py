"""The model cases: which architecture, which files, which runs."""

from dataclasses import dataclass, field

from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from texts import VOCAB_SIZE

HIDDEN, LAYERS, HEADS = 32, 2, 4
LLAMA_ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
GPT2_ATTENTION = ["attn.c_attn", "attn.c_proj"]


@dataclass
class Run:
    """One training run; the field names are the command line's flags."""

    name: str
    method: str = "full"
    targets: str | None = None
    """`all-linear`, `attention`, or the names of layers, separated by commas."""
    data: str = "train.jsonl"
    rank: int = 4
    alpha: int = 8
    lr: float = 1e-2
    schedule: str = "constant"
    warmup: int = 0
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    clip: float = 1.0
    batch: int = 4
    seq_len: int = 32
    steps: int = 12
    bf16: bool = False


FULL = Run("full-constant", lr=2e-3)
FULL_LINEAR = Run("full-linear", lr=3e-3, schedule="linear", warmup=3, weight_decay=0.1, clip=0.5, batch=3)
FULL_COSINE = Run("full-cosine", lr=3e-3, schedule="cosine", warmup=2, weight_decay=0.0, clip=0.0, seq_len=20,
                  beta1=0.8, beta2=0.95, eps=1e-6)
FULL_COMPLETION = Run("full-completion", lr=2e-3, data="completion.jsonl", batch=3)
LORA = Run("lora-all-linear", "lora", "all-linear")
LORA_ATTENTION = Run("lora-attention", "lora", "attention", rank=3, alpha=12, schedule="cosine", warmup=2, clip=0.5)
LORA_NAMES = Run("lora-names", "lora", "q_proj,down_proj", rank=2, alpha=3, weight_decay=0.1)
LORA_COMPLETION = Run("lora-completion", "lora", "all-linear", data="completion.jsonl", schedule="linear", batch=3)
FULL_BF16 = Run("full-bf16", lr=2e-3, bf16=True)
LORA_BF16 = Run("lora-bf16", "lora", "all-linear", bf16=True)

EVERY = [FULL, FULL_LINEAR, FULL_COSINE, FULL_COMPLETION, LORA, LORA_ATTENTION, LORA_COMPLETION, FULL_BF16, LORA_BF16]
SHORT = [FULL, LORA]


@dataclass
class Case:
    name: str
    seed: int
    family: type
    config: object
    tokenizer: str = "plain"
    runs: list = field(default_factory=lambda: list(SHORT))
    dtype: str = "float32"
    old_config_drops: tuple = ()
    """Keys that the old spelling of this case's config leaves out, for their default."""
    old_config_main: bool = False
    """True: config.json is the old spelling and config.v5.json the new one."""
    gradients: bool = True


def common(**more):
    return dict(
        vocab_size=VOCAB_SIZE, hidden_size=HIDDEN, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=None,
    ) | more


def rope(theta, **more):
    return {"rope_type": "default", "rope_theta": theta} | more


LLAMA3_ROPE = rope(
    500.0, rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def gpt2_config(**more):
    return GPT2Config(
        vocab_size=VOCAB_SIZE, n_positions=64, n_embd=HIDDEN, n_layer=LAYERS, n_head=HEADS,
        bos_token_id=1, eos_token_id=1, **more,
    )


def llama3_config():
    return LlamaConfig(**common(
        num_key_value_heads=2, tie_word_embeddings=True, rms_norm_eps=1e-5, rope_parameters=LLAMA3_ROPE,
        eos_token_id=[1, 2],
    ))


def build_cases():
    llama2 = LlamaConfig(**common(num_key_value_heads=HEADS, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)))
    llama1 = LlamaConfig(**common(rms_norm_eps=1e-6, rope_parameters=rope(10000.0)))
    biased = LlamaConfig(**common(
        num_key_value_heads=1, head_dim=12, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-5,
        rope_parameters=rope(1000.0), tie_word_embeddings=True,
    ))
    mistral = dict(num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=rope(10000.0))
    small = LlamaConfig(**common(num_key_value_heads=2, rms_norm_eps=1e-5, rope_parameters=rope(10000.0)))
    options = gpt2_config(
        n_inner=40, activation_function="gelu", scale_attn_by_inverse_layer_idx=True, tie_word_embeddings=False,
        layer_norm_epsilon=1e-3,
    )
    return [
        Case("gpt2", 11, GPT2LMHeadModel, gpt2_config(), runs=EVERY),
        Case("gpt2-options", 20, GPT2LMHeadModel, options),
        Case("llama3", 12, LlamaForCausalLM, llama3_config(), tokenizer="bos", runs=EVERY),
        Case("llama2", 13, LlamaForCausalLM, llama2, tokenizer="bos", runs=SHORT + [FULL_LINEAR, LORA_ATTENTION, LORA_NAMES]),
        Case("llama1", 14, LlamaForCausalLM, llama1, old_config_main=True,
             old_config_drops=("rope_theta", "head_dim", "num_key_value_heads", "attention_bias", "mlp_bias")),
        Case("llama-bias-head-dim", 25, LlamaForCausalLM, biased, runs=SHORT),
        Case("mistral", 16, MistralForCausalLM, MistralConfig(**common(sliding_window=8, **mistral)),
             tokenizer="bos", runs=SHORT + [LORA_COMPLETION]),
        Case("mistral-no-window", 17, MistralForCausalLM, MistralConfig(**common(sliding_window=None, **mistral)),
             tokenizer="bos-eos"),
        Case("llama-bf16-file", 18, LlamaForCausalLM, small, tokenizer="bos", dtype="bfloat16"),
        Case("llama-f16-file", 19, LlamaForCausalLM, small, dtype="float16", runs=[], gradients=False),
    ]
