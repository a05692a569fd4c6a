//! The record of every action: initiator, reason, inputs, outcome. Stores and answers queries; makes no decisions.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groundskeeper_base::clock::Clock;
use groundskeeper_base::lock::{LockWaits, WatchedMutex};
use groundskeeper_base::peer::PeerId;
use groundskeeper_base::problem::unknown_name_hint;
use serde::{Deserialize, Serialize};

mod file;
mod filter;
mod history;
mod rooms;
#[cfg(test)]
mod tests;

pub use file::JournalFile;
pub use filter::{JournalFilter, RecordPeer};
pub use history::{JournalHistory, ReadLimits};
pub use rooms::RoomUse;
use rooms::Rooms;

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
    /// A user of the node's admin socket, or a person who changed the config or sent a signal.
    Operator {
        /// The user id by the credentials of the socket. None if the order came another way: a file or a signal.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        uid: Option<u32>,
    },
}

impl Initiator {
    /// An operator whose user id is not known.
    pub const OPERATOR: Self = Self::Operator { uid: None };
}

impl std::fmt::Display for Initiator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Initiator::Phase { name, version } => write!(f, "{name} {version}"),
            Initiator::Host => f.write_str("host"),
            Initiator::Remote => f.write_str("remote"),
            Initiator::Application => f.write_str("application"),
            Initiator::Operator { uid: None } => f.write_str("operator"),
            Initiator::Operator { uid: Some(uid) } => write!(f, "operator uid {uid}"),
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
    /// A due run that the machine could not carry out: it was short of memory, threads or descriptors.
    PhaseSkipped,
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
    /// A phase was quarantined because it failed too often.
    Quarantine,
    /// An operator ran a phase outside of its schedule.
    RunNow,
    /// The config was read again; the reason lists what changed.
    Config,
    /// Another process runs with this node's key; the reason says how that showed.
    KeyConflict,
}

impl ActionKind {
    /// All kinds, in the order of the enum.
    pub const ALL: [ActionKind; 26] = [
        ActionKind::Connect,
        ActionKind::Disconnect,
        ActionKind::Dial,
        ActionKind::Probe,
        ActionKind::Ban,
        ActionKind::Health,
        ActionKind::Ping,
        ActionKind::Protect,
        ActionKind::ForgetBroadcasts,
        ActionKind::ForgetAddresses,
        ActionKind::AgainIn,
        ActionKind::Refused,
        ActionKind::PhaseFailed,
        ActionKind::PhaseSkipped,
        ActionKind::Memory,
        ActionKind::Metrics,
        ActionKind::Resume,
        ActionKind::Pause,
        ActionKind::Reload,
        ActionKind::Late,
        ActionKind::Aborted,
        ActionKind::Breaker,
        ActionKind::Quarantine,
        ActionKind::RunNow,
        ActionKind::Config,
        ActionKind::KeyConflict,
    ];

    /// The name in JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            ActionKind::Connect => "connect",
            ActionKind::Disconnect => "disconnect",
            ActionKind::Dial => "dial",
            ActionKind::Probe => "probe",
            ActionKind::Ban => "ban",
            ActionKind::Health => "health",
            ActionKind::Ping => "ping",
            ActionKind::Protect => "protect",
            ActionKind::ForgetBroadcasts => "forget-broadcasts",
            ActionKind::ForgetAddresses => "forget-addresses",
            ActionKind::AgainIn => "again-in",
            ActionKind::Refused => "refused",
            ActionKind::PhaseFailed => "phase-failed",
            ActionKind::PhaseSkipped => "phase-skipped",
            ActionKind::Memory => "memory",
            ActionKind::Metrics => "metrics",
            ActionKind::Resume => "resume",
            ActionKind::Pause => "pause",
            ActionKind::Reload => "reload",
            ActionKind::Late => "late",
            ActionKind::Aborted => "aborted",
            ActionKind::Breaker => "breaker",
            ActionKind::Quarantine => "quarantine",
            ActionKind::RunNow => "run-now",
            ActionKind::Config => "config",
            ActionKind::KeyConflict => "key-conflict",
        }
    }
}

impl std::str::FromStr for ActionKind {
    type Err = String;

    /// # Errors
    /// The name that was probably meant, or all names.
    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::as_str);
            format!("{name:?} is not a kind of record; {}", unknown_name_hint(name, &names))
        })
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
    /// Together with `outcome` it decides which room keeps the record: see [`JournalLimits`].
    pub what: ActionKind,
    /// The phase that the action concerns, if that is not its initiator.
    pub phase: Option<Arc<str>>,
    /// None if the action concerns no single peer, or if the peer's key is not known. The peer of a dial that failed
    /// before the key was proven is the one that the address book expects there.
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
            phase: None,
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
    /// Wall time at which the host started, in milliseconds since 1970; tells the records of one start from those of
    /// another. 0 in files of older versions.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub start: u64,
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
    /// See [`NewRecord::phase`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phase: Option<Arc<str>>,
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

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Record {
    /// The phase that initiated the action, or that the action concerns.
    pub fn about_phase(&self) -> Option<&Arc<str>> {
        match &self.by {
            Initiator::Phase { name, .. } => Some(name),
            _ => self.phase.as_ref(),
        }
    }
}

