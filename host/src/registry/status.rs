//! What each phase last did, for whoever asks between beats. Written once a beat, read at any time.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

/// How a phase stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseState {
    Active,
    /// Its breaker is open after failures in a row; it runs again by itself.
    Tripped,
    /// A run has not come back; it is not called again until it does.
    Stuck,
    /// Configured not to run.
    Off,
}

/// What `phases` shows of one phase.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PhaseStatus {
    pub name: Arc<str>,
    /// What it is made of: `built-in`, `wasm`, `native`.
    pub kind: Arc<str>,
    pub version: Arc<str>,
    pub summary: Arc<str>,
    pub state: PhaseState,
    /// The cadence that holds now; adaptive ones change with the number of connections.
    pub every_n_ticks: u32,
    pub last_run_tick: Option<u32>,
    pub next_due_tick: Option<u32>,
    pub runs: u64,
    pub failures: u64,
    /// Failures since the last run that ended well.
    pub failures_in_row: u32,
    /// Due runs that did not happen.
    pub missed: u64,
    pub last_duration_us: u64,
    pub last_success_unix_s: Option<u32>,
    pub last_error: Option<String>,
}

/// The phases of one node as of the last beat.
#[derive(Default)]
pub struct PhaseBoard(Mutex<Arc<Vec<PhaseStatus>>>);

impl PhaseBoard {
    /// By order of running.
    pub fn read(&self) -> Arc<Vec<PhaseStatus>> {
        Arc::clone(&self.0.lock())
    }

    pub(crate) fn write(&self, phases: Vec<PhaseStatus>) {
        *self.0.lock() = Arc::new(phases);
    }
}
