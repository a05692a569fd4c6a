//! The record of every action: initiator, reason, inputs, outcome. Stores and answers queries; makes no decisions.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

mod file;
pub use file::JournalFile;

/// Why a live connection ended. A closed set: a new reason needs a new variant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// A phase asked for it; the record names which and why.
    Phase,
    /// A phase banned the peer.
    Banned,
    /// The remote side said goodbye; its reason is in the text.
    RemoteGoodbye,
    /// The remote side closed the stream, or its host reset it, without a goodbye.
    RemoteClosed,
    /// The remote side broke a rule of the protocol.
    ProtocolError,
    /// The transport failed during a write.
    WriteFailure,
    /// A limit of this node was lowered below the number of connections.
    Limits,
    /// The same peer connected again and the newer connection won.
    Replaced,
    /// This node is shutting down.
    Shutdown,
    /// The application that attached the connection dropped it.
    OwnerDropped,
}

impl Cause {
    /// All causes, in the order of the enum.
    pub const ALL: [Cause; 10] = [
        Cause::Phase,
        Cause::Banned,
        Cause::RemoteGoodbye,
        Cause::RemoteClosed,
        Cause::ProtocolError,
        Cause::WriteFailure,
        Cause::Limits,
        Cause::Replaced,
        Cause::Shutdown,
        Cause::OwnerDropped,
    ];

    /// The name in metrics, JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Cause::Phase => "phase",
            Cause::Banned => "banned",
            Cause::RemoteGoodbye => "remote-goodbye",
            Cause::RemoteClosed => "remote-closed",
            Cause::ProtocolError => "protocol-error",
            Cause::WriteFailure => "write-failure",
            Cause::Limits => "limits",
            Cause::Replaced => "replaced",
            Cause::Shutdown => "shutdown",
            Cause::OwnerDropped => "owner-dropped",
        }
    }
}

/// Who initiated an action.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Initiator {
    /// A phase, built in or a guest; in most cases by an ask of its plan.
    Phase {
        /// The name in its manifest, or of the built-in phase.
        name: Arc<str>,
        /// The version that ran.
        version: Arc<str>,
    },
    /// The node itself: limits, duplicates, shutdown.
    Host,
    /// The other end of the connection.
    Remote,
    /// The application that embeds the host.
    Application,
    /// A user of the node's admin socket.
    Operator,
}

impl std::fmt::Display for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Initiator::Phase { name, version } => write!(f, "{name} {version}"),
            Initiator::Host => f.write_str("host"),
            Initiator::Remote => f.write_str("remote"),
            Initiator::Application => f.write_str("application"),
            Initiator::Operator => f.write_str("operator"),
        }
    }
}

/// What a record is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActionKind {
    /// A connection became live.
    Connect,
    /// A live connection ended.
    Disconnect,
    /// A dial began or ended; see `outcome`.
    Dial,
    /// A probe began or ended; see `outcome`. It is a dial that hangs up after the handshake.
    Probe,
    /// A phase asked to ban a peer.
    Ban,
    /// A phase asked to change a connection's health, or the host changed it after an answer or a failure.
    Health,
    /// A phase asked to ping peers; `count` says how many.
    Ping,
    /// A phase asked to protect a connection from other phases for a while.
    Protect,
    /// A phase asked to forget old broadcasts; `count` says how many.
    ForgetBroadcasts,
    /// A phase asked to forget old addresses; `count` says how many.
    ForgetAddresses,
    /// A phase asked to run again after a number of ticks; the reason gives the number.
    AgainIn,
    /// An incoming or outgoing connection that never became live.
    Refused,
    /// A run of a phase that applied nothing.
    PhaseFailed,
    /// A phase asked to store its memory.
    Memory,
    /// A phase asked to report metrics.
    Metrics,
    /// A phase was resumed.
    Resume,
    /// A phase was paused.
    Pause,
    /// A phase was added, changed or removed, or rolled back to its previous generation.
    Reload,
    /// Ticks were skipped, or the machine slept.
    Late,
    /// The owner of a closing connection did not release it in time and was aborted.
    Aborted,
    /// The circuit breaker of a peer stops requests, tries one, or lets them through again.
    Breaker,
}

impl ActionKind {
    /// Disconnects, bans, dials and probes have a separate ring, so that chatter never pushes out an explanation. An
    /// ask that was not applied is chatter: a greedy guest can make more of them in one tick than the ring holds.
    fn is_notable(self, outcome: &Outcome) -> bool {
        matches!(self, ActionKind::Disconnect | ActionKind::Ban | ActionKind::Dial | ActionKind::Probe)
            && matches!(outcome, Outcome::Applied | Outcome::Started | Outcome::Failed(_))
    }
}

