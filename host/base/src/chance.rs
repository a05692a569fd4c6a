//! Chance: the system's, or that of a seed, so that a simulation can be run again. Keeps no record of what it gave.

use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// A source of numbers by chance, shared by reference. Each draw is a short lock: for what happens per connection, not
/// per message.
#[derive(Debug)]
pub struct Chance(Mutex<StdRng>);

impl Chance {
    /// Without a seed, numbers that nobody can guess: a cipher's stream (ChaCha) under a key from the system. Equal seeds
    /// give equal numbers in equal order; a node that others talk to must have none.
    pub fn new(seed: Option<u64>) -> Self {
        Self(Mutex::new(match seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => StdRng::from_rng(&mut rand::rng()),
        }))
    }

    pub fn number(&self) -> u64 {
        self.0.lock().next_u64()
    }

    /// A number under `bound`, each as likely as the others; 0 if there is none.
    pub fn below(&self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.0.lock().random_range(0..bound) }
    }

    /// A time from nothing to `most`, both included.
    pub fn up_to(&self, most: Duration) -> Duration {
        self.0.lock().random_range(Duration::ZERO..=most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draws(chance: &Chance) -> (u64, usize, Duration) {
        (chance.number(), chance.below(1000), chance.up_to(Duration::from_secs(1000)))
    }

    #[test]
    fn a_seed_gives_the_same_again_and_the_system_never_does() {
        assert_eq!(draws(&Chance::new(Some(7))), draws(&Chance::new(Some(7))));
        assert_ne!(draws(&Chance::new(Some(7))), draws(&Chance::new(Some(8))));
        assert_ne!(draws(&Chance::new(None)), draws(&Chance::new(None)));
        assert_eq!(Chance::new(None).below(0), 0);
    }
}
