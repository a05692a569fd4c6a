//! Which phases a node has, in which order they run, and how each has fared. Runs none of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use groundskeeper_sdk::host::{AnyPhase, Saved};

use crate::config::{Grants, Mode, OnFailure, Schedule, Trust};
use crate::engine::{Body, Breaker, BuiltIn};
use crate::journal::Asker;

mod due;
mod status;

pub use due::Timing;
pub use status::{PhaseBoard, PhaseState, PhaseStatus};

/// The most that a phase may keep from run to run.
pub const MEMORY_BYTES: usize = 64 * 1024;

/// A phase to be registered.
pub struct PhaseSpec {
    pub name: String,
    /// What it is made of, for `phases`: `built-in`, or what an application calls its own.
    pub kind: &'static str,
    pub version: String,
    pub body: Arc<dyn Body>,
    pub schedule: Schedule,
    pub policy: Policy,
}

/// What a phase may do, and what happens when it fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    pub trust: Trust,
    pub mode: Mode,
    /// Not looked at for phases of the host's own.
    pub grants: Grants,
    pub on_failure: OnFailure,
}

impl Policy {
    /// For phases that are the host's or the application's own.
    pub fn host() -> Self {
        Self {
            trust: Trust::Host,
            mode: Mode::Enforce,
            grants: Grants::default(),
            on_failure: OnFailure::default(),
        }
    }
}

impl PhaseSpec {
    /// A phase in Rust that the host or its application answers for.
    pub fn built_in(
        name: &str,
        kind: &'static str,
        version: &str,
        phase: Arc<dyn AnyPhase>,
        schedule: Schedule,
    ) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            version: version.to_owned(),
            body: Arc::new(BuiltIn(phase)),
            schedule,
            policy: Policy::host(),
        }
    }
}

/// Why a set of phases cannot be registered.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPhases {
    #[error("two phases are called {0:?}; give one of them another name")]
    SameName(String),
    #[error("phase {phase:?} is to run after {after:?}, which is not there; the phases are {known}")]
    NoSuchPhase { phase: String, after: String, known: String },
    #[error("phases wait for each other: {0}; take one `after` away")]
    Circle(String),
    #[error("settings of phase {phase:?}: {problem}")]
    Settings { phase: String, problem: String },
}

/// One registered phase and its history.
pub struct Registered {
    pub name: Arc<str>,
    pub version: Arc<str>,
    pub kind: &'static str,
    pub body: Arc<dyn Body>,
    pub schedule: Schedule,
    pub policy: Policy,
    pub timing: Timing,
    pub breaker: Breaker,
    pub memory: Option<Saved>,
    /// Set while a run that was given up is still inside the phase.
    pub stuck: Option<Arc<AtomicBool>>,
    /// Monotonic time of the last accepted plan, and the same in seconds since 1970 (known across restarts).
    pub last_accepted: Option<Duration>,
    pub last_run_unix: Option<u32>,
    pub last_success_unix: Option<u32>,
    pub runs: u64,
    pub failures: u64,
    pub missed: u64,
    pub last_took: Duration,
    pub last_error: Option<String>,
}

impl Registered {
    pub fn asker(&self) -> Asker {
        Asker::Phase { name: Arc::clone(&self.name), version: Arc::clone(&self.version) }
    }

    /// Whether a run that was given up has still not come back.
    pub fn is_stuck(&mut self) -> bool {
        let inside = self.stuck.as_ref().is_some_and(|inside| inside.load(Ordering::Acquire));
        if !inside {
            self.stuck = None;
        }
        inside
    }

    /// What `phases` shows, with `connected` peers there.
    pub fn status(&self, connected: u32) -> PhaseStatus {
        let every = self.schedule.cadence.every_n_ticks(connected);
        let state = if self.stuck.as_ref().is_some_and(|inside| inside.load(Ordering::Acquire)) {
            PhaseState::Stuck
        } else if self.breaker.is_open() {
            PhaseState::Tripped
        } else {
            PhaseState::Active
        };
        PhaseStatus {
            name: Arc::clone(&self.name),
            kind: self.kind.into(),
            version: Arc::clone(&self.version),
            summary: self.body.summary().into(),
            state,
            every_n_ticks: every,
            last_run_tick: u32::try_from(self.timing.last_run).ok().filter(|_| self.runs > 0),
            next_due_tick: Some(self.timing.next_due(every)),
            runs: self.runs,
            failures: self.failures,
            failures_in_row: self.breaker.failures_in_row(),
            missed: self.missed,
            last_duration_us: self.last_took.as_micros() as u64,
            last_success_unix_s: self.last_success_unix,
            last_error: self.last_error.clone(),
        }
    }
}

/// When phases ran, as it is kept across restarts: seconds since 1970 by name.
pub type LastRuns = BTreeMap<String, u32>;

/// A node's phases in the order in which they run.
pub struct Registry {
    pub(crate) phases: Vec<Registered>,
}

