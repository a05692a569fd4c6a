//! A shared random number generator, seeded by the system or, for simulations that can be repeated, by a given seed.

use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// A random number generator that is shared by reference. Each call takes a short lock, so use it once per connection,
/// not once per message.
#[derive(Debug)]
pub struct SharedRng(Mutex<StdRng>);

impl SharedRng {
    /// Without a seed the numbers cannot be guessed: ChaCha, keyed by the system. Equal seeds give equal numbers in the
    /// same order, so a node that talks to strangers must have no seed.
    pub fn new(seed: Option<u64>) -> Self {
        Self(Mutex::new(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        }))
    }

    pub fn number(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number below `bound`, uniformly distributed; 0 if `bound` is 0.
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }

    /// A duration from 0 to `most`, both included.
    pub fn up_to(&self, most: Duration) -> Duration {
        self.0.lock().random_range(Duration::ZERO..=most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(chance: &SharedRng) -> (u64, usize, Duration) {
        (chance.number(), chance.below(1000), chance.up_to(Duration::from_secs(1000)))
    }

    #[test]
    fn a_seed_gives_the_same_again_and_the_system_never_does() {
        assert_eq!(draws(&SharedRng::new(Some(7))), draws(&SharedRng::new(Some(7))));
        assert_ne!(draws(&SharedRng::new(Some(7))), draws(&SharedRng::new(Some(8))));
        assert_ne!(draws(&SharedRng::new(None)), draws(&SharedRng::new(None)));
        assert_eq!(SharedRng::new(None).below(0), 0);
    }
}
