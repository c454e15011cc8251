//! The decoder that Llama, Mistral and their kin share: RMS norms before attention and a gated MLP, rotary
//! positions, grouped heads.

use finetune_plugin_api::program::{Attrs, Op, ValueId};

use super::blocks::{AttentionSizes, causal_attention, rms_norm, split_heads};
use super::forward::{BatchInputs, Forward};
use super::rope::{INV_FREQ, inverse_frequencies};
use super::{Architecture, Config, Head, Init, LinearSpec, ModelError, TensorSpec};

/// A decoder with its sizes.
pub(super) struct Decoder {
    pub model_type: &'static str,
    pub vocabulary: usize,
    pub channels: usize,
    pub inner: usize,
    pub layers: usize,
    pub attention: AttentionSizes,
    pub eps: f64,
    pub tied: bool,
    pub attention_bias: bool,
    pub mlp_bias: bool,
    pub activation: &'static str,
    pub inv_freq: Vec<f32>,
    pub deviation: f64,
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const LAST_NORM: &str = "model.norm.weight";
/// The most channels of a head that are believed: a rotary frequency is computed for every two.
const MAX_HEAD_CHANNELS: usize = 1 << 16;

impl Decoder {
    /// Reads the keys that the family shares. `default_key_heads` is what an absent `num_key_value_heads`
    /// means, `None` for as many as there are heads.
    pub(super) fn from_config(
        model_type: &'static str,
        config: &Config,
        default_key_heads: Option<usize>,
    ) -> Result<Decoder, ModelError> {
        let channels = config.size("hidden_size")?;
        let heads = config.size("num_attention_heads")?;
        let key_heads = config.optional_size("num_key_value_heads")?.or(default_key_heads).unwrap_or(heads);
        let head_channels = match config.optional_size("head_dim")? {
            Some(head_channels) => head_channels,
            None if channels.is_multiple_of(heads) => channels / heads,
            None => {
                return Err(ModelError::Config(format!(
                    "hidden_size {channels} is no multiple of num_attention_heads {heads}, and there is no head_dim"
                )));
            }
        };
        if head_channels > MAX_HEAD_CHANNELS {
            return Err(ModelError::Config(format!(
                "a head has {head_channels} channels (head_dim, or hidden_size over num_attention_heads); expected at \
                 most {MAX_HEAD_CHANNELS}"
            )));
        }
        if !heads.is_multiple_of(key_heads) || !head_channels.is_multiple_of(2) {
            return Err(ModelError::Config(format!(
                "{heads} heads of {head_channels} channels over {key_heads} key heads: expected a multiple of the \
                 key heads and an even number of channels"
            )));
        }
        let scale = 1.0 / (head_channels as f64).sqrt();
        Ok(Decoder {
            model_type,
            vocabulary: config.size("vocab_size")?,
            channels,
            inner: config.size("intermediate_size")?,
            layers: config.layers("num_hidden_layers")?,
            attention: AttentionSizes { heads, key_heads, head_channels, window: None, scale },
            eps: config.number("rms_norm_eps", 1e-6)?,
            tied: config.flag("tie_word_embeddings", false)?,
            attention_bias: config.flag("attention_bias", false)?,
            mlp_bias: config.flag("mlp_bias", false)?,
            activation: config.activation("hidden_act", "silu")?,
            inv_freq: inverse_frequencies(config, head_channels)?,
            deviation: config.number("initializer_range", 0.02)?,
        })
    }