/// Outcome of an action.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "why")]
pub enum Outcome {
    /// Done, in full or in the part that was granted.
    Applied,
    /// Started; another record gives the end.
    Started,
    /// No longer applicable: the peer spoke, or is gone.
    Void(String),
    /// Not allowed, or not possible.
    Refused(String),
    /// Tried and failed.
    Failed(String),
    /// Would have been applied if its phase were not in shadow mode.
    Shadow,
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Outcome::Applied => f.write_str("applied"),
            Outcome::Started => f.write_str("started"),
            Outcome::Void(why) => write!(f, "void: {why}"),
            Outcome::Refused(why) => write!(f, "refused: {why}"),
            Outcome::Failed(why) => write!(f, "failed: {why}"),
            Outcome::Shadow => f.write_str("shadow: would have been applied"),
        }
    }
}

/// A named number that a decision was based on, in the unit of the column of that name.
pub type Input = (std::borrow::Cow<'static, str>, u32);

/// The caller's part of a record; the journal adds number, time and beat.
#[derive(Clone, Debug)]
pub struct NewRecord {
    /// Who wants the action, even if the host refuses it.
    pub by: Initiator,
    /// Together with `outcome` it decides which ring keeps the record: see [`JournalLimits`].
    pub what: ActionKind,
    /// None if the action concerns no single peer, or if the peer's key is not known.
    pub peer: Option<PeerId>,
    /// The number of the connection since the host started.
    pub conn: Option<u32>,
    /// The remote address of the connection or the dial, if the action concerns one.
    pub address: Option<SocketAddr>,
    /// Only for disconnects.
    pub cause: Option<Cause>,
    /// Why, in words for the operator; may be empty.
    pub reason: String,
    /// The numbers that the decision was based on, if there were any.
    pub inputs: Vec<Input>,
    /// [`NewRecord::new`] sets [`Outcome::Applied`].
    pub outcome: Outcome,
    /// How many things one action touched: peers pinged, broadcasts forgotten.
    pub count: u32,
}

impl NewRecord {
    /// An applied action on one thing, without peer, connection, address, cause or inputs.
    pub fn new(by: Initiator, what: ActionKind, reason: impl Into<String>) -> Self {
        Self {
            by,
            what,
            peer: None,
            conn: None,
            address: None,
            cause: None,
            reason: reason.into(),
            inputs: Vec::new(),
            outcome: Outcome::Applied,
            count: 1,
        }
    }
}

/// One line of the journal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Record {
    /// Counts all records since the host started, from 1, without gaps.
    pub seq: u64,
    /// Wall time at which the record was written, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The last tick that had begun when the record was written.
    pub tick: u32,
    /// Number of the urgent beat after that tick, 0 for the tick itself.
    pub beat: u32,
    /// See [`NewRecord::by`].
    pub by: Initiator,
    /// See [`NewRecord::what`].
    pub what: ActionKind,
    /// See [`NewRecord::peer`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub peer: Option<PeerId>,
    /// The number of the connection since the host started.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub conn: Option<u32>,
    /// See [`NewRecord::address`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub address: Option<SocketAddr>,
    /// Only for disconnects.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cause: Option<Cause>,
    /// Why, in words for the operator; may be empty.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub reason: String,
    /// The numbers that the decision was based on, if there were any.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub inputs: Vec<Input>,
    /// See [`NewRecord::outcome`].
    pub outcome: Outcome,
    /// How many things one action touched: peers pinged, broadcasts forgotten.
    pub count: u32,
}

/// How many records stay in memory. A record takes about 300 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalLimits {
    /// Disconnects, bans, dials and probes.
    pub notable: usize,
    /// Everything else.
    pub chatter: usize,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { notable: 8192, chatter: 4096 }
    }
}

#[derive(Default)]
struct Rings {
    seq: u64,
    notable: VecDeque<Record>,
    chatter: VecDeque<Record>,
}

/// The journal of one node. Recording takes one short lock and never touches the disk.
pub struct Journal {
    clock: Arc<dyn Clock>,
    limits: JournalLimits,
    rings: Mutex<Rings>,
    /// The current beat: tick in the upper half, number of the urgent beat in the lower.
    beat: AtomicU64,
    disconnects: [AtomicU64; Cause::ALL.len()],
    file: Option<JournalFile>,
}

