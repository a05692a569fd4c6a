//! Snapshots of a node's traffic, and the trait that provides them. Counts nothing itself.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use serde::{Deserialize, Serialize};

use super::{BreakerState, LatencySnapshot, Priority};

/// How one attempt at a request ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttemptEnd {
    /// With an answer of an accepted size.
    Answered,
    /// The peer reported a failure, does not handle the kind, or answered with too many bytes.
    Failed,
    /// The peer said that it is busy.
    Busy,
    /// No answer came within the time-out of the attempt.
    TimedOut,
    /// The peer's breaker was open.
    Refused,
    /// The request was not sent, or its connection ended.
    Lost,
    /// The caller stopped waiting.
    Dropped,
}

impl AttemptEnd {
    /// Length of an array with one entry per end.
    pub const COUNT: usize = 7;
    /// Every end. The index is `end as usize`.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Answered, Self::Failed, Self::Busy, Self::TimedOut, Self::Refused, Self::Lost, Self::Dropped];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Busy => "busy",
            Self::TimedOut => "timed-out",
            Self::Refused => "refused",
            Self::Lost => "lost",
            Self::Dropped => "dropped",
        }
    }
}

/// Why an incoming connection did not become live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NewcomerRefusal {
    /// A limit of the pool, before any work was done.
    Limit,
    /// The handshake was not done in time.
    TimedOut,
    /// It does not speak TLS, or not ours.
    Garbage,
    /// It showed no key, or not a proper one.
    Key,
    /// It belongs to another network.
    OtherNetwork,
    /// No common version, or no proper hello.
    Hello,
    /// It hung up during the handshake.
    Closed,
    /// A ban, a duplicate, or this node itself.
    Denied,
    /// The process has no descriptor or no memory to spare for it.
    Shortage,
}

impl NewcomerRefusal {
    /// Length of an array with one entry per reason.
    pub const COUNT: usize = 9;
    /// Every reason. The index is `reason as usize`.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Limit,
        Self::TimedOut,
        Self::Garbage,
        Self::Key,
        Self::OtherNetwork,
        Self::Hello,
        Self::Closed,
        Self::Denied,
        Self::Shortage,
    ];

    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::TimedOut => "timed-out",
            Self::Garbage => "garbage",
            Self::Key => "key",
            Self::OtherNetwork => "other-network",
            Self::Hello => "hello",
            Self::Closed => "closed",
            Self::Denied => "denied",
            Self::Shortage => "shortage",
        }
    }
}

/// Requests of one kind, over all peers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KindSnapshot {
    /// Name of the kind; "other" for all kinds beyond the first 64.
    pub kind: Arc<str>,
    /// Attempts by how they ended, in the order of [`AttemptEnd::ALL`].
    pub ends: [u64; AttemptEnd::COUNT],
    /// Latency of the answers in the last one to two minutes.
    pub latency: LatencySnapshot,
    /// The time-out in force for a peer of which nothing is known yet, in microseconds. A peer that has answered has its
    /// own, by its own times.
    #[serde(default)]
    pub timeout_us: u64,
}

/// A breaker that is not closed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerBreaker {
    /// The connected peer whose requests it stops.
    pub peer: PeerId,
    /// Kind of request.
    pub kind: Arc<str>,
    /// Open or half-open.
    pub state: BreakerState,
}

/// Frames and bytes over all connections. Arrays are in the order of [`Priority::ALL`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficSnapshot {
    /// Bytes that wait to be sent.
    pub queued_bytes: u64,
    /// Bytes that may wait.
    pub budget_bytes: u64,
    /// Bytes of large frames that are being received or handled.
    #[serde(default)]
    pub receiving_bytes: u64,
    /// Bytes of large frames that may be received or handled at once.
    #[serde(default)]
    pub receiving_budget_bytes: u64,
    /// How often a connection was not read because there was no room for its frame.
    #[serde(default)]
    pub receiving_pauses: u64,
    /// Connections that ended because of an unfinished frame: it came too slowly, or there was no room for it.
    #[serde(default)]
    pub receiving_given_up: u64,
    /// Frames taken from queues to be written.
    pub sent: [u64; Priority::COUNT],
    /// Frames that found their connection's queue full.
    pub full: [u64; Priority::COUNT],
    /// Frames for which the budget had no room.
    pub refused: [u64; Priority::COUNT],
    /// Frames dropped from queues because memory was short.
    pub shed: [u64; Priority::COUNT],
    /// Frames that had expired when their turn came.
    pub expired: u64,
    /// Requests of this node that are open.
    pub pending: u64,
    /// Retries that the retry budget allowed, since the start.
    pub retried: u64,
    /// Second requests sent because the first was slow, since the start.
    pub hedged: u64,
    /// Breakers that opened since the start.
    pub breakers_opened: u64,
    /// Answers that broke the rules: too large, or given twice.
    pub misbehaved: u64,
    /// Broadcasts and one-way messages of peers that were dropped: above their number a second, and above the time that they
    /// may take.
    #[serde(default)]
    pub deliveries_dropped: [u64; 2],
    /// Incoming connections that did not become live, in the order of [`NewcomerRefusal::ALL`].
    #[serde(default)]
    pub newcomers_refused: [u64; NewcomerRefusal::COUNT],
    /// How long frames at most waited in their queue for a connection that did not take more, by priority. Counts groups
    /// of frames that were taken together.
    #[serde(default)]
    pub frame_waits: [LatencySnapshot; Priority::COUNT],
    /// How long requests of peers waited for a worker, over all kinds with a capacity.
    #[serde(default)]
    pub slot_waits: LatencySnapshot,
    /// Signs that another process runs with this node's key; none if there was none in the last day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_conflict: Option<KeyConflict>,
}

/// Another process runs with this node's key: each of the two takes the other's peers.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KeyConflict {
    /// Signs of it since the start.
    pub signs: u64,
    /// Seconds since the last one.
    pub last_s: u64,
    /// The last one, in words; they may be those of a peer.
    pub last: String,
}

/// Reports the traffic of a node. Reading does not block the writers.
pub trait TrafficReport: Send + Sync + 'static {
    /// What waits now, and counts since the start.
    fn traffic(&self) -> TrafficSnapshot;

    /// One entry per kind, sorted by name.
    fn kinds(&self) -> Vec<KindSnapshot>;

    /// Breakers of connected peers that are not closed.
    fn breakers(&self) -> Vec<PeerBreaker>;
}
