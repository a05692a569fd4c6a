//! Latency histograms: counts and quantiles. Writers take no lock, and readers do not stop them.

use std::time::Duration;

use histogram::AtomicHistogram;

/// Each power of two has 2^4 buckets, so a quantile is accurate to 6 %.
const GROUPING: u8 = 4;

/// The longest time is 2^36 us: 19 hours.
const MAX_POWER: u8 = 36;

/// Names that are counted separately. Further names count as [`OTHER`], since peers choose some of the names.
pub const MOST_NAMES: usize = 64;

/// The name that stands for all names beyond [`MOST_NAMES`].
pub const OTHER: &str = "other";

/// The latency of one operation. 4.2 KiB.
#[derive(Debug)]
pub struct Latency {
    histogram: AtomicHistogram,
}

/// Quantiles of one operation at one moment, in microseconds. Each is the upper end of its bucket: at most 6 % too high.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct LatencySnapshot {
    /// Operations recorded so far.
    pub count: u64,
    /// Half took at most this long.
    pub p50_us: u64,
    /// 95 % took at most this long.
    pub p95_us: u64,
    /// 99 % took at most this long.
    pub p99_us: u64,
    /// 99.9 % took at most this long.
    pub p999_us: u64,
    /// No operation so far took longer.
    pub max_us: u64,
}

impl Default for Latency {
    fn default() -> Self {
        let histogram = AtomicHistogram::new(GROUPING, MAX_POWER);
        Self { histogram: histogram.expect("both powers are within the library's bounds") }
    }
}

impl Latency {
    /// Counts one operation. Costs one relaxed atomic addition.
    pub fn record(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX).min((1 << MAX_POWER) - 1);
        _ = self.histogram.increment(us);
    }

    /// Count and quantiles so far. Copies 4 KiB. Writers continue meanwhile; each bucket is read once.
    pub fn snapshot(&self) -> LatencySnapshot {
        let now = self.histogram.load();
        let mut found = [const { None }; 5];
        let written = now.quantile_buckets_into(&[0.5, 0.95, 0.99, 0.999, 1.0], &mut found);
        debug_assert!(written.is_ok(), "the quantiles are within 0 to 1 and there is a place for each");
        let [p50_us, p95_us, p99_us, p999_us, max_us] = found.map(|at| at.map_or(0, |bucket| bucket.end()));
        LatencySnapshot { count: now.as_slice().iter().sum(), p50_us, p95_us, p99_us, p999_us, max_us }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_to_six_percent() {
        let latency = Latency::default();
        (1..=10_000).for_each(|us| latency.record(Duration::from_micros(us)));
        let LatencySnapshot { count, p50_us, p95_us, p99_us, p999_us, max_us } = latency.snapshot();
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
        assert_eq!(latency.snapshot(), LatencySnapshot::default());
        latency.record(Duration::MAX);
        assert_eq!(latency.snapshot().count, 1);
    }
}
