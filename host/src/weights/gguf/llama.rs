//! A GGUF file of the architecture llama as a Hugging Face model: its config, and its tensors under their names.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};

use crate::weights::tensors::{Place, RowOrder};

use super::header::{Header, Tensor};
use super::kind::READ;
use super::{metadata::Metadata, rope};

const ARCHITECTURE: &str = "general.architecture";
const EMBEDDING: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
const FREQUENCY_FACTORS: &str = "rope_freqs.weight";

/// Tensors outside of blocks.
const OUTSIDE: [(&str, &str); 3] = [
    (EMBEDDING, "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    (HEAD, "lm_head.weight"),
];

/// Tensors of a block, without `.weight` or `.bias`.
const IN_BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Keys below these that are not listed change what the model computes in a way that is not known here.
const MEANINGFUL: [&str; 2] = ["llama.attention.", "llama.rope."];
const KNOWN: [&str; 14] = [
    "llama.attention.head_count",
    "llama.attention.head_count_kv",
    "llama.attention.layer_norm_rms_epsilon",
    // Of norms that a Llama does not have.
    "llama.attention.layer_norm_epsilon",
    "llama.attention.key_length",
    "llama.attention.value_length",
    "llama.attention.causal",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scale_linear",
    "llama.rope.scaling.type",
    "llama.rope.scaling.factor",
    "llama.rope.scaling.original_context_length",
    // Says how the model was made, not what it computes.
    "llama.rope.scaling.finetuned",
];

/// The model's sizes, as far as the layout of its tensors depends on them.
struct Sizes {
    heads: usize,
    key_heads: usize,
    head_channels: usize,
}

type Config = Map<String, Json>;
type Places = BTreeMap<String, Place>;

/// The config, and where each tensor is, under Hugging Face's names. Tensors without a counterpart keep theirs.
///
/// # Errors
/// A sentence for another architecture, for what a Llama cannot do, for kinds of tensors that are not read, and
/// for sizes that contradict each other.
pub(super) fn model(header: &Header, file: &[u8]) -> Result<(Config, Places), String> {
    let metadata = &header.metadata;
    check_supported(metadata)?;
    let embedding = header
        .tensors
        .get(EMBEDDING)
        .filter(|tensor| tensor.shape.len() == 2)
        .ok_or_else(|| format!("it has no matrix {EMBEDDING}, so it is no whole model"))?;
    check_vocabulary(metadata, embedding.shape[0])?;
    let sizes = sizes(metadata)?;
    let mut places = BTreeMap::new();
    for (name, tensor) in &header.tensors {
        let Some((known, order)) = counterpart(name, &sizes) else {
            keep_unknown(&mut places, name, tensor)?;
            continue;
        };
        if places.insert(known.clone(), place(name, tensor, order)?).is_some() {
            return Err(format!("it has a tensor {known} besides {name}, which is the same"));
        }
    }
    let config = config(header, &sizes, embedding, &places, file)?;
    Ok((config, places))
}

fn check_supported(metadata: &Metadata) -> Result<(), String> {
    match metadata.text(ARCHITECTURE)? {
        Some("llama") => {}
        Some(other) => {
            return Err(format!(
                "its architecture is {other:?}; of GGUF files, those of the architecture \"llama\" are read. Give \
                 the model's Hugging Face folder instead"
            ));
        }
        None => return Err(format!("{ARCHITECTURE} is missing; it is no whole model")),
    }
    if let Some(parts @ 2..) = metadata.whole("split.count")? {
        return Err(format!(
            "it is one of {parts} parts of a model; put them together with llama.cpp (`llama-gguf-split --merge \
             FIRST-PART.gguf WHOLE.gguf`) and give the whole file"
        ));
    }
    if metadata.text("general.type")? == Some("adapter") {
        return Err("it is an adapter, not a model; give its base model as the model".into());
    }
    if let Some(experts @ 1..) = metadata.whole("llama.expert_count")? {
        return Err(format!("it has {experts} experts a layer; mixtures of experts are not supported"));
    }
    if metadata.flag("llama.attention.causal")? == Some(false) {
        return Err("its attention is not causal (llama.attention.causal), so it is no language model".into());
    }
    let unknown = |key: &&str| MEANINGFUL.iter().any(|start| key.starts_with(start)) && !KNOWN.contains(key);
    match metadata.keys().find(unknown) {
        Some(key) => Err(format!(
            "it has the key {key}, which is not known here and may change what the model computes"
        )),
        None => Ok(()),
    }
}

/// One row of the embedding for every token, as llama.cpp asks for, too.
fn check_vocabulary(metadata: &Metadata, rows: usize) -> Result<(), String> {
    let tokens = metadata.texts("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64);
    let said = metadata.whole("llama.vocab_size")?;
    for (key, count) in [("tokenizer.ggml.tokens", tokens), ("llama.vocab_size", said)] {
        if let Some(count) = count.filter(|&count| count != rows as u64) {
            return Err(format!(
                "{key} says that there are {count} tokens, and {EMBEDDING} has {rows} rows; the file was put together \
                 wrongly"
            ));
        }
    }
    Ok(())
}

fn sizes(metadata: &Metadata) -> Result<Sizes, String> {
    let size = |key: &str| -> Result<usize, String> {
        let value = metadata.required_whole(key)?;
        match value {
            1..=0x8000_0000 => Ok(value as usize),
            _ => Err(format!("{key} is {value}; expected a whole number from 1 to 2^31")),
        }
    };
    let optional = |key: &str| metadata.get(key).map(|_| size(key)).transpose();
    let heads = size("llama.attention.head_count")?;
    let key_heads = optional("llama.attention.head_count_kv")?.unwrap_or(heads);
    let channels = size("llama.embedding_length")?;
    let key = "llama.attention.key_length";
    let head_channels = match optional(key)? {
        Some(head_channels) => head_channels,
        None if channels.is_multiple_of(heads) => channels / heads,
        None => {
            return Err(format!(
                "{channels} channels cannot be shared among {heads} heads; {key} is missing"
            ));
        }
    };
    // Heads that differ from each other in their keys and values, or are turned in part only.
    for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
        match optional(key)? {
            Some(other) if other != head_channels => {
                return Err(format!(
                    "{key} is {other}, and heads have {head_channels} channels; a difference is not supported"
                ));
            }
            _ => {}
        }
    }
    Ok(Sizes { heads, key_heads, head_channels })
}

/// The Hugging Face name of a tensor and how its rows are ordered; `None` if it has no counterpart.
fn counterpart(name: &str, sizes: &Sizes) -> Option<(String, RowOrder)> {
    if let Some((_, known)) = OUTSIDE.iter().find(|(ours, _)| *ours == name) {
        return Some(((*known).to_owned(), RowOrder::AsStored));
    }
    let (block, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let number: usize = block.parse().ok().filter(|number: &usize| number.to_string() == block)?;
    let (part, kind) = rest.rsplit_once('.')?;
    let (_, known) = IN_BLOCK.iter().find(|(ours, _)| *ours == part)?;
    if !["weight", "bias"].contains(&kind) {
        return None;
    }
    // llama.cpp turns neighbours, Hugging Face the two halves of a head.
    let order = match part {
        "attn_q" | "attn_k" => RowOrder::Pairs { group: sizes.head_channels },
        _ => RowOrder::AsStored,
    };
    Some((format!("model.layers.{number}.{known}.{kind}"), order))
}

fn place(name: &str, tensor: &Tensor, rows: RowOrder) -> Result<Place, String> {
    let encoding = tensor.kind.encoding.ok_or_else(|| {
        format!(
            "tensor {name} is of kind {}, which is not read; {READ} are. Make a file of these with llama.cpp \
             (`llama-quantize --pure`, from the unquantized model), or give the model's Hugging Face folder",
            tensor.kind.name
        )
    })?;
    if let RowOrder::Pairs { group } = rows
        && !(tensor.shape.first().is_some_and(|rows| rows.is_multiple_of(group)) && group.is_multiple_of(2))
    {
        return Err(format!(
            "tensor {name} has the shape {:?}, whose rows are not those of heads of {group} channels",
            tensor.shape
        ));
    }
    Ok(Place { encoding, rows, shape: tensor.shape.clone(), bytes: tensor.bytes.clone() })
}

/// What no Llama reads is told of later, as with a folder. Frequency factors are in the config already.
fn keep_unknown(places: &mut BTreeMap<String, Place>, name: &str, tensor: &Tensor) -> Result<(), String> {
    if name.starts_with("rope_factors_") {
        return Err(format!(
            "it has the tensor {name}: rotary positions of the type longrope are not supported"
        ));
    }
    if name == FREQUENCY_FACTORS || tensor.kind.encoding.is_none() {
        return Ok(());
    }
    match places.insert(name.to_owned(), place(name, tensor, RowOrder::AsStored)?) {
        Some(_) => Err(format!("it has a tensor {name}, whose name is taken by another")),
        None => Ok(()),
    }
}

fn config(
    header: &Header,
    sizes: &Sizes,
    embedding: &Tensor,
    places: &BTreeMap<String, Place>,
    file: &[u8],
) -> Result<Map<String, Json>, String> {
    let metadata = &header.metadata;
    let has = |start: &str, end: &str| {
        places
            .keys()
            .any(|name| name.starts_with("model.layers.") && name.contains(start) && name.ends_with(end))
    };
    let theta = metadata.number("llama.rope.freq_base")?.unwrap_or(10_000.0);
    let factors = frequency_factors(header, file)?;
    let eps = metadata
        .number("llama.attention.layer_norm_rms_epsilon")?
        .ok_or("llama.attention.layer_norm_rms_epsilon is missing; expected a number")?;
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": metadata.required_whole("llama.embedding_length")?,
        "intermediate_size": metadata.required_whole("llama.feed_forward_length")?,
        "num_hidden_layers": metadata.required_whole("llama.block_count")?,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_heads,
        "head_dim": sizes.head_channels,
        "max_position_embeddings": metadata.whole("llama.context_length")?.unwrap_or(2048),
        "rms_norm_eps": eps,
        "rope_theta": theta,
        "rope_scaling": rope::scaling(metadata, factors.as_deref(), theta, sizes.head_channels)?,
        "attention_bias": has(".self_attn.", ".bias"),
        "mlp_bias": has(".mlp.", ".bias"),
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": !header.tensors.contains_key(HEAD),
        "torch_dtype": stored_most(places),
    });
    let ids = token_ids(metadata)?;
    if let Json::Object(config) = &mut config {
        config.extend(ids);
        return Ok(std::mem::take(config));
    }
    Ok(Map::new())
}

