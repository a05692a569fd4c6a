//! Retries: how many, how long to wait before each, and a budget over all requests. Does not wait itself.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::units::as_span;
use serde::{Deserialize, Serialize};

/// Tokens are counted in thousandths.
const TOKEN: i64 = 1000;

/// Retries of requests that allow them.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Attempts after the first.
    #[serde(rename = "max_retries")]
    pub most: u32,
    /// The first wait is random up to this. The limit doubles for each further wait.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub first_wait: Duration,
    /// The longest wait. At least first_wait.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub longest_wait: Duration,
    /// Retries that each request earns, for all requests together: 0.2 allows one per five requests.
    pub budget: f64,
}

impl Default for RetrySettings {
    /// Two retries per request, and one per five requests over all (the default share of Finagle's retry budget). If a
    /// whole group of peers fails, it gets 20 % more requests instead of three times as many.
    fn default() -> Self {
        Self {
            most: 2,
            first_wait: Duration::from_millis(50),
            longest_wait: Duration::from_secs(2),
            budget: 0.2,
        }
    }
}

impl RetrySettings {
    /// The ranges of its keys.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 4] = [
        ("max_retries", Bound::Count(0, 10)),
        ("first_wait", Bound::Time(Span::millis(1), Span::mins(1))),
        ("longest_wait", Bound::Time(Span::millis(1), Span::mins(10))),
        ("budget", Bound::Fraction(0.0, 1.0)),
    ];

    /// The wait before retry `n`, counted from 0: from zero up to `first_wait * 2^n` or `longest_wait` ("full jitter",
    /// Brooker 2015). `random` must be uniform over all of its values.
    pub fn wait(&self, n: u32, random: u64) -> Duration {
        let bound = self.first_wait.saturating_mul(1 << n.min(16)).min(self.longest_wait);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // The high half of the product: uniform up to `nanos`, without a division.
        Duration::from_nanos(((u128::from(random) * u128::from(nanos)) >> 64) as u64)
    }
}

/// A bucket of retries that requests fill, so that retries cannot multiply the load when many requests fail.
#[derive(Debug)]
pub struct RetryBudget(AtomicI64);

/// Retries that a node has before it has earned any, and the most that it saves.
pub const SAVED: i64 = 10;

impl Default for RetryBudget {
    fn default() -> Self {
        Self(AtomicI64::new(SAVED * TOKEN))
    }
}

impl RetryBudget {
    /// Adds the part of a retry that a first attempt earns.
    pub fn earn(&self, settings: &RetrySettings) {
        let earned = (settings.budget.clamp(0.0, 1.0) * TOKEN as f64) as i64;
        if self.0.load(Relaxed) < SAVED * TOKEN {
            self.0.fetch_add(earned, Relaxed);
        }
    }

    /// Takes one retry. False if there is none.
    pub fn spend(&self) -> bool {
        let took = self.0.fetch_update(Relaxed, Relaxed, |left| (left >= TOKEN).then_some(left - TOKEN));
        took.is_ok()
    }

    /// Whole retries left.
    pub fn left(&self) -> u64 {
        (self.0.load(Relaxed) / TOKEN).max(0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_are_spread_over_all_of_it() {
        let settings = RetrySettings::default();
        let most = |n| settings.wait(n, u64::MAX).as_millis();
        assert_eq!([0, 1, 2, 5, 6, 40].map(most), [49, 99, 199, 1599, 1999, 1999]);
        assert_eq!(settings.wait(3, 0), Duration::ZERO);
        assert_eq!(settings.wait(0, 1 << 63), Duration::from_millis(25));
    }

    #[test]
    fn retries_are_earned_by_requests() {
        let (budget, settings) = (RetryBudget::default(), RetrySettings::default());
        let spend_all = || std::iter::from_fn(|| budget.spend().then_some(())).count();
        assert_eq!(spend_all(), 10);
        (0..100).for_each(|_| budget.earn(&settings));
        assert_eq!(spend_all(), 10, "no more is saved than that");
        let retried = (0..1000).filter(|_| {
            budget.earn(&settings);
            budget.spend()
        });
        assert_eq!(retried.count(), 200);
    }
}
