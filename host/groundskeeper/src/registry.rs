//! The phases of a node, their order, and the history of each. Runs none of them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::host::AnyPhase;
use serde::{Deserialize, Serialize};

use crate::clock::{Clock, unix_seconds};
use crate::engine::policy::{Grants, Mode, OnFailure, Trust};
use crate::engine::schedule::Schedule;
use crate::engine::{BuiltIn, PhaseProgram};

mod last_runs;
mod lineage;
mod order;
mod registered;
mod status;
mod swap;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use self::{
    last_runs::Age,
    lineage::{Digest, Former, Lineage, Rollback},
    registered::{Registered, RunFailed, RunHistory},
    swap::{Arrival, Judgement, ProbationVerdict, Standing},
};
pub use last_runs::{LastRun, LastRuns};
pub(crate) use status::short_digest;
pub use status::{CandidateStatus, PhaseMetric, PhaseState, PhaseStatus, PhaseStatuses};

#[doc(hidden)]
pub use crate::engine::spread;

/// A phase to be registered.
#[derive(Clone)]
pub struct PhaseSpec {
    /// Unique among the phases of a node. Last runs, memory and quarantine are kept under this name.
    pub name: String,
    /// What the phase is made of, shown by `phases`: `built-in`, `wasm`, `native`, or an application's own word.
    pub kind: &'static str,
    /// For operators and the journal; the host does not interpret it. A guest's comes from its module.
    pub version: String,
    /// The code that runs when the phase is due.
    pub body: Arc<dyn PhaseProgram>,
    /// When the phase is due, and before or after which others it runs.
    pub schedule: Schedule,
    /// What it may do, and what happens when it fails.
    pub policy: Policy,
    /// Digest of everything that decides what the phase does. A quarantine ends when it changes. `None` for host phases.
    pub digest: Option<[u8; 32]>,
}

/// What a phase may do, and what happens when it fails.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Whether grants and quarantine apply. A guest cannot take the name of a host phase.
    pub trust: Trust,
    /// Whether its asks are applied, only journalled, or the phase does not run.
    pub mode: Mode,
    /// Ignored for host phases.
    pub grants: Grants,
    /// Settings of the circuit breaker. A host phase is never quarantined.
    pub on_failure: OnFailure,
}

impl PhaseSpec {
    /// A phase in Rust that the host or its application trusts.
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
            body: Arc::new(BuiltIn::new(phase)),
            schedule,
            policy: Policy {
                trust: Trust::Host,
                mode: Mode::Enforce,
                grants: Grants::default(),
                on_failure: OnFailure::default(),
            },
            digest: None,
        }
    }
}

/// A phase, or a newer generation of one, that is wanted but does not run, with the reason.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RejectedPhase {
    /// Its name, as far as it is known.
    pub name: String,
    /// `wasm`, `native`, or empty if even that is unknown.
    pub kind: String,
    /// The manifest, or the module if it has no manifest.
    pub file: Option<PathBuf>,
    /// Why it does not run, in words for the operator.
    pub problem: String,
    /// The host will look at it again without being asked: other files of it may still arrive.
    pub is_pending: bool,
    /// Its module is being compiled; it is loaded after that.
    pub is_compiling: bool,
    /// Digest of the rejected files, if enough of them was there.
    pub digest: Option<[u8; 32]>,
    /// Seconds since 1970.
    pub since_unix_s: Option<u32>,
}

/// Why a set of phases cannot be registered.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPhases {
    #[error("two phases are called {0:?}; give one of them another name")]
    SameName(String),
    #[error("phase {phase:?} waits for {other:?}, which is not there; {hint}")]
    NoSuchPhase { phase: String, other: String, hint: String },
    #[error("phases wait for each other: {0}; take one `after` or `before` away")]
    Circle(String),
    #[error("settings of phase {phase:?}: {problem}")]
    Settings { phase: String, problem: String },
}

