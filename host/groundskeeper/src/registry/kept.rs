//! What outlives the process, of one phase: its memory, its shadow's, and why it is quarantined. Plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// When phases ran, as it is kept across restarts: seconds since 1970 by name.
pub type LastRuns = BTreeMap<String, u32>;

/// Bytes that a phase stored, and its own number for their layout.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptMemory {
    pub version: u32,
    pub bytes: Vec<u8>,
}

/// Why a guest does not run until its bytes change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Quarantine {
    /// Of the bytes that failed.
    pub digest: [u8; 32],
    pub why: String,
}

/// What outlives the process, of one phase.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeptPhase {
    pub memory: Option<KeptMemory>,
    /// What it stored in shadow mode, which touches nothing else.
    pub shadow_memory: Option<KeptMemory>,
    pub quarantine: Option<Quarantine>,
}
