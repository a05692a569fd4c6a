//! The answers of the API, as types that the command line reads back. Append-only: newer clients read older nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use groundskeeper_base::lock::LockWaits;
use serde::{Deserialize, Serialize};

use crate::disk::DiskTrouble;
use crate::flow::{BreakerState, KindSnapshot, TrafficSnapshot};
use crate::journal::Record;
use crate::peer::PeerId;
use crate::pool::{Direction, PoolStats};
use crate::registry::{PhaseState, PhaseStatus};

/// `GET /status`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node's own id.
    pub node: PeerId,
    pub version: String,
    pub network: String,
    /// Number of the last tick that has begun; 0 before the first.
    pub tick: u32,
    pub interval_ms: u64,
    pub uptime_s: u64,
    pub listening: Vec<SocketAddr>,
    /// The absolute path of the drop-in folder, if the node has one. Bytes that are not UTF-8 are replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drop_in: Option<String>,
    pub pool: PoolStatus,
    pub book: BookStatus,
    pub journal: JournalStatus,
    /// Figures of the network, if the node has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficSnapshot>,
    /// Requests sent by this node, by kind.
    #[serde(default)]
    pub requests: Vec<KindSnapshot>,
    /// How long users of the node's locks have waited since the start, by lock.
    #[serde(default)]
    pub locks: BTreeMap<String, LockWaits>,
    pub phases: Vec<PhaseStatus>,
    /// File operations that do not return, and saves that fail.
    #[serde(default)]
    pub disk: Vec<DiskTrouble>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PoolStatus {
    #[serde(flatten)]
    pub stats: PoolStats,
    pub capacity: u32,
    pub bans: usize,
    /// Connections that have ended since the start. Equals `journal.disconnects`.
    pub removals: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BookStatus {
    pub addresses: usize,
    pub dialing: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Live connections that have ended since the node started.
    pub disconnects: u64,
    /// Records in memory.
    pub notable: usize,
    pub chatter: usize,
    pub lines_lost: u64,
}

/// `GET /peers?limit=`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peers {
    /// All live connections, also those beyond the limit.
    pub total: usize,
    pub peers: Vec<Peer>,
}

/// One live connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Peer {
    pub id: PeerId,
    pub address: SocketAddr,
    pub direction: Direction,
    /// Number of the connection since the node started.
    pub conn: u32,
    pub health: u8,
    pub idle_s: u32,
    pub age_s: u32,
    /// Smoothed round-trip time; `None` before it was measured.
    pub rtt_us: Option<u32>,
    /// Seconds since that was measured.
    #[serde(default)]
    pub rtt_age_s: Option<u32>,
    pub pings_lost: u8,
    pub protected: bool,
    pub kib_in: u32,
    pub kib_out: u32,
    pub kib_queued: u32,
    /// Its circuit breakers that are not closed, by kind of request.
    #[serde(default)]
    pub breakers: BTreeMap<Arc<str>, BreakerState>,
    /// The software that the peer claims to run. Untrusted.
    pub agent: String,
}

/// `GET /phases`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseList {
    pub tick: u32,
    pub phases: Vec<PhaseStatus>,
}

/// `POST /phases/{name}/resume`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeAnswer {
    pub phase: String,
    /// The phase's state before.
    pub was: PhaseState,
}

/// `POST /reload/hold?for=`, in seconds: drop-in changes wait that long, or until `POST /reload`. 0 ends the hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadHold {
    /// The drop-in folder.
    #[serde(with = "crate::base::paths::exact")]
    pub folder: PathBuf,
}

/// `GET /explain/{peer id, its beginning, ip:port, ip or name of a phase}`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The peer concerned. `None` for an address without a known peer, and for a phase.
    pub peer: Option<PeerId>,
    /// Its current connection.
    pub connected: Option<Peer>,
    /// Of the peer, of the address or of the phase, from memory and from the journal's file; oldest first.
    pub records: Vec<Record>,
    /// Records without a peer that happened at addresses of the peer: dials before a key was known, newcomers refused before
    /// they showed one. Oldest first.
    #[serde(default)]
    pub at_its_addresses: Vec<Record>,
    /// Where the address book has the peer.
    #[serde(default)]
    pub known_at: Vec<SocketAddr>,
    /// If a phase was meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseExplanation>,
    /// What else could have been meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// How far back the records go.
    #[serde(default)]
    pub past: JournalPast,
}

/// What a phase is and did lately.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseExplanation {
    pub name: String,
    /// As `phases` lists it; `None` if only records are left of it.
    pub status: Option<PhaseStatus>,
    /// Its last runs since the node started, oldest first.
    pub runs: Vec<RunSummary>,
}

/// One run of a phase.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunSummary {
    pub tick: u32,
    /// 0 for the tick itself, otherwise the number of the urgent beat after it.
    pub urgent: u32,
    pub unix_ms: u64,
    /// As `groundskeeper_phase_runs_total` has it.
    pub result: String,
    pub took_us: u64,
    pub fuel: Option<u64>,
    /// Outcomes of its asks, without those that are 0.
    pub tally: BTreeMap<String, u32>,
    /// The error, if it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// How far back the records of an answer go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalPast {
    /// The journal's file. Without one, nothing from before the start is known.
    pub file: Option<String>,
    /// When the node started.
    pub start_unix_ms: u64,
    /// The oldest record that was read in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_unix_ms: Option<u64>,
    /// Lines of the file that are not records: torn by a crash, or damaged.
    #[serde(default)]
    pub unreadable: u64,
    /// Records that did not reach the file.
    #[serde(default)]
    pub lost: u64,
    /// Why older records may be missing, other than by age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// `GET /journal?limit=&since_unix_ms=&phase=&peer=&what=`
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalPage {
    /// The newest records, oldest first.
    pub records: Vec<Record>,
    /// How far back they go; `None` from a node that does not say.
    #[serde(default)]
    pub past: Option<JournalPast>,
}

/// `GET /healthz`, `GET /readyz`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    pub ok: bool,
    /// What is wrong; empty if nothing is.
    pub why: Vec<String>,
}

/// Every answer other than 200, except those of `/healthz` and `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: String,
}