impl Registry {
    /// Orders and checks `specs`: in the order given, except that a phase runs behind those it names in `after`.
    ///
    /// `spread` puts the first runs of rare phases apart, per node; `last_runs` and `unix_now` continue the cadence
    /// of an earlier process with `interval`.
    ///
    /// # Errors
    /// [`BadPhases`] names the phase and the way out.
    pub fn new(
        specs: Vec<PhaseSpec>,
        spread: impl Fn(&str) -> u64,
        last_runs: &LastRuns,
        unix_now: u32,
        interval: Duration,
    ) -> Result<Self, BadPhases> {
        for (at, spec) in specs.iter().enumerate() {
            if specs[..at].iter().any(|other| other.name == spec.name) {
                return Err(BadPhases::SameName(spec.name.clone()));
            }
            if let Err(problem) = spec.body.check() {
                return Err(BadPhases::Settings { phase: spec.name.clone(), problem });
            }
        }
        let ticks_since = |unix: u32| {
            let ago = Duration::from_secs(unix_now.saturating_sub(unix).into());
            (ago.as_millis() / interval.as_millis().max(1)) as u64
        };
        let phases = order(specs)?
            .into_iter()
            .map(|spec| {
                let saved = last_runs.get(&spec.name).copied();
                let timing = match saved {
                    Some(unix) => Timing::ran_before(ticks_since(unix)),
                    None => Timing::never(&spec.schedule, spread(&spec.name)),
                };
                Registered {
                    name: spec.name.into(),
                    version: spec.version.into(),
                    kind: spec.kind,
                    body: spec.body,
                    schedule: spec.schedule,
                    policy: spec.policy,
                    timing,
                    breaker: Breaker::default(),
                    memory: None,
                    stuck: None,
                    last_accepted: None,
                    last_run_unix: saved,
                    last_success_unix: None,
                    runs: 0,
                    failures: 0,
                    missed: 0,
                    last_took: Duration::ZERO,
                    last_error: None,
                }
            })
            .collect();
        Ok(Self { phases })
    }

    /// What to keep, so that the next process continues the cadence. A phase that has never run is kept with the time
    /// at which its period began, or a node that always restarts too early would never run it.
    pub fn last_runs(&self, tick: u32, unix_now: u32, interval: Duration) -> LastRuns {
        let unix_at = |last_run: i64| {
            let ago = i64::from(tick) - last_run;
            let seconds = ago.saturating_mul(interval.as_millis() as i64) / 1000;
            u32::try_from(i64::from(unix_now) - seconds).unwrap_or(0)
        };
        let kept = |phase: &Registered| phase.last_run_unix.unwrap_or_else(|| unix_at(phase.timing.last_run));
        self.phases.iter().map(|phase| (phase.name.to_string(), kept(phase))).collect()
    }
}

/// Stable topological order: each round takes the first phase whose predecessors are all placed.
fn order(mut specs: Vec<PhaseSpec>) -> Result<Vec<PhaseSpec>, BadPhases> {
    let names: Vec<String> = specs.iter().map(|spec| spec.name.clone()).collect();
    for spec in &specs {
        if let Some(after) = spec.schedule.after.iter().find(|after| !names.contains(after)) {
            return Err(BadPhases::NoSuchPhase {
                phase: spec.name.clone(),
                after: after.clone(),
                known: names.join(", "),
            });
        }
    }
    let mut placed: Vec<PhaseSpec> = Vec::with_capacity(specs.len());
    while !specs.is_empty() {
        let is_placed = |name: &String| placed.iter().any(|spec| spec.name == *name);
        let Some(next) = specs.iter().position(|spec| spec.schedule.after.iter().all(is_placed)) else {
            let circle: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
            return Err(BadPhases::Circle(circle.join(", ")));
        };
        placed.push(specs.remove(next));
    }
    Ok(placed)
}

#[cfg(test)]
mod tests {
    use groundskeeper_phases::Reaper;

    use super::*;

    fn spec(name: &str, after: &[&str]) -> PhaseSpec {
        let after = after.iter().map(|name| (*name).to_owned()).collect();
        let schedule = Schedule { after, ..Schedule::every(1) };
        PhaseSpec::built_in(name, "built-in", "1", Arc::new(Reaper::default()), schedule)
    }

    fn names(specs: Vec<PhaseSpec>) -> Result<Vec<String>, BadPhases> {
        order(specs).map(|specs| specs.into_iter().map(|spec| spec.name).collect())
    }

    #[test]
    fn order_is_as_given_but_for_after() {
        assert_eq!(names(vec![spec("a", &["c"]), spec("b", &[]), spec("c", &[])]).unwrap(), ["b", "c", "a"]);
        assert_eq!(names(vec![spec("a", &[]), spec("b", &["a"])]).unwrap(), ["a", "b"]);
        assert!(matches!(names(vec![spec("a", &["b"]), spec("b", &["a"])]), Err(BadPhases::Circle(_))));
        assert!(matches!(names(vec![spec("a", &["x"])]), Err(BadPhases::NoSuchPhase { .. })));
    }

    #[test]
    fn a_phase_that_never_ran_keeps_its_place_across_restarts() {
        let minute = Duration::from_secs(60);
        let hourly = || vec![PhaseSpec { schedule: Schedule::every(60), ..spec("hourly", &[]) }];
        let new = |saved: &LastRuns, unix| Registry::new(hourly(), |_| 59, saved, unix, minute).unwrap();
        let first = new(&LastRuns::new(), 1_000_000);
        assert_eq!(first.phases[0].timing.next_due(60), 60);
        let kept = first.last_runs(50, 1_000_000 + 50 * 60, minute);
        let second = new(&kept, 1_000_000 + 50 * 60);
        assert_eq!(second.phases[0].timing.next_due(60), 10);
    }
}
