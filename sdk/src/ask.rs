//! Owns the actions that a plan can hold, as data. Performs none and checks none: `Plan::push` does the checking.

use std::fmt;

use crate::contract::{Interface, KINDS, Kind};
use crate::query::Test;
use crate::span::Span;

/// One action that a phase asks for. Rows are rows of the run's view.
#[non_exhaustive]
#[derive(Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the fields say what their names say; units are in the names")]
pub enum Ask {
    /// Ends a connection. The peer is told the reason.
    Disconnect { peer: u32, reason: String },
    /// Ends a connection unless the peer spoke since the view was taken.
    DisconnectIfSilent { peer: u32, reason: String },
    /// Moves health, which stays within 0 to 100.
    Health { peer: u32, by: i32, reason: String },
    /// Pings these.
    Ping { peers: Vec<u32> },
    /// Pings every row that passes every test.
    PingMatching { tests: Vec<Test> },
    /// Dials a row of the book.
    Dial { address: u32, reason: String },
    /// Connects, shakes hands and hangs up, to learn whether the address is alive.
    Probe { address: u32 },
    /// Keeps other phases from disconnecting a peer.
    Protect { peer: u32, for_s: u32, reason: String },
    /// Ends the connection and refuses the peer's key for a while.
    Ban { peer: u32, for_s: u32, reason: String },
    /// Forgets broadcasts older than this.
    ForgetBroadcasts { older_than_s: u32 },
    /// Forgets addresses that nobody named for this long.
    ForgetAddresses { not_heard_for_s: u32 },
    /// Runs this phase again after so many ticks, once.
    AgainIn { ticks: u32 },
}

impl Ask {
    /// Number, name and call of this kind; the number is the index into [`KINDS`].
    pub fn number(&self) -> usize {
        match self {
            Ask::Disconnect { .. } => 0,
            Ask::DisconnectIfSilent { .. } => 1,
            Ask::Health { .. } => 2,
            Ask::Ping { .. } => 3,
            Ask::PingMatching { .. } => 4,
            Ask::Dial { .. } => 5,
            Ask::Probe { .. } => 6,
            Ask::Protect { .. } => 7,
            Ask::Ban { .. } => 8,
            Ask::ForgetBroadcasts { .. } => 9,
            Ask::ForgetAddresses { .. } => 10,
            Ask::AgainIn { .. } => 11,
        }
    }

    fn entry(&self) -> &'static Kind {
        &KINDS[self.number()]
    }

    /// The interface that it came through, which is also its grant: `disconnect`.
    pub fn interface(&self) -> Interface {
        self.entry().interface
    }

    /// The journal's word: `disconnect`, `disconnect-if-silent`.
    pub fn kind(&self) -> &'static str {
        self.entry().name
    }

    /// The call that asked: `disconnect.ask-if-silent`.
    pub fn call(&self) -> &'static str {
        self.entry().call
    }

    /// Why; empty for the kinds that carry no reason.
    pub fn reason(&self) -> &str {
        match self {
            Ask::Disconnect { reason, .. }
            | Ask::DisconnectIfSilent { reason, .. }
            | Ask::Health { reason, .. }
            | Ask::Dial { reason, .. }
            | Ask::Protect { reason, .. }
            | Ask::Ban { reason, .. } => reason,
            Ask::Ping { .. }
            | Ask::PingMatching { .. }
            | Ask::Probe { .. }
            | Ask::ForgetBroadcasts { .. }
            | Ask::ForgetAddresses { .. }
            | Ask::AgainIn { .. } => "",
        }
    }

    pub(crate) fn reason_mut(&mut self) -> Option<&mut String> {
        match self {
            Ask::Disconnect { reason, .. }
            | Ask::DisconnectIfSilent { reason, .. }
            | Ask::Health { reason, .. }
            | Ask::Dial { reason, .. }
            | Ask::Protect { reason, .. }
            | Ask::Ban { reason, .. } => Some(reason),
            _ => None,
        }
    }
}

/// One line: the kind, its row and numbers, and the reason after a colon.
impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())?;
        match self {
            Ask::Disconnect { peer, reason } | Ask::DisconnectIfSilent { peer, reason } => {
                write!(f, " {peer}: {reason}")
            }
            Ask::Health { peer, by, reason } => write!(f, " {peer} {by:+}: {reason}"),
            Ask::Ping { peers } => peers.iter().try_for_each(|peer| write!(f, " {peer}")),
            Ask::PingMatching { tests } if tests.is_empty() => f.write_str(" all"),
            Ask::PingMatching { tests } => tests.iter().enumerate().try_for_each(|(i, test)| {
                f.write_str(if i == 0 { " " } else { ", " })?;
                write!(f, "{test}")
            }),
            Ask::Dial { address, reason } => write!(f, " {address}: {reason}"),
            Ask::Probe { address } => write!(f, " {address}"),
            Ask::Protect { peer, for_s, reason } | Ask::Ban { peer, for_s, reason } => {
                write!(f, " {peer} for {}: {reason}", Span::secs(u64::from(*for_s)))
            }
            Ask::ForgetBroadcasts { older_than_s: s } | Ask::ForgetAddresses { not_heard_for_s: s } => {
                write!(f, " {}", Span::secs(u64::from(*s)))
            }
            Ask::AgainIn { ticks } => write!(f, " {ticks}"),
        }
    }
}
