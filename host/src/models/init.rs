//! Random beginnings. Every element depends on the seed, the tensor's name and its own index, and on nothing
//! else, so that a start is the same on every machine and needs no memory.

use sha2::{Digest, Sha256};

/// How a tensor begins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
    /// Normally distributed around zero.
    Normal {
        /// Standard deviation.
        deviation: f64,
    },
    /// Uniformly distributed from `-bound` to `bound`.
    Uniform {
        /// The largest magnitude.
        bound: f64,
    },
}

/// Fills `out` with the elements of the tensor `name` from index `first` on.
pub fn fill(init: Init, seed: u64, name: &str, first: u64, out: &mut [f32]) {
    let key = key(seed, name);
    for (i, element) in out.iter_mut().enumerate() {
        let index = first + i as u64;
        *element = match init {
            Init::Zeros => 0.0,
            Init::Ones => 1.0,
            Init::Normal { deviation } => (deviation * normal(key, index)) as f32,
            Init::Uniform { bound } => (bound * (2.0 * unit(mix(key, index)) - 1.0)) as f32,
        };
    }
}

fn key(seed: u64, name: &str) -> u64 {
    let digest = Sha256::new().chain_update(seed.to_le_bytes()).chain_update(name).finalize();
    digest.iter().take(8).fold(0, |key, &byte| key << 8 | u64::from(byte))
}

/// SplitMix64 (Steele et al. 2014) at a position of its sequence.
fn mix(key: u64, index: u64) -> u64 {
    let mut z = key.wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// In [0, 1), from the upper 53 bits.
fn unit(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

/// Box and Muller 1958; each pair of elements shares two random numbers.
fn normal(key: u64, index: u64) -> f64 {
    let pair = index / 2;
    let radius = (-2.0 * (1.0 - unit(mix(key, 2 * pair))).ln()).sqrt();
    let angle = std::f64::consts::TAU * unit(mix(key, 2 * pair + 1));
    if index.is_multiple_of(2) { radius * angle.cos() } else { radius * angle.sin() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Filling in pieces gives what filling at once gives: uploads are made in pieces.
    #[test]
    fn elements_do_not_depend_on_the_pieces() {
        let init = Init::Normal { deviation: 0.5 };
        let mut whole = vec![0.0; 100];
        fill(init, 7, "a", 0, &mut whole);
        let mut pieces = vec![0.0; 100];
        let (left, right) = pieces.split_at_mut(33);
        fill(init, 7, "a", 0, left);
        fill(init, 7, "a", 33, right);
        assert_eq!(whole, pieces);
        let mut other = vec![0.0; 100];
        fill(init, 7, "b", 0, &mut other);
        assert_ne!(whole, other);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut values = vec![0.0; 100_000];
        for (init, variance) in
            [(Init::Normal { deviation: 0.5 }, 0.25), (Init::Uniform { bound: 0.6 }, 0.12)]
        {
            fill(init, 1, "w", 0, &mut values);
            let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
            let square = values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64;
            assert!(mean.abs() < 0.01, "{init:?}: mean {mean}");
            assert!((square / variance - 1.0).abs() < 0.02, "{init:?}: variance {square}");
        }
    }
}
