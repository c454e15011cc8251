//! Random numbers for tests: another seed at each run, told so that a failure can be had again.

use std::time::{SystemTime, UNIX_EPOCH};

/// The variable that sets the seed.
pub const SEED_VARIABLE: &str = "FINETUNE_TEST_SEED";

/// A generator.
pub struct Random(u64);

impl Random {
    /// Seeded by [`SEED_VARIABLE`], or the time; says by what, which is shown if the test fails.
    pub fn new() -> Random {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |time| time.as_nanos() as u64);
        let said = std::env::var(SEED_VARIABLE).ok();
        let seed = said.map_or(time, |text| text.parse().expect("the seed is a whole number"));
        println!("{SEED_VARIABLE}={seed}");
        Random(seed)
    }

    /// Another generator, with numbers of its own.
    pub fn split(&mut self) -> Random {
        Random(self.number())
    }

    /// 64 random bits (splitmix64).
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end as u64) as usize
    }

    /// A number between 0 and 1.
    pub fn part(&mut self) -> f64 {
        (self.number() >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Default for Random {
    fn default() -> Self {
        Random::new()
    }
}
