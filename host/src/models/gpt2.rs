//! GPT-2 (Radford et al. 2019): layer norms, learned positions, Conv1D layers whose weights are stored
//! [inputs, outputs]. Its own dropouts do not act: fine-tuning here uses the adapters' alone.

use finetune_plugin_api::program::{Attrs, Op, ValueId};

use super::blocks::{AttentionSizes, causal_attention, layer_norm, split_heads};
use super::forward::{BatchInputs, Forward};
use super::{Architecture, Config, Head, Init, LinearSpec, ModelError, TensorSpec};

struct Gpt2 {
    vocabulary: usize,
    positions: usize,
    channels: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    scaled: bool,
    scaled_by_layer: bool,
    eps: f64,
    activation: &'static str,
    tied: bool,
    deviation: f64,
}

/// Files of the model without its head lack this prefix.
const PREFIX: &str = "transformer.";

pub(super) fn make(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let channels = config.size("n_embd")?;
    let heads = config.size("n_head")?;
    if !channels.is_multiple_of(heads) {
        return Err(ModelError::Config(format!("n_embd {channels} is no multiple of n_head {heads}")));
    }
    if config.flag("add_cross_attention", false)? {
        return Err(ModelError::Config("add_cross_attention is not supported".into()));
    }
    Ok(Box::new(Gpt2 {
        vocabulary: config.size("vocab_size")?,
        positions: config.optional_size("n_positions")?.unwrap_or(1024),
        channels,
        inner: config.optional_size("n_inner")?.unwrap_or(4 * channels),
        layers: config.layers("n_layer")?,
        heads,
        scaled: config.flag("scale_attn_weights", true)?,
        scaled_by_layer: config.flag("scale_attn_by_inverse_layer_idx", false)?,
        eps: config.number("layer_norm_epsilon", 1e-5)?,
        activation: config.activation("activation_function", "gelu_new")?,
        tied: config.flag("tie_word_embeddings", true)?,
        deviation: config.number("initializer_range", 0.02)?,
    }))
}

impl Gpt2 {
    /// The linear layers of one block: path within the block, inputs, outputs.
    fn block_linears(&self) -> [(&'static str, usize, usize); 4] {
        [
            ("attn.c_attn", self.channels, 3 * self.channels),
            ("attn.c_proj", self.channels, self.channels),
            ("mlp.c_fc", self.channels, self.inner),
            ("mlp.c_proj", self.inner, self.channels),
        ]
    }

    fn attention(&self, f: &mut Forward<'_>, batch: &BatchInputs, layer: usize, x: ValueId) -> ValueId {
        let block = block(layer);
        let qkv = f.linear(&format!("{block}.attn.c_attn"), x, true);
        let head_channels = self.channels / self.heads;
        let parts = [0, 1, 2].map(|part| {
            let y = f.b.slice(qkv, &[0, part * self.channels], &[batch.count(), self.channels]);
            split_heads(f, batch, y, self.heads, head_channels)
        });
        let mut scale = if self.scaled { 1.0 / (head_channels as f64).sqrt() } else { 1.0 };
        if self.scaled_by_layer {
            scale /= (layer + 1) as f64;
        }
        let sizes =
            AttentionSizes { heads: self.heads, key_heads: self.heads, head_channels, window: None, scale };
        let out = causal_attention(f, batch, sizes, parts);
        f.linear(&format!("{block}.attn.c_proj"), out, true)
    }

    fn mlp(&self, f: &mut Forward<'_>, layer: usize, x: ValueId) -> ValueId {
        let block = block(layer);
        let inner = f.linear(&format!("{block}.mlp.c_fc"), x, true);
        let inner = f.b.apply(Op::Activation, &[inner], Attrs::none().word("kind", self.activation));
        f.linear(&format!("{block}.mlp.c_proj"), inner, true)
    }
}

fn block(layer: usize) -> String {
    format!("{PREFIX}h.{layer}")
}

fn tensor(name: String, shape: &[usize], init: Init) -> TensorSpec {
    let alias = name.strip_prefix(PREFIX).map(str::to_owned);
    TensorSpec { name, alias, shape: shape.to_vec(), init }
}

impl Architecture for Gpt2 {
    fn model_type(&self) -> &'static str {
        "gpt2"
    }

    fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    fn channels(&self) -> usize {
        self.channels
    }

    fn position_limit(&self) -> Option<usize> {
        Some(self.positions)
    }

    fn tensors(&self) -> Vec<TensorSpec> {
        let normal = Init::Normal { deviation: self.deviation };
        // Projections into the residual stream start smaller, by the root of their number.
        let residual = Init::Normal { deviation: self.deviation / ((2 * self.layers) as f64).sqrt() };
        let mut tensors = vec![
            tensor(format!("{PREFIX}wte.weight"), &[self.vocabulary, self.channels], normal),
            tensor(format!("{PREFIX}wpe.weight"), &[self.positions, self.channels], normal),
        ];
        let norm = |tensors: &mut Vec<TensorSpec>, path: String| {
            tensors.push(tensor(format!("{path}.weight"), &[self.channels], Init::Ones));
            tensors.push(tensor(format!("{path}.bias"), &[self.channels], Init::Zeros));
        };
        for layer in 0..self.layers {
            let block = block(layer);
            norm(&mut tensors, format!("{block}.ln_1"));
            norm(&mut tensors, format!("{block}.ln_2"));
            for (path, inputs, outputs) in self.block_linears() {
                let init = if path.ends_with("c_proj") { residual } else { normal };
                tensors.push(tensor(format!("{block}.{path}.weight"), &[inputs, outputs], init));
                tensors.push(tensor(format!("{block}.{path}.bias"), &[outputs], Init::Zeros));
            }
        }
        norm(&mut tensors, format!("{PREFIX}ln_f"));
        if !self.tied {
            tensors.push(tensor("lm_head.weight".into(), &[self.vocabulary, self.channels], normal));
        }
        tensors
    }

    fn linears(&self) -> Vec<LinearSpec> {
        let mut linears = Vec::new();
        for layer in 0..self.layers {
            for (path, inputs, outputs) in self.block_linears() {
                linears.push(LinearSpec {
                    path: format!("{}.{path}", block(layer)),
                    inputs,
                    outputs,
                    fan_in_fan_out: true,
                    head: false,
                    attention: path.starts_with("attn."),
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

    fn head(&self) -> Head {
        let weight = if self.tied { format!("{PREFIX}wte.weight") } else { "lm_head.weight".into() };
        Head { weight, path: "lm_head".into() }
    }

    fn hidden(&self, f: &mut Forward<'_>, batch: &BatchInputs) -> ValueId {
        f.b.set_place("transformer.wte");
        let tokens = f.embedding(&format!("{PREFIX}wte.weight"), batch.tokens);
        let positions = f.embedding(&format!("{PREFIX}wpe.weight"), batch.positions);
        let x = f.b.add(tokens, positions);
        let mut x = f.b.reshape(x, &[batch.count(), self.channels]);
        for layer in 0..self.layers {
            let block = block(layer);
            f.b.set_place(block.as_str());
            let normed = layer_norm(f, &format!("{block}.ln_1"), x, self.eps);
            let attended = self.attention(f, batch, layer, normed);
            x = f.b.add(x, attended);
            let normed = layer_norm(f, &format!("{block}.ln_2"), x, self.eps);
            let changed = self.mlp(f, layer, normed);
            x = f.b.add(x, changed);
        }
        f.b.set_place("transformer.ln_f");
        layer_norm(f, &format!("{PREFIX}ln_f"), x, self.eps)
    }
}
