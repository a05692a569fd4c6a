//! Adaptive time-outs: how long to wait for an answer, learned from earlier answers. Measures no time itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::units::{as_optional_span, as_span};
use serde::{Deserialize, Serialize};

/// How long to wait for an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TimeoutSettings {
    /// The time-out while no answer was measured yet, and always without enable_adaptive.
    #[serde(rename = "base_timeout", with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub base: Duration,
    /// The shortest time-out. Default: base_timeout.
    #[serde(rename = "min_timeout", with = "as_optional_span")]
    #[cfg_attr(feature = "schema", schemars(with = "Option<String>"))]
    pub least: Option<Duration>,
    /// The longest time-out. At least base_timeout.
    #[serde(rename = "max_timeout", with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub most: Duration,
    /// Follow measured answers: their smoothed time plus four times their deviation.
    #[serde(rename = "enable_adaptive")]
    pub adaptive: bool,
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self { base: Duration::from_secs(10), least: None, most: Duration::from_secs(30), adaptive: true }
    }
}

/// The least time-out of request kinds without their own. Below 250 ms, a delayed acknowledgement or a busy scheduler
/// looks like silence.
const LEAST: Duration = Duration::from_millis(250);

/// The smoothed time of answers and their deviation: the estimator of TCP's retransmission time-out (RFC 6298, section
/// 2, after Jacobson 1988), with its gains of 1/8 and 1/4 and its four deviations.
///
/// One atomic word: 32 bits each in units of 1 us, saturating at 71 min. Concurrent samples may overwrite one another,
/// which does not matter for an average; no sample is stored by half.
#[derive(Debug, Default)]
pub struct Estimator(AtomicU64);

impl Estimator {
    /// Adds the time of one answer. Takes a few nanoseconds.
    pub fn sample(&self, took: Duration) {
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let next = match split(self.0.load(Relaxed)) {
            // RFC 6298, (2.2): the first measurement.
            (0, _) => (took, took / 2),
            // (2.3): the deviation first, by the old mean.
            (mean, deviation) => {
                let apart = i64::from(mean.abs_diff(took));
                (toward(mean, took, 8), toward(deviation, u32::try_from(apart).unwrap_or(u32::MAX), 4))
            }
        };
        self.0.store(u64::from(next.0) << 32 | u64::from(next.1), Relaxed);
    }

    /// Records a time-out without an answer: doubles the deviation, to at least half the mean, until answers lower it
    /// again (back-off, RFC 6298, 5.5).
    pub fn missed(&self) {
        let (mean, deviation) = split(self.0.load(Relaxed));
        if mean > 0 {
            let doubled = deviation.saturating_mul(2).max(mean / 2).max(1);
            self.0.store(u64::from(mean) << 32 | u64::from(doubled), Relaxed);
        }
    }

    /// Mean plus four deviations: nearly all answers take less. None before the first sample.
    pub fn spread(&self) -> Option<Duration> {
        let (mean, deviation) = split(self.0.load(Relaxed));
        (mean > 0).then(|| Duration::from_micros(u64::from(mean) + 4 * u64::from(deviation)))
    }
}

fn split(word: u64) -> (u32, u32) {
    ((word >> 32) as u32, word as u32)
}

/// The value one `part`-th of the way from `old` to `new`.
fn toward(old: u32, new: u32, part: i64) -> u32 {
    let (old, new) = (i64::from(old), i64::from(new));
    // `old` and `new` have 32 bits, so a value between them has too.
    (old + (new - old) / part) as u32
}

impl TimeoutSettings {
    /// The ranges of its keys.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 3] = [
        ("base_timeout", Bound::Time(Span::millis(1), Span::mins(5))),
        ("min_timeout", Bound::Time(Span::millis(1), Span::mins(5))),
        ("max_timeout", Bound::Time(Span::millis(1), Span::mins(10))),
    ];

    /// The same, as used for request kinds without their own time-outs.
    #[must_use]
    pub fn for_all_kinds(self) -> Self {
        Self { least: self.least.or(Some(LEAST.min(self.base))), ..self }
    }

    /// How long to wait for an answer: by the peer's own times, else by those of all peers, else [`Self::base`].
    pub fn after(&self, peer: &Estimator, all: &Estimator) -> Duration {
        if !self.adaptive {
            return self.base;
        }
        let spread = peer.spread().or_else(|| all.spread());
        spread.map_or(self.base, |spread| spread.clamp(self.least.unwrap_or(self.base), self.most))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Estimator {
        /// The smoothed time; none before the first sample.
        fn mean(&self) -> Option<Duration> {
            let (mean, _) = split(self.0.load(Relaxed));
            (mean > 0).then(|| Duration::from_micros(mean.into()))
        }
    }

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn follows_the_rfc() {
        let estimator = Estimator::default();
        assert_eq!((estimator.mean(), estimator.spread()), (None, None));
        estimator.sample(ms(100));
        assert_eq!((estimator.mean(), estimator.spread()), (Some(ms(100)), Some(ms(300))));
        // Deviation 3/4 * 50 + 1/4 * 80 = 57.5, mean 7/8 * 100 + 1/8 * 180 = 110.
        estimator.sample(ms(180));
        assert_eq!((estimator.mean(), estimator.spread()), (Some(ms(110)), Some(ms(340))));
        estimator.missed();
        assert_eq!(estimator.spread(), Some(ms(570)));
    }

    #[test]
    fn floor_ceiling_and_which_estimate_comes_first() {
        let settings = TimeoutSettings { base: ms(200), least: Some(ms(50)), most: ms(2000), adaptive: true };
        let (peer, all) = (Estimator::default(), Estimator::default());
        assert_eq!(settings.after(&peer, &all), ms(200));
        all.sample(ms(1));
        assert_eq!(settings.after(&peer, &all), ms(50));
        peer.sample(ms(100));
        assert_eq!(settings.after(&peer, &all), ms(300));
        peer.sample(Duration::from_secs(1_000_000));
        assert_eq!(settings.after(&peer, &all), ms(2000));
        assert_eq!(TimeoutSettings { adaptive: false, ..settings }.after(&peer, &all), ms(200));
    }

    proptest! {
        #[test]
        fn answers_as_before_are_never_too_late(times in prop::collection::vec(1_u64..100_000, 1..100)) {
            let estimator = Estimator::default();
            let (least, most) = (times.iter().min().copied().unwrap(), times.iter().max().copied().unwrap());
            for &time in &times {
                estimator.sample(ms(time));
            }
            let mean = estimator.mean().unwrap();
            prop_assert!(mean >= ms(least) && mean <= ms(most), "{mean:?}");
            let before = estimator.spread().unwrap();
            prop_assert!(before >= mean);
            estimator.missed();
            prop_assert!(estimator.spread().unwrap() > before);
        }
    }
}
