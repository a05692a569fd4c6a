//! A circuit breaker: stops requests to a peer that keeps failing, and finds out with trial requests when it has
//! recovered.
//!
//! The states are Nygard's ("Release It!", 2007). Callers pass the current time, so that a simulation can be replayed:
//! the breakers published as crates read their own clock.

use std::collections::VecDeque;
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::units::as_span;
use serde::{Deserialize, Serialize};

/// When requests of one kind to a peer that fails them are stopped.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Failures that open the breaker: in a row, or within the window if error_rate is set.
    #[serde(rename = "failure_threshold")]
    pub failures: u32,
    /// Time the breaker is open before it tries one request. Doubled after each failed try, up to 16 times this value.
    #[serde(rename = "timeout", with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub open_for: Duration,
    /// Trial requests that must succeed in a row to close the breaker.
    #[serde(rename = "success_threshold")]
    pub successes: u32,
    /// Fraction of the requests in the window that must have failed too. None: failures in a row count.
    pub error_rate: Option<f64>,
    /// How far back requests count for error_rate.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub window: Duration,
}

impl BreakerSettings {
    /// The ranges of its keys.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 5] = [
        ("failure_threshold", Bound::Count(1, 1000)),
        ("timeout", Bound::Time(Span::millis(100), Span::hours(1))),
        ("success_threshold", Bound::Count(1, 100)),
        ("error_rate", Bound::Fraction(0.01, 1.0)),
        ("window", Bound::Time(Span::secs(1), Span::hours(1))),
    ];
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: 5,
            error_rate: None,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            successes: 2,
        }
    }
}

/// An open breaker doubles its wait at most this many times: 5 s become 80 s.
pub const MOST_DOUBLED: u32 = 4;

/// Calls that a window holds. When there are more, the oldest are dropped early.
const REMEMBERED: usize = 256;

/// What a breaker does with calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Calls go through.
    Closed,
    /// No call goes through until the wait is over.
    Open,
    /// One trial call at a time goes through.
    HalfOpen,
}

impl BreakerState {
    /// Every state, in the order of declaration.
    pub const ALL: [Self; 3] = [Self::Closed, Self::Open, Self::HalfOpen];

    /// The name in the journal, in JSON and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CallEnd {
    /// The peer answered within the time-out.
    Succeeded,
    /// The peer answered with an error or broke a limit, or did not answer within its usual time.
    Failed,
    /// Says nothing about the peer: it was busy, the connection ended, the caller stopped waiting, or our own queue was full.
    Unknown,
}

/// One breaker. Times are monotonic.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    phase: Circuit,
    /// Counted since the last success.
    failures_in_row: u32,
    /// Calls in the window, if an error rate is set: end time, and whether the call succeeded.
    calls: VecDeque<(Duration, bool)>,
    /// Times it has opened since it was last closed.
    opened: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Circuit {
    #[default]
    Closed,
    Open {
        until: Duration,
    },
    HalfOpen {
        /// Whether a trial is under way.
        trying: bool,
        successes: u32,
    },
}

