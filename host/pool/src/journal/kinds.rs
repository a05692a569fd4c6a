//! The closed sets of a record: who wanted the action, what it was, why a connection ended.

use std::sync::Arc;

use groundskeeper_base::problem::unknown_name_hint;
use serde::{Deserialize, Serialize};

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
