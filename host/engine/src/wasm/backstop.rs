//! The wall clock limit of guests, in case fuel is not enough: a thread advances wasmtime's epoch while guests run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use wasmtime::Engine;

use super::EPOCH;

/// The thread continues for this many epochs after the last guest has returned: a burst of short runs wakes it once.
const EPOCHS_BEFORE_REST: u32 = 20;

/// Counts epochs of 10 ms while a guest runs. Its thread sleeps otherwise, so an idle node has no periodic timer.
pub struct Backstop {
    engine: Engine,
    shared: Arc<BackstopState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct BackstopState {
    inside: AtomicU32,
    resting: AtomicBool,
    ended: AtomicBool,
}

impl Backstop {
    pub(super) fn start(engine: Engine) -> std::io::Result<Self> {
        let shared = Arc::new(BackstopState::default());
        let (counted, theirs) = (engine.clone(), Arc::clone(&shared));
        let thread =
            thread::Builder::new().name("gk-epochs".into()).spawn(move || count(&counted, &theirs))?;
        Ok(Self { engine, shared, thread: Some(thread) })
    }

    pub(super) fn by_hand(engine: Engine) -> Self {
        Self { engine, shared: Arc::default(), thread: None }
    }

    /// Advances by one epoch.
    pub fn step(&self) {
        self.engine.increment_epoch();
    }

    /// The number of guests that are running now.
    pub fn inside(&self) -> u32 {
        self.shared.inside.load(Ordering::SeqCst)
    }

    /// Keeps the epochs going until the guard is dropped.
    pub(super) fn enter(&self) -> BackstopGuard<'_> {
        self.shared.inside.fetch_add(1, Ordering::SeqCst);
        if self.shared.resting.load(Ordering::SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        BackstopGuard(&self.shared)
    }

    /// The number of epochs that together last at least `limit`.
    pub(super) fn epochs(limit: Duration) -> u64 {
        // One more, because the first epoch may end immediately.
        (limit.as_nanos().div_ceil(EPOCH.as_nanos()) + 1).try_into().unwrap_or(u64::MAX / 2)
    }
}

impl Drop for Backstop {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It sleeps for at most one epoch.
            _ = thread.join();
        }
    }
}

/// Counts as one running guest until it is dropped.
pub(super) struct BackstopGuard<'a>(&'a BackstopState);

impl Drop for BackstopGuard<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

fn count(engine: &Engine, shared: &BackstopState) {
    let mut idle = 0;
    while !shared.ended.load(Ordering::SeqCst) {
        if shared.inside.load(Ordering::SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle <= EPOCHS_BEFORE_REST {
            thread::sleep(EPOCH);
            engine.increment_epoch();
            continue;
        }
        shared.resting.store(true, Ordering::SeqCst);
        // A guest that enters after this store sees `resting` and unparks this thread; the loop sees earlier guests.
        while shared.inside.load(Ordering::SeqCst) == 0 && !shared.ended.load(Ordering::SeqCst) {
            thread::park();
        }
        shared.resting.store(false, Ordering::SeqCst);
        idle = 0;
    }
}
