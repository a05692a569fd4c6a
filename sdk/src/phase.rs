//! Defines a phase: its trait, its tick, its failures. Runs nothing.

use std::fmt;

use crate::plan::Plan;
use crate::rng::Rng;
use crate::view::View;

/// The result of a run. With other type arguments it is the usual `Result`.
pub type Result<T = (), E = Failure> = core::result::Result<T, E>;

/// A unit of maintenance: it reads a view, asks for actions in a plan, and does nothing else.
///
/// The value *is* the phase's settings. Serde reads it from the manifest, and every run may get a new value: what must
/// outlive a run goes through [`View::memory`] and [`Plan::remember`]. Decide from the arguments alone, in integers;
/// then a recorded run replays with the same result on any machine.
pub trait Phase: 'static {
    /// One line for the operator: what the phase does.
    const SUMMARY: &'static str = "";

    /// Checks the settings before the first run. An error must name the setting, its value and the range.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Decides what to ask for. `check` has passed before.
    ///
    /// # Errors
    /// On a [`Failure`] the host drops every ask of this run, with memory and metrics. It keeps log lines.
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

/// The tick of a run: its number, its time and its random seed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tick {
    /// Time since the host started, divided by the interval. Jumps ahead if the host stalled.
    pub number: u32,
    /// Seconds since the host last accepted a plan of this phase; `None` on its first run.
    pub since_last_s: Option<u32>,
    /// Number of times since then that this phase was due and did not run.
    pub missed: u32,
    /// Ticks were skipped or the machine slept since the last one.
    pub late: bool,
    /// Seconds since 1970; valid until 2106. Use it in messages only: decide by the ages in the tables.
    pub unix_s: u32,
    /// Random bits for this run, its only source of randomness. The host records them for replays.
    pub seed: [u32; 2],
}

impl Tick {
    /// The random generator of this run. Every call restarts the same sequence: call it once and pass it on.
    pub fn rng(&self) -> Rng {
        Rng::new(u64::from(self.seed[0]) << 32 | u64::from(self.seed[1]))
    }
}

/// Why a run failed.
///
/// Not an [`Error`](std::error::Error) itself, so that `?` can convert any error into a `Failure`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// May succeed next time. Counts towards the phase's circuit breaker.
    Transient(String),
    /// Cannot succeed until the phase or its settings change. The host quarantines the phase.
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

    /// The text without the kind.
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

/// A transient failure, with the error's sources appended.
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
