//! Monotonic, wall and boot time behind one trait. Has no timers: clocks are only read.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::time::Instant;

/// A point in monotonic time, in units of 1/8 s since the clock was created. This is fine enough to detect stale peers,
/// and a busy connection stores it at most eight times a second. Wraps after 17 years.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct CoarseInstant(pub u32);

impl CoarseInstant {
    /// Units in one second.
    pub const PER_SECOND: u32 = 8;

    /// Rounds down to 1/8 s. `since_start` is the time since the clock was created.
    pub fn from_duration(since_start: Duration) -> Self {
        // Not `as_millis`: that computes in 128 bits, and this function runs for each socket read.
        let seconds = since_start.as_secs() as u32;
        Self(seconds.wrapping_mul(Self::PER_SECOND).wrapping_add(since_start.subsec_nanos() / 125_000_000))
    }

    /// Whole seconds from `earlier` to `self`; 0 if `earlier` is later.
    pub fn seconds_since(self, earlier: CoarseInstant) -> u32 {
        self.0.saturating_sub(earlier.0) / Self::PER_SECOND
    }

    /// The moment `time` after this one; saturates.
    pub fn after(self, time: Duration) -> Self {
        Self(self.0.saturating_add(Self::from_duration(time).0))
    }

    /// Time from `earlier` to `self`, in steps of 125 ms; zero if `earlier` is later.
    pub fn since(self, earlier: CoarseInstant) -> Duration {
        Duration::from_millis(u64::from(self.0.saturating_sub(earlier.0)) * 125)
    }
}

/// A source of time. All methods are cheap enough to call once per socket read.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time since the clock was created. Stops while the machine is suspended.
    fn mono(&self) -> Duration;

    /// The same in eighths of a second, from the cheapest source (about 4 ns on Linux).
    fn coarse(&self) -> CoarseInstant {
        CoarseInstant::from_duration(self.mono())
    }

    /// Like [`Clock::mono`], but continues while the machine is suspended. The difference shows a suspend.
    fn boot(&self) -> Duration;

    /// Time since 1970. May jump, so use it only for what must survive a restart.
    fn unix(&self) -> Duration;
}

/// Seconds since 1970, as phases get them by the contract. Saturates.
pub fn unix_seconds(clock: &dyn Clock) -> u32 {
    u32::try_from(clock.unix().as_secs()).unwrap_or(u32::MAX)
}

/// The machine's clocks: `CLOCK_MONOTONIC`, `CLOCK_MONOTONIC_COARSE` and `CLOCK_BOOTTIME`; wall time from the system.
#[derive(Debug)]
pub struct SystemClock {
    mono_start: Duration,
    boot_start: Duration,
}

fn read(id: rustix::time::ClockId) -> Duration {
    let at = rustix::time::clock_gettime(id);
    Duration::new(at.tv_sec.try_into().unwrap_or(0), at.tv_nsec.try_into().unwrap_or(0))
}

impl SystemClock {
    /// Starts monotonic and boot time at zero.
    pub fn new() -> Arc<Self> {
        let mono_start = read(rustix::time::ClockId::Monotonic);
        let boot_start = read(rustix::time::ClockId::Boottime);
        Arc::new(Self { mono_start, boot_start })
    }
}

impl Clock for SystemClock {
    fn mono(&self) -> Duration {
        read(rustix::time::ClockId::Monotonic).saturating_sub(self.mono_start)
    }

    fn coarse(&self) -> CoarseInstant {
        CoarseInstant::from_duration(
            read(rustix::time::ClockId::MonotonicCoarse).saturating_sub(self.mono_start),
        )
    }

    fn boot(&self) -> Duration {
        read(rustix::time::ClockId::Boottime).saturating_sub(self.boot_start)
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that asks the machine for the wall time")]
    fn unix(&self) -> Duration {
        SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// Tokio's clock, which tests can pause and advance. Tests also simulate suspends and jumps of the wall clock.
///
/// If tokio's clock is not paused, this is real time, but it costs more to read than [`SystemClock`].
#[derive(Debug)]
pub struct TokioClock {
    start: Instant,
    unix_start: Duration,
    slept_ms: AtomicI64,
    wall_ms: AtomicI64,
}

impl TokioClock {
    /// Starts at `unix_start` after 1970. Call inside a tokio runtime.
    pub fn starting_at(unix_start: Duration) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            unix_start,
            slept_ms: AtomicI64::new(0),
            wall_ms: AtomicI64::new(0),
        })
    }

    /// Simulates a suspend of length `time`: boot and wall time advance, monotonic time does not.
    pub fn suspend(&self, time: Duration) {
        let ms = time.as_millis() as i64;
        self.slept_ms.fetch_add(ms, Ordering::Relaxed);
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Moves only the wall clock, forwards or backwards.
    pub fn step_wall(&self, by_ms: i64) {
        self.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
    }
}

fn shifted(time: Duration, by_ms: i64) -> Duration {
    let by = Duration::from_millis(by_ms.unsigned_abs());
    if by_ms < 0 { time.saturating_sub(by) } else { time + by }
}

impl Clock for TokioClock {
    fn mono(&self) -> Duration {
        self.start.elapsed()
    }

    fn boot(&self) -> Duration {
        shifted(self.mono(), self.slept_ms.load(Ordering::Relaxed))
    }

    fn unix(&self) -> Duration {
        shifted(self.unix_start + self.mono(), self.wall_ms.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coarse_counts_eighths_and_never_underflows() {
        assert_eq!(CoarseInstant::from_duration(Duration::from_millis(124)), CoarseInstant(0));
        assert_eq!(CoarseInstant::from_duration(Duration::from_millis(125)), CoarseInstant(1));
        assert_eq!(CoarseInstant(80).seconds_since(CoarseInstant(0)), 10);
        assert_eq!(CoarseInstant(79).seconds_since(CoarseInstant(0)), 9);
        assert_eq!(CoarseInstant(1).seconds_since(CoarseInstant(9)), 0);
    }

    #[test]
    fn system_clock_reads_agree() {
        let clock = SystemClock::new();
        let (mono, boot) = (clock.mono(), clock.boot());
        assert!(boot + Duration::from_millis(500) > mono && clock.coarse().0 <= 8);
    }
}