/// The token ids that a config names. Every token that ends a text or a turn is an end token.
pub(super) fn token_ids(metadata: &Metadata) -> Result<Map<String, Json>, String> {
    // llama.cpp writes -1 as a u32 for a token that there is not.
    let id = |role: &str| -> Result<Option<u64>, String> {
        Ok(metadata.whole(&format!("tokenizer.ggml.{role}_token_id"))?.filter(|&id| id != 0xffff_ffff))
    };
    let mut ids = Map::new();
    for (key, role) in [("bos_token_id", "bos"), ("pad_token_id", "padding")] {
        if let Some(id) = id(role)? {
            ids.insert(key.into(), id.into());
        }
    }
    let mut ends = Vec::new();
    for role in ["eos", "eot", "eom"] {
        ends.extend(id(role)?.filter(|id| !ends.contains(id)));
    }
    match ends[..] {
        [] => None,
        [only] => ids.insert("eos_token_id".into(), only.into()),
        _ => ids.insert("eos_token_id".into(), ends.into()),
    };
    Ok(ids)
}

/// The dtype that a config names: that of all matrices if they have one.
fn stored_most(places: &BTreeMap<String, Place>) -> &'static str {
    let matrices = places.values().filter(|place| place.shape.len() == 2);
    let dtypes: BTreeSet<_> = matrices.map(|place| place.encoding.as_weight()).collect();
    match (dtypes.len(), dtypes.first()) {
        (1, Some(Some(dtype))) => dtype.torch_name(),
        _ => "float32",
    }
}

fn frequency_factors(header: &Header, file: &[u8]) -> Result<Option<Vec<f32>>, String> {
    let Some(tensor) = header.tensors.get(FREQUENCY_FACTORS) else { return Ok(None) };
    if tensor.kind.name != "F32" {
        return Err(format!("tensor {FREQUENCY_FACTORS} is of kind {}; expected F32", tensor.kind.name));
    }
    let bytes = file.get(tensor.bytes.clone()).unwrap_or_default();
    Ok(Some(bytes.as_chunks::<4>().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
}

#[cfg(test)]
#[path = "llama_tests.rs"]
mod tests;