/// How many records stay in memory. A record takes about 300 bytes.
///
/// Each limit is divided into rooms, so that a flood of one kind pushes out only records of its kind. In a full room, the
/// source with the most records loses its oldest one. A source is an IPv4 address, an IPv6 /48, or a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalLimits {
    /// Three eighths for disconnects and bans, three for dials and probes, one for refused connections, one for changes
    /// of phases and config.
    pub notable: usize,
    /// Half for what else phases did, half for everything else.
    pub chatter: usize,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { notable: 8192, chatter: 4096 }
    }
}

/// The journal of one node. Recording takes one short lock and never touches the disk.
pub struct Journal {
    clock: Arc<dyn Clock>,
    start: u64,
    rooms: WatchedMutex<Rooms>,
    /// The current beat: tick in the upper half, number of the urgent beat in the lower.
    beat: AtomicU64,
    disconnects: [AtomicU64; Cause::ALL.len()],
    file: Option<JournalFile>,
}

impl Journal {
    /// Creates an empty journal. With `file`, each record is also written there.
    pub fn new(clock: Arc<dyn Clock>, limits: JournalLimits, file: Option<JournalFile>) -> Arc<Self> {
        Arc::new(Self {
            start: clock.unix().as_millis() as u64,
            clock,
            rooms: WatchedMutex::new(Rooms::new(limits)),
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

    /// Writes one record and returns its number. O(log n) of the records held.
    pub fn record(&self, draft: NewRecord) -> u64 {
        let (tick, beat) = self.current_beat();
        let NewRecord { by, what, phase, peer, conn, address, cause, reason, inputs, outcome, count } = draft;
        debug_assert_eq!(what == ActionKind::Disconnect && outcome == Outcome::Applied, cause.is_some());
        if let Some(cause) = cause {
            self.disconnects[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        let mut record = Record {
            seq: 0,
            start: self.start,
            unix_ms: self.clock.unix().as_millis() as u64,
            tick,
            beat,
            by,
            what,
            phase,
            peer,
            conn,
            address,
            cause,
            reason,
            inputs,
            outcome,
            count,
        };
        let mut rooms = self.rooms.lock();
        record.seq = rooms.next_number();
        if let Some(file) = &self.file {
            file.append(&record);
        }
        rooms.keep(record)
    }

    /// Number of live connections that have ended since the host started. Does not depend on what is still held.
    pub fn disconnects(&self) -> u64 {
        Cause::ALL.into_iter().map(|cause| self.disconnects_by(cause)).sum()
    }

    /// The share of [`Journal::disconnects`] that has this cause.
    pub fn disconnects_by(&self, cause: Cause) -> u64 {
        self.disconnects[cause as usize].load(Ordering::Relaxed)
    }

    /// The newest `limit` records that `keep` accepts, oldest first. Calls `keep` on the newest record first, and stops
    /// when it has `limit` of them. O(records held).
    pub fn select(&self, limit: usize, keep: impl FnMut(&Record) -> bool) -> Vec<Record> {
        self.select_after(0, limit, keep)
    }

    /// As [`Journal::select`], of the records with a number above `seq`. O(records with such a number).
    pub fn select_after(&self, seq: u64, limit: usize, mut keep: impl FnMut(&Record) -> bool) -> Vec<Record> {
        let rooms = self.rooms.lock();
        let newest = rooms.newest_first().take_while(|record| record.seq > seq);
        let mut found: Vec<Record> = newest.filter(|record| keep(record)).take(limit).cloned().collect();
        drop(rooms);
        found.reverse();
        found
    }

    /// All records still held about one peer, oldest first.
    pub fn explain(&self, peer: &PeerId) -> Vec<Record> {
        self.select(usize::MAX, |record| record.peer.as_ref() == Some(peer))
    }

    /// The number of the newest record; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.rooms.lock().numbered()
    }

    /// Wall time at which the journal was created, in milliseconds since 1970: [`Record::start`] of its records.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Number of records under the two limits: notable, chatter.
    pub fn held(&self) -> (usize, usize) {
        self.rooms.lock().held()
    }

    /// What each room holds and has dropped.
    pub fn rooms(&self) -> Vec<RoomUse> {
        self.rooms.lock().uses()
    }

    /// The journal's file, if it has one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(JournalFile::path)
    }

    /// How long the journal's thread has waited for one write to its file; zero if it does not wait.
    #[doc(hidden)]
    pub fn file_waited(&self) -> std::time::Duration {
        self.file.as_ref().map_or(std::time::Duration::ZERO, JournalFile::waited)
    }

    /// How long callers have waited for the journal's lock.
    pub fn lock_waits(&self) -> LockWaits {
        self.rooms.waits()
    }

    /// Lines that could not be written to the journal's file, 0 without one.
    pub fn lines_lost(&self) -> u64 {
        self.file.as_ref().map_or(0, JournalFile::lost)
    }
}