    /// The linear layers of one block: path within the block, inputs, outputs, bias.
    fn block_linears(&self) -> [(&'static str, usize, usize, bool); 7] {
        let AttentionSizes { heads, key_heads, head_channels, .. } = self.attention;
        let (wide, narrow) = (heads * head_channels, key_heads * head_channels);
        [
            ("self_attn.q_proj", self.channels, wide, self.attention_bias),
            ("self_attn.k_proj", self.channels, narrow, self.attention_bias),
            ("self_attn.v_proj", self.channels, narrow, self.attention_bias),
            ("self_attn.o_proj", wide, self.channels, self.attention_bias),
            ("mlp.gate_proj", self.channels, self.inner, self.mlp_bias),
            ("mlp.up_proj", self.channels, self.inner, self.mlp_bias),
            ("mlp.down_proj", self.inner, self.channels, self.mlp_bias),
        ]
    }

    fn attention(&self, f: &mut Forward<'_>, batch: &BatchInputs, block: &str, x: ValueId) -> ValueId {
        let AttentionSizes { heads, key_heads, head_channels, .. } = self.attention;
        let projected = [("q", heads), ("k", key_heads), ("v", key_heads)].map(|(which, heads)| {
            let y = f.linear(&format!("{block}.self_attn.{which}_proj"), x, self.attention_bias);
            split_heads(f, batch, y, heads, head_channels)
        });
        let inv_freq = f.tensor(INV_FREQ);
        let [q, k] = [projected[0], projected[1]]
            .map(|x| f.b.apply(Op::Rope, &[x, batch.positions, inv_freq], Attrs::none()));
        let out = causal_attention(f, batch, self.attention, [q, k, projected[2]]);
        f.linear(&format!("{block}.self_attn.o_proj"), out, self.attention_bias)
    }

    fn mlp(&self, f: &mut Forward<'_>, block: &str, x: ValueId) -> ValueId {
        let gate = f.linear(&format!("{block}.mlp.gate_proj"), x, self.mlp_bias);
        let up = f.linear(&format!("{block}.mlp.up_proj"), x, self.mlp_bias);
        let inner = f.b.apply(Op::Gated, &[gate, up], Attrs::none().word("kind", self.activation));
        f.linear(&format!("{block}.mlp.down_proj"), inner, self.mlp_bias)
    }
}

fn tensor(name: String, shape: &[usize], init: Init) -> TensorSpec {
    TensorSpec { name, alias: None, shape: shape.to_vec(), init }
}

impl Architecture for Decoder {
    fn model_type(&self) -> &'static str {
        self.model_type
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn position_limit(&self) -> Option<usize> {
        // Rotary positions can be computed without end.
        None
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let normal = Init::Normal { deviation: self.deviation };
        let mut tensors = vec![tensor(EMBEDDING.into(), &[self.vocabulary, self.channels], normal)];
        for layer in 0..self.layers {
            let block = format!("model.layers.{layer}");
            for norm in ["input_layernorm", "post_attention_layernorm"] {
                tensors.push(tensor(format!("{block}.{norm}.weight"), &[self.channels], Init::Ones));
            }
            for (path, inputs, outputs, bias) in self.block_linears() {
                tensors.push(tensor(format!("{block}.{path}.weight"), &[outputs, inputs], normal));
                if bias {
                    tensors.push(tensor(format!("{block}.{path}.bias"), &[outputs], Init::Zeros));
                }
            }
        }
        tensors.push(tensor(LAST_NORM.into(), &[self.channels], Init::Ones));
        if !self.tied {
            tensors.push(tensor("lm_head.weight".into(), &[self.vocabulary, self.channels], normal));
        }
        tensors
    }

    fn linears(&self) -> Vec<LinearSpec> {
        let mut linears = Vec::new();
        for layer in 0..self.layers {
            for (path, inputs, outputs, _) in self.block_linears() {
                linears.push(LinearSpec {
                    path: format!("model.layers.{layer}.{path}"),
                    inputs,
                    outputs,
                    fan_in_fan_out: false,
                    head: false,
                    attention: path.starts_with("self_attn."),
                });
            }
        }
        linears.push(LinearSpec {
            path: self.head().path,
            inputs: self.channels,
            outputs: self.vocabulary,
            fan_in_fan_out: false,
            head: true,
            attention: false,
        });
        linears
    }

    fn computed(&self) -> Vec<(String, Vec<f32>)> {
        vec![(INV_FREQ.into(), self.inv_freq.clone())]
    }

    fn head(&self) -> Head {
        let weight = if self.tied { EMBEDDING } else { "lm_head.weight" };
        Head { weight: weight.into(), path: "lm_head".into() }
    }

    fn hidden(&self, f: &mut Forward<'_>, batch: &BatchInputs) -> ValueId {
        f.b.set_place("model.embed_tokens");
        let x = f.embedding(EMBEDDING, batch.tokens);
        let mut x = f.b.reshape(x, &[batch.count(), self.channels]);
        for layer in 0..self.layers {
            let block = format!("model.layers.{layer}");
            f.b.set_place(block.as_str());
            let normed = rms_norm(f, &format!("{block}.input_layernorm.weight"), x, self.eps);
            let attended = self.attention(f, batch, &block, normed);
            x = f.b.add(x, attended);
            let normed = rms_norm(f, &format!("{block}.post_attention_layernorm.weight"), x, self.eps);
            let changed = self.mlp(f, &block, normed);
            x = f.b.add(x, changed);
        }
        f.b.set_place("model.norm");
        rms_norm(f, LAST_NORM, x, self.eps)
    }
}
