//! The answers of the API, as types that the command line reads back. Append-only: newer clients read older nodes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
    pub phases: Vec<PhaseStatus>,
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
    /// `None` before the first answered ping.
    pub rtt_us: Option<u32>,
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
    pub folder: PathBuf,
}

/// `GET /explain/{peer id, its beginning, ip:port or ip}`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The peer concerned. `None` for an address without a known peer.
    pub peer: Option<PeerId>,
    /// Its current connection.
    pub connected: Option<Peer>,
    /// Oldest first.
    pub records: Vec<Record>,
}

/// `GET /journal?limit=`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JournalPage {
    /// The newest records, oldest first.
    pub records: Vec<Record>,
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
