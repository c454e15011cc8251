//! Rotary position embedding.

use super::call::Call;
use super::tensor::Values;

pub(super) fn rope(call: &Call<'_>) -> Vec<Values> {
    let [_, _, heads, channels] = call.dims::<4>(0);
    let (positions, inv_freq) = (call.u32s(1), call.floats(2));
    let scale = call.attrs.get_float("scale");
    let direction = if call.attrs.get_bool("inverse") { -1.0 } else { 1.0 };
    let half = inv_freq.len();
    let mut y = call.floats(0).to_vec();
    for (head, x) in y.chunks_exact_mut(channels).enumerate() {
        let position = f64::from(positions[head / heads]);
        for (i, frequency) in inv_freq.iter().enumerate() {
            let (a, b) = match call.attrs.get_bool("interleaved") {
                false => (i, i + half),
                true => (2 * i, 2 * i + 1),
            };
            let (sin, cos) = (direction * position * frequency).sin_cos();
            (x[a], x[b]) = (scale * (x[a] * cos - x[b] * sin), scale * (x[b] * cos + x[a] * sin));
        }
    }
    vec![Values::Float(y)]
}