/// The bytes that a phase stored, and the phase's version number for their layout.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptMemory {
    /// Set by the phase; the host does not interpret it.
    pub version: u32,
    /// What the phase stored, unchanged. For a guest at most `grants.memory.max_bytes`.
    pub bytes: Vec<u8>,
}

/// Why a guest does not run until its bytes change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantine {
    /// Digest of the bytes that failed.
    pub digest: [u8; 32],
    /// The error of the run that caused it.
    pub why: String,
}

/// The state of one phase that outlives the process.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptPhase {
    /// What the phase stored in enforce mode; `None` if it never stored anything.
    pub memory: Option<KeptMemory>,
    /// What the phase stored in shadow mode. Shadow mode changes nothing else.
    pub shadow_memory: Option<KeptMemory>,
    /// Set while a guest is quarantined. Host phases never are.
    pub quarantine: Option<Quarantine>,
}

/// What an earlier process of this node left for its phases, with the time and interval of the new process.
#[derive(Clone, Default, Debug)]
#[doc(hidden)]
pub struct PriorState {
    pub last_runs: LastRuns,
    /// Memory and quarantine by phase name.
    pub kept: BTreeMap<String, KeptPhase>,
    pub unix_now: u32,
    /// Monotonic time of the new process.
    pub mono_now: Duration,
    /// The interval of the new process.
    pub interval: Duration,
}

/// A node's phases in the order in which they run.
#[doc(hidden)]
pub struct Registry {
    pub(crate) phases: Vec<Registered>,
    pub(crate) rejected: Vec<RejectedPhase>,
}

impl Registry {
    /// Checks and orders `specs`: host phases in the given order, then guests by name, except where `after` or `before`
    /// moves a phase. A guest that cannot be registered is added to `rejected`; the other phases still run.
    ///
    /// `spread` staggers the first runs of rare phases, differently on each node. `before` continues an earlier process.
    ///
    /// # Errors
    /// [`BadPhases`] names the host phase and the fix.
    pub fn new(
        specs: Vec<PhaseSpec>,
        mut rejected: Vec<RejectedPhase>,
        spread: impl Fn(&str) -> u64,
        before: &PriorState,
    ) -> Result<Self, BadPhases> {
        let specs = order::checked(specs, &mut rejected)?;
        let specs = order::order(specs, &mut rejected)?;
        let phases = specs.into_iter().map(|spec| Registered::new(spec, &spread, before)).collect();
        Ok(Self { phases, rejected })
    }

    /// The last runs to save, so that the next process continues the cadence. A phase that has never run is saved with
    /// the start of its period. Otherwise a node that restarts before each period ends would never run it.
    pub fn last_runs(&self, tick: u32, clock: &dyn Clock, interval: Duration) -> LastRuns {
        let mono = clock.mono();
        let last_run = |phase: &Registered| {
            let ticks = u64::try_from(i64::from(tick) - phase.timing.last_run).unwrap_or(0);
            let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
            LastRun {
                due_s: u32::try_from(ticks.saturating_mul(interval_ms) / 1000).unwrap_or(u32::MAX),
                ran_s: phase.last_run.map(|age| age.seconds(mono)),
                accepted_s: phase.last_accepted.map(|age| age.seconds(mono)),
            }
        };
        let phases = self.phases.iter().map(|phase| (phase.name.to_string(), last_run(phase))).collect();
        LastRuns { taken_unix_s: unix_seconds(clock), phases }
    }

    /// The output of `phases` with `connected` live peers: phases that run, in order, then those that cannot run.
    pub fn status(&self, connected: u32) -> Vec<PhaseStatus> {
        let candidate = |name: &str| self.rejected.iter().find(|rejected| rejected.name == name);
        let there = self.phases.iter().map(|phase| PhaseStatus {
            candidate: candidate(&phase.name).map(CandidateStatus::from),
            ..phase.status(connected)
        });
        let is_new =
            |rejected: &&RejectedPhase| !self.phases.iter().any(|phase| *phase.name == *rejected.name);
        there.chain(self.rejected.iter().filter(is_new).map(PhaseStatus::rejected)).collect()
    }
}