impl Breaker {
    /// The state at `now`. An open breaker counts as half-open as soon as its wait is over.
    pub fn state(&self, now: Duration) -> BreakerState {
        match self.phase {
            Circuit::Closed => BreakerState::Closed,
            Circuit::Open { until } if now < until => BreakerState::Open,
            Circuit::Open { .. } | Circuit::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a call would go through now. Changes nothing.
    pub fn would_admit(&self, now: Duration) -> bool {
        match self.phase {
            Circuit::Closed => true,
            Circuit::Open { until } => now >= until,
            Circuit::HalfOpen { trying, .. } => !trying,
        }
    }

    /// Whether a call may be made. If true, the caller must report its end with [`Breaker::end`].
    pub fn admit(&mut self, now: Duration) -> bool {
        let admitted = self.would_admit(now);
        if admitted && self.phase != Circuit::Closed {
            let successes = if let Circuit::HalfOpen { successes, .. } = self.phase { successes } else { 0 };
            self.phase = Circuit::HalfOpen { trying: true, successes };
        }
        admitted
    }

    /// Reports how an admitted call ended. Returns the new state if it changed.
    pub fn end(&mut self, how: CallEnd, now: Duration, settings: &BreakerSettings) -> Option<BreakerState> {
        match (how, self.phase) {
            // The call began before the breaker opened.
            (_, Circuit::Open { .. }) | (CallEnd::Unknown, Circuit::Closed) => None,
            (CallEnd::Unknown, Circuit::HalfOpen { successes, .. }) => {
                self.phase = Circuit::HalfOpen { trying: false, successes };
                None
            }
            (CallEnd::Succeeded, Circuit::HalfOpen { successes, .. })
                if successes + 1 < settings.successes =>
            {
                self.phase = Circuit::HalfOpen { trying: false, successes: successes + 1 };
                None
            }
            (CallEnd::Succeeded, Circuit::HalfOpen { .. }) => {
                *self = Self::default();
                Some(BreakerState::Closed)
            }
            (CallEnd::Failed, Circuit::HalfOpen { .. }) => Some(self.open(now, settings)),
            (CallEnd::Succeeded, Circuit::Closed) => {
                self.failures_in_row = 0;
                self.remember(true, now, settings);
                None
            }
            (CallEnd::Failed, Circuit::Closed) => {
                self.failures_in_row = self.failures_in_row.saturating_add(1);
                self.remember(false, now, settings);
                self.is_too_much(settings).then(|| self.open(now, settings))
            }
        }
    }

    /// Whether it is closed and the last call did not fail. Such a breaker can be dropped.
    pub fn is_spotless(&self) -> bool {
        self.phase == Circuit::Closed && self.failures_in_row == 0
    }

    fn remember(&mut self, well: bool, now: Duration, settings: &BreakerSettings) {
        if settings.error_rate.is_none() {
            self.calls = VecDeque::new();
            return;
        }
        let begin = now.saturating_sub(settings.window);
        while self.calls.front().is_some_and(|(at, _)| *at < begin) || self.calls.len() >= REMEMBERED {
            self.calls.pop_front();
        }
        self.calls.push_back((now, well));
    }

    fn is_too_much(&self, settings: &BreakerSettings) -> bool {
        let Some(rate) = settings.error_rate else { return self.failures_in_row >= settings.failures };
        let failed = self.calls.iter().filter(|(_, well)| !well).count();
        failed >= settings.failures as usize && failed as f64 >= rate * self.calls.len() as f64
    }

    fn open(&mut self, now: Duration, settings: &BreakerSettings) -> BreakerState {
        let wait = settings.open_for.saturating_mul(1 << self.opened.min(MOST_DOUBLED));
        self.opened = self.opened.saturating_add(1);
        self.phase = Circuit::Open { until: now.saturating_add(wait) };
        self.calls = VecDeque::new();
        BreakerState::Open
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const COUNT: BreakerSettings = BreakerSettings {
        failures: 3,
        error_rate: None,
        window: Duration::from_secs(10),
        open_for: Duration::from_secs(5),
        successes: 2,
    };

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn fail(breaker: &mut Breaker, at: u64, settings: &BreakerSettings) -> Option<BreakerState> {
        assert!(breaker.admit(s(at)));
        breaker.end(CallEnd::Failed, s(at), settings)
    }

    fn succeed(breaker: &mut Breaker, at: u64, settings: &BreakerSettings) -> Option<BreakerState> {
        assert!(breaker.admit(s(at)));
        breaker.end(CallEnd::Succeeded, s(at), settings)
    }

    #[test]
    fn opens_after_failures_in_a_row_tries_one_at_a_time_and_closes() {
        let mut breaker = Breaker::default();
        fail(&mut breaker, 0, &COUNT);
        fail(&mut breaker, 0, &COUNT);
        succeed(&mut breaker, 0, &COUNT);
        assert_eq!(fail(&mut breaker, 1, &COUNT).or(fail(&mut breaker, 1, &COUNT)), None);
        assert_eq!(fail(&mut breaker, 1, &COUNT), Some(BreakerState::Open));
        assert!(!breaker.admit(s(5)));
        assert_eq!(breaker.state(s(6)), BreakerState::HalfOpen);
        assert!(breaker.admit(s(6)) && !breaker.admit(s(6)), "one trial at a time");
        assert_eq!(breaker.end(CallEnd::Succeeded, s(6), &COUNT), None);
        assert_eq!(succeed(&mut breaker, 6, &COUNT), Some(BreakerState::Closed));
        assert!(breaker.is_spotless());
    }

    #[test]
    fn waits_double_while_trials_fail_and_start_over_after_closing() {
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| _ = fail(&mut breaker, 0, &COUNT));
        let mut at = 0;
        for wait in [5, 10, 20, 40, 80, 80] {
            assert!(!breaker.would_admit(s(at + wait) - Duration::from_nanos(1)));
            at += wait;
            assert_eq!(fail(&mut breaker, at, &COUNT), Some(BreakerState::Open));
        }
        succeed(&mut breaker, at + 80, &COUNT);
        assert_eq!(succeed(&mut breaker, at + 80, &COUNT), Some(BreakerState::Closed));
        (0..3).for_each(|_| _ = fail(&mut breaker, at + 100, &COUNT));
        assert!(breaker.would_admit(s(at + 105)));
    }

    #[test]
    fn a_trial_without_an_end_leaves_room_for_the_next() {
        let mut breaker = Breaker::default();
        (0..3).for_each(|_| _ = fail(&mut breaker, 0, &COUNT));
        assert!(breaker.admit(s(5)));
        assert_eq!(breaker.end(CallEnd::Unknown, s(6), &COUNT), None);
        assert!(breaker.admit(s(6)));
    }

    #[test]
    fn half_the_calls_failing_opens_by_rate_and_never_by_count() {
        let by_rate = BreakerSettings { failures: 4, error_rate: Some(0.5), ..COUNT };
        let (mut rate, mut count) = (Breaker::default(), Breaker::default());
        for at in 0..4 {
            succeed(&mut rate, at, &by_rate);
            succeed(&mut count, at, &COUNT);
            assert_eq!(fail(&mut count, at, &COUNT), None);
            let opened = fail(&mut rate, at, &by_rate);
            assert_eq!(opened.is_some(), at == 3, "at {at}");
        }
    }

    #[test]
    fn calls_outside_of_the_window_do_not_count() {
        let by_rate = BreakerSettings { failures: 3, error_rate: Some(0.5), ..COUNT };
        let mut breaker = Breaker::default();
        assert_eq!(fail(&mut breaker, 0, &by_rate).or(fail(&mut breaker, 1, &by_rate)), None);
        assert_eq!(fail(&mut breaker, 12, &by_rate), None);
        assert_eq!(fail(&mut breaker, 13, &by_rate), None);
        assert_eq!(fail(&mut breaker, 14, &by_rate), Some(BreakerState::Open));
    }

    proptest! {
        /// An open breaker admits nothing before its wait is over, a half-open one nothing besides its trial, and every
        /// breaker admits something within the longest wait after the last call ended.
        #[test]
        fn never_stuck_and_never_too_open(
            steps in prop::collection::vec((0_u64..40, 0_u8..3), 1..200),
            rate in prop::option::of(0.1_f64..1.0),
        ) {
            let settings = BreakerSettings { error_rate: rate, ..COUNT };
            let (mut breaker, mut at) = (Breaker::default(), 0);
            for (wait, how) in steps {
                at += wait;
                let before = breaker.state(s(at));
                let admitted = breaker.admit(s(at));
                prop_assert_eq!(admitted, before != BreakerState::Open);
                if !admitted {
                    continue;
                }
                prop_assert_eq!(breaker.would_admit(s(at)), before == BreakerState::Closed);
                let how = [CallEnd::Succeeded, CallEnd::Failed, CallEnd::Unknown][how as usize];
                breaker.end(how, s(at), &settings);
                prop_assert!(breaker.calls.len() <= REMEMBERED);
                prop_assert!(breaker.would_admit(s(at) + settings.open_for * (1 << MOST_DOUBLED)));
            }
        }
    }
}
