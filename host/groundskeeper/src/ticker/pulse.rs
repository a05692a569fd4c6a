//! The progress of the ticker. Only the ticker writes it; readers need no lock.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

/// If no tick has ended within this many intervals, the ticker has stopped.
const INTERVALS_ALIVE: u32 = 3;

/// The ticker's last beat, its interval and its counts.
#[derive(Default, Debug)]
pub struct TickerStats {
    tick: AtomicU32,
    interval_ms: AtomicU64,
    finished: AtomicU64,
    finished_at_ms: AtomicU64,
    skipped: AtomicU64,
    late: AtomicU64,
    urgent: AtomicU64,
}

impl TickerStats {
    /// Number of the last tick that has begun; 0 before the first.
    pub fn tick(&self) -> u32 {
        self.tick.load(Relaxed)
    }

    /// Time between two ticks, as last set.
    pub fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms.load(Relaxed))
    }

    /// Ticks finished since the host started.
    pub fn finished(&self) -> u64 {
        // Pairs with `end_tick`: with the count comes the time.
        self.finished.load(Acquire)
    }

    /// Monotonic time (as [`crate::clock::Clock::mono`]) at which the last tick ended; `None` before the first.
    pub fn finished_at(&self) -> Option<Duration> {
        (self.finished() > 0).then(|| Duration::from_millis(self.finished_at_ms.load(Relaxed)))
    }

    /// Time since the last tick ended, or since the start, if it is more than three intervals: then the ticker has stopped.
    /// `started` and `now` are monotonic times.
    #[doc(hidden)]
    pub fn overdue(&self, started: Duration, now: Duration) -> Option<Duration> {
        let ago = now.saturating_sub(self.finished_at().unwrap_or(started));
        Some(ago).filter(|ago| *ago > self.interval() * INTERVALS_ALIVE)
    }

    /// Grid points without a tick.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Relaxed)
    }

    /// Ticks that came after skipped grid points or a suspend.
    pub fn late(&self) -> u64 {
        self.late.load(Relaxed)
    }

    /// Urgent beats between ticks.
    pub fn urgent(&self) -> u64 {
        self.urgent.load(Relaxed)
    }

    pub(crate) fn set_interval(&self, interval: Duration) {
        self.interval_ms.store(interval.as_millis() as u64, Relaxed);
    }

    pub(crate) fn begin_tick(&self, tick: u32, skipped: u32, late: bool) {
        self.tick.store(tick, Relaxed);
        self.skipped.fetch_add(skipped.into(), Relaxed);
        self.late.fetch_add(late.into(), Relaxed);
    }

    pub(crate) fn end_tick(&self, now: Duration) {
        self.finished_at_ms.store(now.as_millis() as u64, Relaxed);
        self.finished.fetch_add(1, Release);
    }

    pub(crate) fn count_urgent(&self) {
        self.urgent.fetch_add(1, Relaxed);
    }
}