impl Journal {
    /// Creates an empty journal. With `file`, each record is also written there.
    pub fn new(clock: Arc<dyn Clock>, limits: JournalLimits, file: Option<JournalFile>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            limits,
            rings: Mutex::default(),
            beat: AtomicU64::new(0),
            disconnects: Default::default(),
            file,
        })
    }

    /// Waits, at most this long, until all records are in the file. Blocks the caller. False if they are not.
    #[doc(hidden)]
    pub fn finish_file(&self, deadline: std::time::Duration) -> bool {
        self.file.as_ref().is_none_or(|file| file.finish(deadline))
    }

    /// Later records belong to this beat.
    #[doc(hidden)]
    pub fn begin_beat(&self, tick: u32, beat: u32) {
        self.beat.store(u64::from(tick) << 32 | u64::from(beat), Ordering::Relaxed);
    }

    /// The current beat: tick, and number of the urgent beat after it.
    fn current_beat(&self) -> (u32, u32) {
        let beat = self.beat.load(Ordering::Relaxed);
        ((beat >> 32) as u32, beat as u32)
    }

    /// Writes one record and returns its number.
    pub fn record(&self, draft: NewRecord) -> u64 {
        let (tick, beat) = self.current_beat();
        let NewRecord { by, what, peer, conn, address, cause, reason, inputs, outcome, count } = draft;
        debug_assert_eq!(what == ActionKind::Disconnect && outcome == Outcome::Applied, cause.is_some());
        if let Some(cause) = cause {
            self.disconnects[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        let unix_ms = self.clock.unix().as_millis() as u64;
        let mut rings = self.rings.lock();
        rings.seq += 1;
        let seq = rings.seq;
        let record = Record {
            seq,
            unix_ms,
            tick,
            beat,
            by,
            what,
            peer,
            conn,
            address,
            cause,
            reason,
            inputs,
            outcome,
            count,
        };
        if let Some(file) = &self.file {
            file.append(&record);
        }
        let (ring, cap) = if what.is_notable(&record.outcome) {
            (&mut rings.notable, self.limits.notable)
        } else {
            (&mut rings.chatter, self.limits.chatter)
        };
        if ring.len() >= cap {
            ring.pop_front();
        }
        ring.push_back(record);
        seq
    }

    /// Number of live connections that have ended since the host started. Does not depend on what the rings still hold.
    pub fn disconnects(&self) -> u64 {
        Cause::ALL.into_iter().map(|cause| self.disconnects_by(cause)).sum()
    }

    /// The share of [`Journal::disconnects`] that has this cause.
    pub fn disconnects_by(&self, cause: Cause) -> u64 {
        self.disconnects[cause as usize].load(Ordering::Relaxed)
    }

    /// The newest `limit` records that `keep` accepts, oldest first. O(records held).
    pub fn select(&self, limit: usize, mut keep: impl FnMut(&Record) -> bool) -> Vec<Record> {
        let rings = self.rings.lock();
        let mut found: Vec<Record> =
            rings.notable.iter().chain(&rings.chatter).filter(|record| keep(record)).cloned().collect();
        drop(rings);
        found.sort_unstable_by_key(|record| record.seq);
        found.split_off(found.len().saturating_sub(limit))
    }

    /// All records still held about one peer, oldest first.
    pub fn explain(&self, peer: &PeerId) -> Vec<Record> {
        self.select(usize::MAX, |record| record.peer.as_ref() == Some(peer))
    }

    /// Number of records in the two rings: notable, others.
    pub fn held(&self) -> (usize, usize) {
        let rings = self.rings.lock();
        (rings.notable.len(), rings.chatter.len())
    }

    /// Lines that could not be written to the journal's file, 0 without one.
    pub fn lines_lost(&self) -> u64 {
        self.file.as_ref().map_or(0, JournalFile::lost)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use groundskeeper_base::clock::TokioClock;

    fn journal(limits: JournalLimits) -> Arc<Journal> {
        Journal::new(TokioClock::starting_at(Duration::from_secs(1_700_000_000)), limits, None)
    }

    fn disconnect(peer: u8) -> NewRecord {
        NewRecord {
            peer: Some(PeerId::from_bytes([peer; 32])),
            cause: Some(Cause::RemoteClosed),
            ..NewRecord::new(Initiator::Remote, ActionKind::Disconnect, "closed")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn chatter_never_pushes_out_an_explanation() {
        let journal = journal(JournalLimits { notable: 4, chatter: 4 });
        journal.record(disconnect(1));
        for _ in 0..100 {
            journal.record(NewRecord::new(Initiator::Host, ActionKind::Ping, "keep-alive"));
        }
        assert_eq!(journal.explain(&PeerId::from_bytes([1; 32])).len(), 1);
        assert_eq!(journal.held(), (1, 4));
        assert_eq!(journal.select(2, |_| true).iter().map(|r| r.seq).collect::<Vec<_>>(), [100, 101]);
    }

    #[tokio::test(start_paused = true)]
    async fn totals_outlive_the_ring() {
        let journal = journal(JournalLimits { notable: 2, chatter: 2 });
        (0..10).for_each(|i| _ = journal.record(disconnect(i)));
        assert_eq!((journal.disconnects(), journal.disconnects_by(Cause::RemoteClosed)), (10, 10));
        assert_eq!(journal.held().0, 2);
    }

    #[test]
    fn every_cause_has_its_own_place_and_name() {
        for (place, cause) in Cause::ALL.into_iter().enumerate() {
            assert_eq!(cause as usize, place);
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.as_str());
            assert!(!["other", "unknown"].contains(&cause.as_str()));
        }
    }
}
