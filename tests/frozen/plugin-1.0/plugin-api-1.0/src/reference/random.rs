//! Counter-based random numbers and dropout.

use super::call::Call;
use super::tensor::Values;
use crate::program::ops::random::dropout_threshold;

/// Philox4x32-10 (Salmon et al. 2011): the block of random bits for a counter under a key.
pub fn philox(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    let [mut k0, mut k1] = key;
    for _ in 0..10 {
        let first = u64::from(c0) * 0xD251_1F53;
        let second = u64::from(c2) * 0xCD9E_8D57;
        let high = |product: u64| (product >> 32) as u32;
        [c0, c1, c2, c3] = [high(second) ^ c1 ^ k0, second as u32, high(first) ^ c3 ^ k1, first as u32];
        k0 = k0.wrapping_add(0x9E37_79B9);
        k1 = k1.wrapping_add(0xBB67_AE85);
    }
    [c0, c1, c2, c3]
}

/// The bits for operands seed, step, example, position from `first` on.
fn bits(call: &Call<'_>, first: usize, channels: usize) -> Vec<u32> {
    let seed = call.u32s(first);
    let (step, site) = (call.u32s(first + 1)[0], call.attrs.get_int("site"));
    let (examples, positions) = (call.u32s(first + 2), call.u32s(first + 3));
    let mut bits = Vec::with_capacity(examples.len() * channels);
    for (&example, &position) in examples.iter().zip(positions) {
        for block in 0..channels.div_ceil(4) {
            let counter = [position, example, step, (site * 65536 + block) as u32];
            let words = philox(counter, [seed[0], seed[1]]);
            bits.extend(&words[..(channels - 4 * block).min(4)]);
        }
    }
    bits
}

pub(super) fn random_bits(call: &Call<'_>) -> Vec<Values> {
    vec![Values::U32(bits(call, 0, call.attrs.get_int("channels")))]
}

pub(super) fn dropout(call: &Call<'_>) -> Vec<Values> {
    let rate = call.attrs.get_float("rate");
    let threshold = dropout_threshold(rate);
    let bits = bits(call, 1, call.row(0));
    let kept = call.floats(0).iter().zip(bits).map(|(x, bits)| match bits >= threshold {
        true => x * (1.0 / (1.0 - rate)),
        false => 0.0,
    });
    vec![Values::Float(kept.collect())]
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers for philox4x32 with 10 rounds in `kat_vectors` of the Random123 distribution.
    #[test]
    fn philox_gives_the_published_answers() {
        let answer = [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8];
        assert_eq!(philox([0; 4], [0; 2]), answer);
        let answer = [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd];
        assert_eq!(philox([u32::MAX; 4], [u32::MAX; 2]), answer);
        let counter = [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344];
        let answer = [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1];
        assert_eq!(philox(counter, [0xa409_3822, 0x299f_31d0]), answer);
    }
}
