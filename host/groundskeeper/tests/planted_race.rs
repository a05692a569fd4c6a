//! Data races that `cargo xtask tsan` has to find before it is believed. Nothing else builds this file.
#![expect(unsafe_code, reason = "safe code has no data race")]

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;

/// A number that nothing protects.
#[derive(Default)]
struct Shared {
    number: UnsafeCell<u64>,
    /// Brings both writers together and orders nothing.
    here: AtomicUsize,
}

// SAFETY: this is the mistake that is to be found.
unsafe impl Sync for Shared {}

impl Shared {
    fn write(&self) {
        self.here.fetch_add(1, Relaxed);
        while self.here.load(Relaxed) < 2 {
            thread::yield_now();
        }
        for _ in 0..1_000 {
            // SAFETY: it is not safe: the other one writes too.
            unsafe { *self.number.get() += 1 };
        }
    }
}

#[test]
fn between_two_threads() {
    let shared = Shared::default();
    thread::scope(|scope| {
        scope.spawn(|| shared.write());
        scope.spawn(|| shared.write());
    });
}

#[test]
fn between_a_test_and_a_thread() {
    let shared = Shared::default();
    thread::scope(|scope| {
        scope.spawn(|| shared.write());
        shared.write();
    });
}
