//! From logits to a token, in f64 on the host, so that it is the same on every back end.

/// How a token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// What logits are divided by; 0 takes the most probable token.
    pub temperature: f64,
    /// The most probable tokens that together have at least this probability are kept.
    pub top_p: f64,
    /// At most so many of the most probable tokens are kept; 0 for all.
    pub top_k: usize,
    /// What the random numbers depend on, besides the number of the token.
    pub seed: u64,
}

impl Sampling {
    /// The number of a logit that is no number of a distribution: NaN, plus infinity, or none above minus infinity.
    fn wrong(logits: &[f32]) -> Option<usize> {
        let bad = logits.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY);
        bad.or_else(|| logits.iter().all(|logit| *logit == f32::NEG_INFINITY).then_some(0))
    }

    /// Chooses token number `step` of the completion; equal logits are taken in the order of their tokens.
    ///
    /// # Errors
    /// The number of a logit that no probability can be made of.
    pub fn choose(&self, logits: &[f32], step: u64) -> Result<u32, usize> {
        if let Some(token) = Sampling::wrong(logits) {
            return Err(token);
        }
        if self.temperature == 0.0 {
            let best = (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best });
            return Ok(best as u32);
        }
        let kept = self.kept(logits);
        let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
        let mut rest = unit(self.seed, step) * total;
        for &(token, weight) in &kept {
            if rest < weight {
                return Ok(token);
            }
            rest -= weight;
        }
        // Rounding left a little of the last one.
        Ok(kept.last().map_or(0, |&(token, _)| token))
    }

    /// The tokens that may be chosen, the most probable first, with weights in proportion to their probabilities.
    ///
    /// In transformers' order: temperature, top-k, then top-p (Holtzman et al. 2020) of what is left.
    fn kept(&self, logits: &[f32]) -> Vec<(u32, f64)> {
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        let logit = |token: u32| f64::from(logits[token as usize]);
        // A stable order: equal logits stay in the order of their tokens.
        order.sort_by(|&a, &b| logit(b).total_cmp(&logit(a)));
        if self.top_k > 0 {
            order.truncate(self.top_k);
        }
        let most = logit(order[0]);
        let weight = |token: u32| ((logit(token) - most) / self.temperature).exp();
        let mut kept: Vec<_> = order.into_iter().map(|token| (token, weight(token))).collect();
        if self.top_p < 1.0 {
            let total: f64 = kept.iter().map(|(_, weight)| weight).sum();
            let mut before = 0.0;
            let needed = kept.iter().take_while(|(_, weight)| {
                let wanted = before < self.top_p * total;
                before += weight;
                wanted
            });
            let needed = needed.count().max(1);
            kept.truncate(needed);
        }
        kept
    }
}

/// In [0, 1): number `step` of the sequence of a seed. SplitMix64 (Steele et al. 2014), over a mixed seed so that
/// neighbouring seeds share nothing.
fn unit(seed: u64, step: u64) -> f64 {
    let bits = mix(mix(seed).wrapping_add(step.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    (bits >> 11) as f64 / (1u64 << 53) as f64
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [0.1, 2.0, -1.0, 1.5, 2.0, f32::NEG_INFINITY];

    fn sampling(temperature: f64, top_p: f64, top_k: usize) -> Sampling {
        Sampling { temperature, top_p, top_k, seed: 5 }
    }

    /// Nucleus sampling as transformers' TopPLogitsWarper has it: ascending, what is cumulated up to 1 - top_p goes.
    fn reference(temperature: f64, top_p: f64) -> Vec<f64> {
        let exp = LOGITS.map(|logit| (f64::from(logit) / temperature).exp());
        let total: f64 = exp.iter().sum();
        let mut order: Vec<usize> = (0..exp.len()).collect();
        order.sort_by(|&a, &b| exp[a].total_cmp(&exp[b]).then(b.cmp(&a)));
        let (mut cumulated, mut kept) = (0.0, vec![0.0; exp.len()]);
        for (place, &token) in order.iter().enumerate() {
            cumulated += exp[token] / total;
            if cumulated > 1.0 - top_p || place + 1 == order.len() {
                kept[token] = exp[token];
            }
        }
        let total: f64 = kept.iter().sum();
        kept.iter().map(|weight| weight / total).collect()
    }

    #[test]
    fn tokens_come_as_often_as_their_probability_says() {
        const DRAWS: u64 = 40_000;
        for (temperature, top_p) in [(1.0, 1.0), (0.7, 0.8), (2.0, 0.5), (1.0, 0.01)] {
            let mut counts = [0u32; LOGITS.len()];
            for step in 0..DRAWS {
                counts[sampling(temperature, top_p, 0).choose(&LOGITS, step).unwrap() as usize] += 1;
            }
            for (count, want) in counts.iter().zip(reference(temperature, top_p)) {
                let got = f64::from(*count) / DRAWS as f64;
                // Five standard deviations of a frequency.
                let tolerance = 5.0 * (want * (1.0 - want) / DRAWS as f64).sqrt();
                assert!((got - want).abs() <= tolerance, "{temperature} {top_p}: {got}, expected {want}");
            }
        }
    }

    #[test]
    fn at_most_k_tokens_are_kept() {
        let tokens: Vec<u32> = (0..500).map(|i| sampling(3.0, 1.0, 3).choose(&LOGITS, i).unwrap()).collect();
        assert!(tokens.iter().all(|token| [1, 3, 4].contains(token)));
        assert!([1, 3, 4].iter().all(|token| tokens.contains(token)));
    }

    #[test]
    fn the_same_seed_chooses_the_same() {
        let draw = |seed| {
            let sampling = Sampling { seed, ..sampling(1.0, 1.0, 0) };
            (0..50).map(|i| sampling.choose(&LOGITS, i).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(sampling(0.0, 1.0, 0).choose(&LOGITS, 0), Ok(1));
    }

    #[test]
    fn what_is_no_distribution_is_refused() {
        for temperature in [0.0, 1.0] {
            let sampling = sampling(temperature, 0.9, 0);
            assert_eq!(sampling.choose(&[0.0, f32::NAN], 0), Err(1));
            assert_eq!(sampling.choose(&[f32::INFINITY, 0.0], 0), Err(0));
            assert_eq!(sampling.choose(&[f32::NEG_INFINITY; 2], 0), Err(0));
        }
    }
}
