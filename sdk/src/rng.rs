//! A small random generator for phases. Integer only; it collects no entropy and is not cryptographic.

/// SplitMix64: 64 bits of state, the same sequence on every machine, so that a recorded run replays.
///
/// From Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014. Its state can be computed
/// from its outputs. That is harmless here, because every run starts with new random bits from the host.
#[derive(Clone, Debug)]
pub struct Rng {
    state: u64,
}

impl Rng {
    /// A generator that starts at `seed`; see [`Tick::rng`](crate::phase::Tick::rng) for the usual one.
    pub const fn new(seed: u64) -> Rng {
        Rng { state: seed }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to n - 1, each equally likely; 0 for n = 0.
    ///
    /// Source: Lemire, "Fast random integer generation in an interval", 2019.
    pub fn below(&mut self, n: u64) -> u64 {
        let mut wide = u128::from(self.bits()) * u128::from(n);
        if (wide as u64) < n {
            let uneven = n.wrapping_neg() % n;
            while (wide as u64) < uneven {
                wide = u128::from(self.bits()) * u128::from(n);
            }
        }
        (wide >> 64) as u64
    }

    /// Shuffles `items`. Every order is equally likely, as far as 64 bits of seed allow. O(n).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// An index into `weights`, with a probability in proportion to its weight; `None` if the sum is zero. O(n).
    pub fn weighted(&mut self, weights: impl IntoIterator<Item = u32> + Clone) -> Option<usize> {
        let total: u64 = weights.clone().into_iter().map(u64::from).sum();
        if total == 0 {
            return None;
        }
        let mut left = self.below(total);
        weights.into_iter().position(|weight| {
            let here = left < u64::from(weight);
            left = left.saturating_sub(u64::from(weight));
            here
        })
    }
}
