//! Matrix products, plain and quantized.

use finetune_plugin_api::program::{Attrs, Builder, DType, Op, TensorType, ValueId};

use super::needed;
use crate::autodiff::Site;

type Gradients = Vec<Option<ValueId>>;

/// For y = op(a) op(b): the gradient of op(a) is dy op(b)^T and that of op(b) is op(a)^T dy; where op
/// transposes, the product is written the other way round instead of being transposed.
pub fn matmul(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let (a, c, dy) = (site.x(0), site.x(1), site.dy(b));
    let (ta, tb) = (site.node.attrs.get_bool("transpose_a"), site.node.attrs.get_bool("transpose_b"));
    let da = site.needs[0].then(|| match ta {
        false => b.matmul(dy, c, false, !tb),
        true => b.matmul(c, dy, tb, true),
    });
    let dc = site.needs[1].then(|| match tb {
        false => b.matmul(a, dy, !ta, false),
        true => b.matmul(dy, a, true, ta),
    });
    vec![da, dc]
}

/// Element (r, i) is scales[r, i div group] * number + biases[r, i div group], so the gradients are sums over
/// a group, of dy times the number and of dy.
pub fn dequantize(b: &mut Builder, site: &Site<'_>) -> Gradients {
    let ty = b.ty(site.x(1)).clone();
    let (rows, groups, group) = (ty.shape[0], ty.shape[1], site.node.attrs.get_int("group"));
    let dy = site.dy(b);
    let dy = b.cast(dy, DType::F32);
    let sum = |b: &mut Builder, values: ValueId| {
        let values = b.reshape(values, &[rows, groups, group]);
        let sum = b.reduce_sum(values, &[2]);
        let sum = b.reshape(sum, &ty.shape);
        b.cast(sum, ty.dtype)
    };
    let dscales = site.needs[1].then(|| {
        let wide = TensorType::new(DType::F32, &ty.shape);
        let (one, zero) = (b.full(1.0, &wide), b.full(0.0, &wide));
        let numbers = b.apply(Op::Dequantize, &[site.x(0), one, zero], site.node.attrs.clone());
        let product = b.mul(dy, numbers);
        sum(b, product)
    });
    let dbiases = site.needs[2].then(|| sum(b, dy));
    vec![None, dscales, dbiases]
}

/// Only x: the quantized matrix is frozen wherever this op is used.
pub fn quantized_matmul(b: &mut Builder, site: &Site<'_>) -> Gradients {
    if !site.needs[0] {
        return needed(site, &[]);
    }
    let dy = site.dy(b);
    let from = &site.node.attrs;
    let attrs = Attrs::none().int("bits", from.get_int("bits")).int("group", from.get_int("group"));
    let attrs = attrs.bool("transpose", !from.get_bool("transpose"));
    let operands = [dy, site.x(1), site.x(2), site.x(3)];
    let dx = b.apply(Op::QuantizedMatmul, &operands, attrs);
    needed(site, &[dx])
}
