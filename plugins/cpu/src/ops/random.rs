//! Philox4x32-10 and dropout.

use finetune_plugin_api::program::Op;
use finetune_plugin_api::program::ops::random::dropout_threshold;

use super::{Step, parallel, row_grain};
use crate::simd::vectorized;

/// Four words for a counter (Salmon et al. 2011).
#[inline(always)]
fn philox(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
        key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
    }
    counter
}

vectorized! {
    /// The bits of all channels of one row.
    fn row_bits(bits: &mut [u32], key: [u32; 2], step: u32, example: u32, position: u32, site: u32) {
        for (block, words) in bits.chunks_mut(4).enumerate() {
            let all = philox([position, example, step, site * 65_536 + block as u32], key);
            words.copy_from_slice(&all[..words.len()]);
        }
    }
}

vectorized! {
    fn mask(x: &mut [f32], bits: &[u32], threshold: u32, factor: f32) {
        for (x, bits) in x.iter_mut().zip(bits) {
            *x = if *bits >= threshold { *x * factor } else { 0.0 };
        }
    }
}

pub fn run(step: &mut Step) {
    let Some(y) = step.out() else { return };
    let dropout = step.op == Op::Dropout;
    let (x, counters) = if dropout { (step.src.first(), &step.src[1..]) } else { (None, &step.src[..]) };
    let [seed, number, example, position] = counters else { return };
    let channels = y.shape.last().copied().unwrap_or(1);
    let site = step.attrs.get_int("site") as u32;
    let key = [seed.at_u32(0), seed.at_u32(1)];
    let number = number.at_u32(0);
    let rate = if dropout { step.attrs.get_float("rate") } else { 0.0 };
    let (threshold, factor) = (dropout_threshold(rate), (1.0 / (1.0 - rate)) as f32);
    parallel(y.elements() / channels, row_grain(channels), |range| {
        let mut bits = vec![0; channels];
        let mut values = vec![0.0; if dropout { channels } else { 0 }];
        for row in range {
            row_bits(&mut bits, key, number, example.at_u32(row), position.at_u32(row), site);
            let Some(x) = x else {
                y.store_u32(row * channels, &bits);
                continue;
            };
            x.load(row * channels, &mut values);
            mask(&mut values, &bits, threshold, factor);
            y.store(row * channels, &values);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::philox;

    /// The known answers that the authors of Philox publish with Random123.
    #[test]
    fn known_answers() {
        assert_eq!(philox([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
    }
}
