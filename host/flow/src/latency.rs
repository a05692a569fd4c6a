//! Latency histograms over the last minutes: counts and quantiles. Writers take no lock, and readers do not stop them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use histogram::AtomicHistogram;

/// Each power of two has 2^4 buckets, so a quantile is accurate to 6 %.
const GROUPING: u8 = 4;

/// The longest time is 2^36 us: 19 hours.
const MAX_POWER: u8 = 36;

/// Half of the window. Long enough for a p99 of a node that asks twice a second, short enough that a change shows while an
/// operator looks.
const HALF: Duration = Duration::from_secs(60);

/// Names that are counted separately. Further names count as [`OTHER`], since peers choose some of the names.
pub const MOST_NAMES: usize = 64;

/// The name that stands for all names beyond [`MOST_NAMES`].
pub const OTHER: &str = "other";

/// The latency of one operation over the last one to two minutes. 8.4 KiB.
///
/// Two histograms take turns: each collects for a minute, and is emptied when its next turn begins.
#[derive(Debug)]
pub struct Latency {
    halves: [AtomicHistogram; 2],
    /// The minute in which operations were last recorded or read, by the caller's clock.
    minute: AtomicU64,
}

/// Quantiles of one operation at one moment, in microseconds. Each is the upper end of its bucket: at most 6 % too high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LatencySnapshot {
    /// Operations in the window.
    pub count: u64,
    /// Half took at most this long.
    pub p50_us: u64,
    /// 95 % took at most this long.
    pub p95_us: u64,
    /// 99 % took at most this long.
    pub p99_us: u64,
    /// 99.9 % took at most this long.
    pub p999_us: u64,
    /// None of them took longer.
    pub max_us: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let half = || {
            AtomicHistogram::new(GROUPING, MAX_POWER).expect("both powers are within the library's bounds")
        };
        Self { halves: [half(), half()], minute: AtomicU64::new(0) }
    }
}

impl Latency {
    /// Counts one operation, which ended at monotonic time `now`. Costs one relaxed load and one relaxed addition; once a
    /// minute it empties a histogram.
    pub fn record(&self, took: Duration, now: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << MAX_POWER) - 1);
        // Fails only for values above the largest one.
        _ = self.halves[self.turn(now)].increment(us);
    }

    /// The histogram whose turn it is. Operations of the moment of a turn may be lost.
    #[inline]
    fn turn(&self, now: Duration) -> usize {
        let minute = now.as_secs() / HALF.as_secs();
        let before = self.minute.load(Relaxed);
        // A clock that went back would count into the wrong half; monotonic clocks do not.
        if minute > before && self.minute.compare_exchange(before, minute, Relaxed, Relaxed).is_ok() {
            self.halves[half_of(minute)].drain();
            if minute - before > 1 {
                self.halves[half_of(before)].drain();
            }
        }
        half_of(minute.max(before))
    }

    /// Count and quantiles of the window that ends at `now`. Copies 8 KiB. Writers continue meanwhile; each bucket is read
    /// once.
    pub fn snapshot(&self, now: Duration) -> LatencySnapshot {
        self.turn(now);
        let [one, other] = self.halves.each_ref().map(AtomicHistogram::load);
        let now = one.checked_add(&other).expect("both have the same buckets, and no node counts to 2^64");
        let mut found = [const { None }; 5];
        let written = now.quantile_buckets_into(&[0.5, 0.95, 0.99, 0.999, 1.0], &mut found);
        debug_assert!(written.is_ok(), "the quantiles are within 0 to 1 and there is a place for each");
        let [p50_us, p95_us, p99_us, p999_us, max_us] = found.map(|at| at.map_or(0, |bucket| bucket.end()));
        LatencySnapshot { count: now.as_slice().iter().sum(), p50_us, p95_us, p99_us, p999_us, max_us }
    }
}

/// The histogram that collects in this minute.
fn half_of(minute: u64) -> usize {
    (minute % 2) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_six_percent() {
        let latency = Latency::default();
        (1..=10_000).for_each(|us| latency.record(Duration::from_micros(us), Duration::ZERO));
        let LatencySnapshot { count, p50_us, p95_us, p99_us, p999_us, max_us } =
            latency.snapshot(Duration::ZERO);
        assert_eq!(count, 10_000);
        for (found, exact) in
            [(p50_us, 5000), (p95_us, 9500), (p99_us, 9900), (p999_us, 9990), (max_us, 10_000)]
        {
            assert!(found >= exact && found * 100 <= exact * 107, "{found} for {exact}");
        }
    }

    #[test]
    fn nothing_is_too_long_and_nothing_recorded_is_nothing() {
        let latency = Latency::default();
        assert_eq!(latency.snapshot(Duration::ZERO), LatencySnapshot::default());
        latency.record(Duration::MAX, Duration::ZERO);
        assert_eq!(latency.snapshot(Duration::ZERO).count, 1);
    }

    #[test]
    fn answers_of_yesterday_do_not_hide_those_of_today() {
        let latency = Latency::default();
        let (fast, slow) = (Duration::from_millis(1), Duration::from_secs(1));
        let at = Duration::from_secs;
        (0..100_000).for_each(|_| latency.record(fast, at(10)));
        assert!(latency.snapshot(at(59)).p99_us < 2_000);
        (0..100).for_each(|_| latency.record(slow, at(70)));
        // For one to two minutes both are in the window.
        assert_eq!(latency.snapshot(at(119)).count, 100_100);
        assert_eq!(latency.snapshot(at(121)).count, 100);
        assert!(latency.snapshot(at(121)).p50_us > 900_000);
        assert_eq!(latency.snapshot(at(181)), LatencySnapshot::default());
        (0..10).for_each(|_| latency.record(fast, at(1_000)));
        assert_eq!(latency.snapshot(at(100_000)).count, 0);
    }
}
