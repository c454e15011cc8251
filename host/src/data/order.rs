//! In which order examples are drawn.

/// The order of examples over all epochs: which example of the file is the `k`-th drawn.
///
/// Without shuffling it is the file's order, around again at the end. With it, each epoch is a
/// permutation of its own, a pure function of (seed, epoch, place): no state, no table of the
/// file's length, the same on every platform, and a resumed run needs only its step number.
///
/// The permutation is a balanced Feistel network of eight rounds over the smallest even number
/// of bits (at least six) that holds `len`; a result outside `0..len` goes through the network
/// again until it falls inside (cycle walking), which takes fewer than four passes on average
/// for all but the smallest files. Round keys come from SplitMix64 over seed and epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    len: u64,
    seed: u64,
    shuffle: bool,
}

const ROUNDS: usize = 8;

impl Order {
    /// `len` is the number of examples in the file; an empty file has no order to ask for.
    pub fn new(len: u64, seed: u64, shuffle: bool) -> Order {
        Order { len, seed, shuffle }
    }

    /// The example, in `0..len`, that is drawn `k`-th (from 0) since the start of the run.
    pub fn index(&self, k: u64) -> u64 {
        if self.len <= 1 {
            return 0;
        }
        let (epoch, place) = (k / self.len, k % self.len);
        if self.shuffle { Feistel::new(self.len, self.seed, epoch).permute(place) } else { place }
    }
}

struct Feistel {
    len: u64,
    half_bits: u32,
    keys: [u64; ROUNDS],
}

impl Feistel {
    fn new(len: u64, seed: u64, epoch: u64) -> Feistel {
        let bits = u64::BITS - (len - 1).leading_zeros();
        let mut state = mix(seed) ^ mix(epoch.wrapping_add(GOLDEN));
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(GOLDEN);
            mix(state)
        });
        Feistel { len, half_bits: bits.div_ceil(2).max(3), keys }
    }

    fn permute(&self, place: u64) -> u64 {
        let mut at = place;
        loop {
            at = self.pass(at);
            if at < self.len {
                return at;
            }
        }
    }

    fn pass(&self, at: u64) -> u64 {
        let mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (at >> self.half_bits, at & mask);
        for key in self.keys {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        (left << self.half_bits) | right
    }
}

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// SplitMix64's finalizer.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn epoch(order: Order, epoch: u64) -> Vec<u64> {
        (epoch * order.len..(epoch + 1) * order.len).map(|k| order.index(k)).collect()
    }

    #[test]
    fn every_epoch_draws_every_example_once() {
        for len in (1..70).chain([255, 256, 257, 1000, 4097]) {
            let order = Order::new(len, 7, true);
            for e in [0, 1, 1000] {
                let mut drawn = epoch(order, e);
                drawn.sort();
                assert_eq!(drawn, (0..len).collect::<Vec<_>>(), "len {len} epoch {e}");
            }
        }
    }

    #[test]
    fn seeds_and_epochs_differ_and_runs_do_not() {
        let order = Order::new(100, 1, true);
        assert_eq!(epoch(order, 0), epoch(Order::new(100, 1, true), 0));
        assert_ne!(epoch(order, 0), epoch(order, 1));
        assert_ne!(epoch(order, 0), epoch(Order::new(100, 2, true), 0));
        // seed and epoch are not simply added: (1, 0) and (0, 1) are different permutations
        assert_ne!(epoch(order, 0), epoch(Order::new(100, 0, true), 1));
        assert_ne!(epoch(order, 0), (0..100).collect::<Vec<_>>());
    }

    /// A change of the permutation would make old runs resume with other batches. The numbers come
    /// from the documented algorithm written a second time, in Python.
    #[test]
    fn the_permutation_is_frozen() {
        assert_eq!(epoch(Order::new(10, 42, true), 0), [1, 7, 0, 9, 2, 5, 6, 3, 4, 8]);
        assert_eq!(epoch(Order::new(70, 5, true), 3)[..10], [0, 20, 33, 59, 4, 17, 54, 50, 2, 26]);
    }

    #[test]
    fn small_files_see_all_their_orders() {
        let orders: HashSet<Vec<u64>> = (0..500).map(|seed| epoch(Order::new(4, seed, true), 0)).collect();
        assert_eq!(orders.len(), 24);
    }

    /// Each place must draw each example about equally often: 8000 draws into 8 x 8 cells of 1000.
    #[test]
    fn places_are_evenly_mixed() {
        let mut counts = [[0u32; 8]; 8];
        for seed in 0..8000 {
            for (place, example) in epoch(Order::new(8, seed, true), 3).into_iter().enumerate() {
                counts[place][example as usize] += 1;
            }
        }
        for count in counts.as_flattened() {
            assert!((850..1150).contains(count), "{counts:?}");
        }
    }

    #[test]
    fn without_shuffle_the_files_order_goes_around() {
        let order = Order::new(3, 9, false);
        assert_eq!((0..7).map(|k| order.index(k)).collect::<Vec<_>>(), [0, 1, 2, 0, 1, 2, 0]);
    }

    #[test]
    fn huge_files_need_no_table() {
        let order = Order::new(u64::MAX / 2, 3, true);
        assert!((0..1000).map(|k| order.index(k)).collect::<HashSet<_>>().len() == 1000);
    }
}
