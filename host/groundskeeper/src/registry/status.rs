//! What each phase last did, for whoever asks between beats. Written once a beat, read at any time.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::RejectedPhase;
use crate::engine::policy::Mode;

/// How a phase stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum PhaseState {
    #[default]
    Active,
    /// Its breaker is open after failures in a row; it runs again by itself.
    Tripped,
    /// A run has not come back; it is not called again until it does.
    Stuck,
    /// A guest that failed too often, or said that it cannot work: it runs again when its bytes change or when somebody
    /// resumes it.
    Quarantined,
    /// A new generation that has not run well often enough: if it fails, the one before it returns.
    Probation,
    /// Wanted, and not whole yet: `last_error` tells what is waited for.
    Pending,
    /// Wanted, and not there: `last_error` tells why.
    Rejected,
    /// Kept from running by the operator, until it is resumed or the node starts anew.
    Paused,
    /// Configured not to run.
    Off,
}

impl PhaseState {
    pub const ALL: [Self; 9] = [
        Self::Active,
        Self::Probation,
        Self::Tripped,
        Self::Stuck,
        Self::Quarantined,
        Self::Pending,
        Self::Rejected,
        Self::Paused,
        Self::Off,
    ];

    /// The name in metrics, JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Tripped => "tripped",
            Self::Stuck => "stuck",
            Self::Quarantined => "quarantined",
            Self::Probation => "probation",
            Self::Pending => "pending",
            Self::Rejected => "rejected",
            Self::Paused => "paused",
            Self::Off => "off",
        }
    }
}

/// One number of a phase's own.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseMetric {
    pub name: String,
    /// Reported while the phase ran in shadow mode.
    pub shadow: bool,
    /// What it has added since it was loaded.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub added: Option<u64>,
    /// What it last set.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<f64>,
}

/// A newer generation of a phase that does not run, and why.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CandidateStatus {
    /// `pending` or `rejected`.
    pub state: PhaseState,
    pub why: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
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
        if self.is_pending { PhaseState::Pending } else { PhaseState::Rejected }
    }
}

/// As much of a digest as people compare.
pub(crate) fn short_digest(digest: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&digest[..6])
}

/// What `phases` shows of one phase. Fields are only ever added, each with a default for older nodes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PhaseStatus {
    pub name: Arc<str>,
    /// What it is made of: `built-in`, `wasm`, `native`.
    pub kind: Arc<str>,
    pub version: Arc<str>,
    pub summary: Arc<str>,
    pub state: PhaseState,
    #[serde(default)]
    pub mode: Mode,
    /// Of the generation that runs: manifest and module together.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Since when it runs, if it came while the node ran: seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub since_unix_s: Option<u32>,
    /// Good runs that it still owes before it counts as good.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probation_left: Option<u32>,
    /// What lies in the drop-in folder in its place and does not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub candidate: Option<CandidateStatus>,
    /// The file that was rejected.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub file: Option<PathBuf>,
    /// The cadence that holds now; adaptive ones change with the number of connections.
    pub every_n_ticks: u32,
    pub last_run_tick: Option<u32>,
    pub next_due_tick: Option<u32>,
    pub runs: u64,
    pub failures: u64,
    /// Failures since the last run that ended well.
    pub failures_in_row: u32,
    /// Due runs that its breaker still lets pass.
    #[serde(default)]
    pub pause_left: u32,
    /// Due runs that did not happen.
    pub missed: u64,
    /// Due runs that waited for the next tick because the budget was used up.
    #[serde(default)]
    pub put_off: u64,
    /// Asks that were refused, by grant.
    #[serde(default)]
    pub refused: BTreeMap<String, u64>,
    pub last_duration_us: u64,
    /// Of its last 32 runs.
    #[serde(default)]
    pub median_duration_us: Option<u64>,
    /// What the last run used, where it is measured.
    #[serde(default)]
    pub last_fuel: Option<u64>,
    #[serde(default)]
    pub memory_peak_bytes: Option<u64>,
    /// Its own numbers.
    #[serde(default)]
    pub metrics: Vec<PhaseMetric>,
    pub last_success_unix_s: Option<u32>,
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
pub struct PhaseBoard(Mutex<Arc<Vec<PhaseStatus>>>);

impl PhaseBoard {
    /// By order of running, then those that were rejected.
    pub fn read(&self) -> Arc<Vec<PhaseStatus>> {
        Arc::clone(&self.0.lock())
    }

    pub(crate) fn write(&self, phases: Vec<PhaseStatus>) {
        *self.0.lock() = Arc::new(phases);
    }
}
