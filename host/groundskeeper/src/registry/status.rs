//! The status of each phase, for readers between beats. Written once per beat, read at any time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::RejectedPhase;
use crate::engine::policy::Mode;

/// The state of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PhaseState {
    /// Runs whenever it is due.
    #[default]
    Active,
    /// Its breaker is open after failures in a row. It closes again without the operator.
    Tripped,
    /// A run has not returned. The phase is not called again until it does.
    Stuck,
    /// A guest that failed too often, or reported that it cannot work. Runs again with new bytes or when it is resumed.
    Quarantined,
    /// A new generation that needs more good runs. If it fails, the former one returns.
    Probation,
    /// Wanted, and its module is being compiled since `candidate.since_unix_s` or `since_unix_s`.
    Compiling,
    /// Wanted, but not complete yet: `last_error` says what is missing.
    Pending,
    /// Wanted, but cannot run: `last_error` says why.
    Rejected,
    /// Stopped by the operator until it is resumed or the node restarts.
    Paused,
    /// Turned off in its configuration.
    Off,
}

impl PhaseState {
    /// Every state, for metrics that have one series per state.
    pub const ALL: [Self; 10] = [
        Self::Active,
        Self::Probation,
        Self::Tripped,
        Self::Stuck,
        Self::Quarantined,
        Self::Compiling,
        Self::Pending,
        Self::Rejected,
        Self::Paused,
        Self::Off,
    ];

    /// The name in metrics, in JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Tripped => "tripped",
            Self::Stuck => "stuck",
            Self::Quarantined => "quarantined",
            Self::Probation => "probation",
            Self::Compiling => "compiling",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Paused => "paused",
            Self::Off => "off",
        }
    }
}

/// One of a phase's own numbers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseMetric {
    /// Chosen by the phase. The same name in shadow mode is another number.
    pub name: String,
    /// Reported while the phase ran in shadow mode.
    pub shadow: bool,
    /// The sum it has added since it was loaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added: Option<u64>,
    /// The value it last set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<f64>,
}

/// A newer generation of a phase that does not run, and the reason.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CandidateStatus {
    /// `compiling`, `pending` or `rejected`.
    pub state: PhaseState,
    /// The problem with its files, in words for the operator.
    pub why: String,
    /// Short digest of its files, if enough of them was there.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// When its files were first found not to run, if that is known: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_unix_s: Option<u32>,
}

impl From<&RejectedPhase> for CandidateStatus {
    fn from(rejected: &RejectedPhase) -> Self {
        Self {
            state: rejected.state(),
            why: rejected.problem.clone(),
            digest: rejected.digest.as_ref().map(short_digest),
            since_unix_s: rejected.since_unix_s,
        }
    }
}

impl RejectedPhase {
    fn state(&self) -> PhaseState {
        match self {
            Self { is_compiling: true, .. } => PhaseState::Compiling,
            Self { is_pending: true, .. } => PhaseState::Pending,
            _ => PhaseState::Rejected,
        }
    }
}

/// The first six bytes of a digest: enough for people to compare.
pub(crate) fn short_digest(digest: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..6])
}

/// The output of `phases` for one phase. Fields are only added, with a default, so that older nodes can be read.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseStatus {
    /// The name in its manifest or spec; for a manifest that cannot be read, one made from the file name.
    pub name: Arc<str>,
    /// What the phase is made of: `built-in`, `wasm`, `native`.
    pub kind: Arc<str>,
    /// Version of the running generation; empty if none runs.
    pub version: Arc<str>,
    /// One line by the phase about itself; empty if no generation runs.
    pub summary: Arc<str>,
    /// If several apply: off, stuck, paused, quarantined, tripped, probation, in this order.
    pub state: PhaseState,
    /// Whether its asks are applied; `off` also for phases that cannot run.
    #[serde(default)]
    pub mode: Mode,
    /// Digest of the running generation: manifest and module together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// When it started, if that was after the node's start: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_unix_s: Option<u32>,
    /// Good runs that it needs before its probation ends.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probation_left: Option<u32>,
    /// A newer generation in the drop-in folder that does not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub candidate: Option<CandidateStatus>,
    /// The file that was rejected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[serde(serialize_with = "groundskeeper_base::paths::lossy_option")]
    pub file: Option<PathBuf>,
    /// The cadence now. Adaptive cadences change with the number of connections.
    pub every_n_ticks: u32,
    /// The last tick at which it was due, even if that run was skipped. `None` before its first run.
    pub last_run_tick: Option<u32>,
    /// `None` if it does not run again without the operator or new files.
    pub next_due_tick: Option<u32>,
    /// Runs since the node started, failed ones included.
    pub runs: u64,
    /// Runs since the node started that ended without an accepted plan.
    pub failures: u64,
    /// Failures since the last good run.
    pub failures_in_row: u32,
    /// Due runs that the open breaker will still skip.
    #[serde(default)]
    pub pause_left: u32,
    /// Due runs that did not happen.
    pub missed: u64,
    /// Due runs that waited for the next tick because the budget was used up.
    #[serde(default)]
    pub put_off: u64,
    /// Due runs that the machine could not carry out, for want of memory, threads or descriptors.
    #[serde(default)]
    pub skipped: u64,
    /// Those since the last run that the machine did carry out.
    #[serde(default)]
    pub skipped_in_row: u32,
    /// Log lines dropped because all guests together wrote more than `guests.log_bytes_per_tick`.
    #[serde(default)]
    pub log_dropped: u64,
    /// Refused asks by grant.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    /// Duration of the last run; 0 before the first one of this generation.
    pub last_duration_us: u64,
    /// Over its last 32 runs.
    #[serde(default)]
    pub median_duration_us: Option<u64>,
    /// What the last run used, if it is measured.
    #[serde(default)]
    pub last_fuel: Option<u64>,
    /// The most linear memory after a run of this generation, if it is measured.
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// The phase's own numbers.
    #[serde(default)]
    pub metrics: Vec<PhaseMetric>,
    /// When its last plan was accepted; `None` before the first one since the node started.
    pub last_success_unix_s: Option<u32>,
    /// Why the last run failed or was skipped, or why the phase cannot run. `None` after a good run.
    pub last_error: Option<String>,
}

impl PhaseStatus {
    pub(super) fn rejected(phase: &RejectedPhase) -> Self {
        Self {
            name: phase.name.as_str().into(),
            kind: phase.kind.as_str().into(),
            state: phase.state(),
            mode: Mode::Off,
            digest: phase.digest.as_ref().map(short_digest),
            since_unix_s: phase.since_unix_s,
            file: phase.file.clone(),
            last_error: Some(phase.problem.clone()),
            ..Self::default()
        }
    }
}

/// The phases of one node as of the last beat.
#[derive(Default)]
pub struct PhaseStatuses {
    phases: Mutex<Arc<Vec<PhaseStatus>>>,
    stuck: AtomicUsize,
}

impl PhaseStatuses {
    /// In the order of running, then those that were rejected.
    pub fn read(&self) -> Arc<Vec<PhaseStatus>> {
        Arc::clone(&self.phases.lock())
    }

    /// Threads that were left behind with a native phase that has not returned. At
    /// [`MOST_STUCK`](crate::engine::MOST_STUCK) no native phase runs.
    pub fn stuck(&self) -> usize {
        self.stuck.load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, phases: Vec<PhaseStatus>, stuck: usize) {
        *self.phases.lock() = Arc::new(phases);
        self.stuck.store(stuck, Ordering::Relaxed);
    }
}
