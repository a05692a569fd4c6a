//! A lock that measures how long its users wait for it. Adds nothing to a lock that is free.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};

/// How often and how long users of a lock have waited since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct LockWaits {
    /// Times that another user held the lock.
    pub contended: u64,
    /// Microseconds that users have waited, all together.
    pub waited_us: u64,
    /// The longest wait, in microseconds.
    pub longest_us: u64,
}

/// A `parking_lot::Mutex` that counts waits. A free lock costs what it costs there, one compare-and-swap; a held one costs
/// two readings of the clock and three relaxed additions, while its user waits anyway.
#[derive(Debug, Default)]
pub struct WatchedMutex<T> {
    lock: Mutex<T>,
    contended: AtomicU64,
    waited_us: AtomicU64,
    longest_us: AtomicU64,
}

impl<T> WatchedMutex<T> {
    /// A free lock.
    pub fn new(value: T) -> Self {
        let (contended, waited_us, longest_us) = Default::default();
        Self { lock: Mutex::new(value), contended, waited_us, longest_us }
    }

    /// Takes the lock, and waits while another user has it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        match self.lock.try_lock() {
            Some(guard) => guard,
            None => self.wait(),
        }
    }

    #[cold]
    fn wait(&self) -> MutexGuard<'_, T> {
        // The machine's clock also in simulations: nothing decides by these numbers.
        let begun = Instant::now();
        self.contended.fetch_add(1, Relaxed);
        let guard = self.lock.lock();
        let us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX).max(1);
        self.waited_us.fetch_add(us, Relaxed);
        self.longest_us.fetch_max(us, Relaxed);
        guard
    }

    /// The waits so far.
    pub fn waits(&self) -> LockWaits {
        LockWaits {
            contended: self.contended.load(Relaxed),
            waited_us: self.waited_us.load(Relaxed),
            longest_us: self.longest_us.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_lock_counts_nothing_and_a_held_one_counts_who_waits() {
        let lock = WatchedMutex::new(0);
        for _ in 0..1000 {
            *lock.lock() += 1;
        }
        assert_eq!(lock.waits(), LockWaits::default());
        let held = lock.lock();
        std::thread::scope(|scope| {
            scope.spawn(|| *lock.lock() += 1);
            while lock.waits().contended == 0 {
                std::thread::yield_now();
            }
            drop(held);
        });
        let waits = lock.waits();
        assert_eq!((waits.contended, *lock.lock()), (1, 1001));
        assert!(waits.waited_us > 0 && waits.longest_us == waits.waited_us, "{waits:?}");
    }
}
