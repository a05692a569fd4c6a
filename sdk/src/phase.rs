//! Owns what a phase is: its trait, its tick, its failures. Refuses to run anything.

use std::fmt;

use crate::plan::Plan;
use crate::rng::Rng;
use crate::view::View;

/// What a run returns, and with other arguments the usual `Result`.
pub type Result<T = (), E = Failure> = core::result::Result<T, E>;

/// A unit of maintenance: reads a view, asks in a plan, does nothing else.
///
/// The value *is* the phase's settings, read from the manifest by serde, and may be new in every run: what has to outlive
/// a run goes through [`View::memory`] and [`Plan::remember`]. Decide from the arguments alone, in integers, and a recorded
/// run decides alike anywhere.
pub trait Phase: 'static {
    /// One line for the operator: what it does.
    const SUMMARY: &'static str = "";

    /// Says what is wrong with the settings, before the first run. Name the setting, its value and the range.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Decides. `check` passed before.
    ///
    /// # Errors
    /// On a [`Failure`] everything that was asked is dropped, with memory and metrics; log lines are kept.
    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result;
}

/// [`Phase`] without its associated constant, so that a host can keep phases of different types in one list.
pub trait AnyPhase: Send + Sync {
    /// [`Phase::SUMMARY`].
    fn summary(&self) -> &'static str;
    /// [`Phase::check`].
    fn check(&self) -> Result<(), String>;
    /// [`Phase::run`].
    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result;
}

impl<P: Phase + Send + Sync> AnyPhase for P {
    fn summary(&self) -> &'static str {
        P::SUMMARY
    }

    fn check(&self) -> Result<(), String> {
        Phase::check(self)
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        Phase::run(self, now, view, plan)
    }
}

/// The beat that a run belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tick {
    /// Time since the host started over the interval; skips when the host stalled.
    pub number: u32,
    /// Seconds since this phase last had a plan accepted; `None` on its first run.
    pub since_last_s: Option<u32>,
    /// How often this phase was due and did not run since then.
    pub missed: u32,
    /// Ticks were skipped or the machine slept since the last one.
    pub late: bool,
    /// Seconds since 1970, good until 2106. For messages: decide by the ages in the tables.
    pub unix_s: u32,
    /// Random bits for this run, the only randomness there is; recorded for replays.
    pub seed: [u32; 2],
}

impl Tick {
    /// This run's generator. Every call starts the same sequence anew: call it once and hand it on.
    pub fn rng(&self) -> Rng {
        Rng::new(u64::from(self.seed[0]) << 32 | u64::from(self.seed[1]))
    }
}

/// Why a run gave up.
///
/// Not an [`Error`](std::error::Error) itself, so that `?` can make one of any error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// May work next time: counts towards the phase's circuit breaker.
    Transient(String),
    /// Will not work until the phase or its settings change: the phase is quarantined.
    Permanent(String),
}

impl Failure {
    /// [`Failure::Transient`] with this text.
    pub fn transient(text: impl Into<String>) -> Failure {
        Failure::Transient(text.into())
    }

    /// [`Failure::Permanent`] with this text.
    pub fn permanent(text: impl Into<String>) -> Failure {
        Failure::Permanent(text.into())
    }

    /// The text alone.
    pub fn text(&self) -> &str {
        match self {
            Failure::Transient(text) | Failure::Permanent(text) => text,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Transient(text) => write!(f, "failed, may work next time: {text}"),
            Failure::Permanent(text) => write!(f, "failed for good: {text}"),
        }
    }
}

/// Transient, with the error's sources appended.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Failure {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            text.push_str(": ");
            text.push_str(&inner.to_string());
            source = inner.source();
        }
        Failure::Transient(text)
    }
}
