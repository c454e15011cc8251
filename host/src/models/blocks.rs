//! Pieces that architectures share.

use finetune_plugin_api::program::{Attrs, Op, ValueId};

use super::forward::{BatchInputs, Forward};

/// The sizes of an attention block.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionSizes {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub key_heads: usize,
    /// Channels of a head.
    pub head_channels: usize,
    /// Keys that a query sees, itself included; `None` for all before it.
    pub window: Option<usize>,
    /// What scores are multiplied with.
    pub scale: f64,
}

/// [B T, heads D] as [B, T, heads, D].
pub(super) fn split_heads(
    f: &mut Forward<'_>,
    batch: &BatchInputs,
    x: ValueId,
    heads: usize,
    d: usize,
) -> ValueId {
    f.b.reshape(x, &[batch.rows, batch.length, heads, d])
}

/// Causal attention of q [B, T, H, D] over k, v [B, T, G, D] and what is cached of earlier positions: [B T, H D].
pub(super) fn causal_attention(
    f: &mut Forward<'_>,
    batch: &BatchInputs,
    sizes: AttentionSizes,
    [q, k, v]: [ValueId; 3],
) -> ValueId {
    let [k, v] = f.seen(batch, [k, v]);
    let attrs = Attrs::none().float("scale", sizes.scale).int("window", sizes.window.unwrap_or(0));
    let results = f.b.push(Op::Attention, &[q, k, v, batch.start, batch.valid], attrs);
    f.b.reshape(results[0], &[batch.count(), sizes.heads * sizes.head_channels])
}

/// RMS norm with the weight `name`.
pub(super) fn rms_norm(f: &mut Forward<'_>, name: &str, x: ValueId, eps: f64) -> ValueId {
    let weight = f.tensor(name);
    f.b.apply(Op::RmsNorm, &[x, weight], Attrs::none().float("eps", eps))
}

/// Layer norm with the weight and bias of the module `path`.
pub(super) fn layer_norm(f: &mut Forward<'_>, path: &str, x: ValueId, eps: f64) -> ValueId {
    let weight = f.tensor(&format!("{path}.weight"));
    let bias = f.tensor(&format!("{path}.bias"));
    f.b.apply(Op::LayerNorm, &[x, weight, bias], Attrs::none().float("eps", eps))
}
