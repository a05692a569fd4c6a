//! One dial, from the order to its outcome. The outcome of every dial is recorded in the book and in the journal.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::peer::PeerId;
use serde::{Deserialize, Serialize};

use super::{Book, KnownAddress};
use crate::journal::{ActionKind, Initiator, Input, NewRecord, Outcome};

/// Opens connections. The host's `net` implements it; an application may bring its own.
pub trait Dial: Send + Sync + 'static {
    /// Starts a dial and returns at once. The dialer reports the outcome to `ticket`; a dropped ticket counts as
    /// abandoned.
    fn dial(&self, order: DialOrder, ticket: DialAttempt);
}

/// The address to dial, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialOrder {
    /// As the book has it; an IPv4-mapped IPv6 address is stored as IPv4.
    pub address: SocketAddr,
    /// The key that the peer must have, if the operator gave one.
    pub expect: Option<PeerId>,
    /// Hang up after the handshake: only check that the peer is alive.
    pub probe: bool,
}

/// Why a dial did not end in a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "detail")]
pub enum DialFailure {
    /// Nothing listens there.
    Refused,
    /// The connection or the handshake took too long.
    TimedOut,
    /// No route, no network, no file descriptors: the system's message.
    Unreachable(String),
    /// The transport or the hello failed.
    Handshake(String),
    /// Another peer answered than [`DialOrder::expect`] names.
    WrongKey {
        /// The key of the peer that answered.
        got: PeerId,
    },
    /// The peer belongs to a network with another name, or its protocol has another major version.
    OtherNetwork,
    /// The address is that of this node.
    SelfDial,
    /// This node is already connected to the peer; not a failure of the address.
    Duplicate,
    /// Refused by the limits or bans of either side.
    Denied(String),
    /// The dialer gave up.
    Abandoned,
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nothing listens there"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Handshake(why) => write!(f, "handshake failed: {why}"),
            Self::WrongKey { got } => write!(f, "another key than expected answered: {got}"),
            Self::OtherNetwork => f.write_str("it belongs to another network"),
            Self::SelfDial => f.write_str("it is this node itself"),
            Self::Duplicate => f.write_str("connected to this peer already"),
            Self::Denied(why) => write!(f, "denied: {why}"),
            Self::Abandoned => f.write_str("given up by the dialer"),
        }
    }
}

/// A dial in progress. Counted in `dialing` until it ends.
pub struct DialAttempt {
    book: Arc<Book>,
    by: Initiator,
    reason: String,
    order: DialOrder,
    /// The peer that the book had at the address when the dial began.
    known: Option<PeerId>,
    /// The peer that has proven its key in this dial.
    proven: Option<PeerId>,
    ended: bool,
}

/// A guard for a live connection to a known address, dialled or accepted. Drop it when the connection ends.
pub struct ConnectedGuard {
    book: Arc<Book>,
    address: SocketAddr,
    since: Duration,
    is_taken_over: bool,
}

impl Book {
    /// Begins a dial. The address is not in the book's rows until the ticket ends.
    ///
    /// None if the address is not in the book, or is already being dialled.
    #[doc(hidden)]
    pub fn begin(
        self: &Arc<Self>,
        address: SocketAddr,
        probe: bool,
        by: Initiator,
        reason: impl Into<String>,
        inputs: Vec<Input>,
    ) -> Option<(DialOrder, DialAttempt)> {
        let mut known = self.known.lock();
        let one = known.get_mut(&address).filter(|one| !one.dialing)?;
        one.dialing = true;
        let order = DialOrder { address, expect: one.bootstrap.flatten(), probe };
        let peer_there = one.peer;
        drop(known);
        let ticket = DialAttempt {
            book: Arc::clone(self),
            by,
            reason: reason.into(),
            order,
            known: peer_there,
            proven: None,
            ended: false,
        };
        ticket.record(Outcome::Started, inputs);
        Some((order, ticket))
    }

    /// The guard for an inbound peer that listens at `address`.
    pub fn connected_guard(self: &Arc<Self>, address: SocketAddr) -> ConnectedGuard {
        if let Some(one) = self.known.lock().get_mut(&address) {
            one.connection_began();
        }
        self.changed();
        ConnectedGuard { book: Arc::clone(self), address, since: self.clock.mono(), is_taken_over: false }
    }
}

impl ConnectedGuard {
    /// The peer ends the connection because another process with this node's key has connected to it. The address then waits
    /// like one that failed, however long the connection lived, and also while the node has no other peer.
    pub fn taken_over(&mut self) {
        self.is_taken_over = true;
    }
}

impl DialAttempt {
    /// `peer` has proven its key at the address: the record of how the dial ends names it.
    pub fn proven_by(&mut self, peer: PeerId) {
        self.proven = Some(peer);
    }

    /// The dial succeeded. Hold the returned guard as long as the connection lives.
    pub fn connected(mut self, peer: PeerId) -> ConnectedGuard {
        self.reached(peer, |_| {});
        self.book.connected_guard(self.order.address)
    }

    /// The probe found `peer` alive. The address then waits for `min_life`, so that the next probe does not follow at
    /// once.
    pub fn probe_succeeded(mut self, peer: PeerId) {
        let rest_until = self.book.clock.mono() + self.book.limits.min_life;
        self.reached(peer, |one| {
            one.failures = 0;
            one.wait_until = rest_until;
        });
        self.book.changed();
    }

    fn reached(&mut self, peer: PeerId, more: impl FnOnce(&mut KnownAddress)) {
        self.ended = true;
        self.proven = Some(peer);
        let now = self.book.hearing_now();
        if let Some(one) = self.book.known.lock().get_mut(&self.order.address) {
            one.answered(peer, now);
            more(one);
        }
        self.record(Outcome::Applied, Vec::new());
    }

    /// The dial failed.
    pub fn failed(mut self, failure: &DialFailure) {
        self.end(failure, None);
    }

    /// The dial reached `peer`, to which this node is already connected.
    pub fn duplicate(mut self, peer: PeerId) {
        self.end(&DialFailure::Duplicate, Some(peer));
    }

    fn end(&mut self, failure: &DialFailure, peer: Option<PeerId>) {
        self.ended = true;
        self.proven = peer.or(self.proven);
        let now = self.book.clock.mono();
        let mut known = self.book.known.lock();
        // An address where a peer was reached stays: an attacker who redirects connections back to this node must not empty the
        // book with that.
        let is_removed = *failure == DialFailure::SelfDial
            && known.get(&self.order.address).is_some_and(|one| !one.was_reached());
        if is_removed {
            known.remove(&self.order.address);
            self.book.changed();
        } else if let Some(one) = known.get_mut(&self.order.address) {
            one.dialing = false;
            if *failure == DialFailure::Duplicate {
                one.peer = peer.or(one.peer);
                // Without this wait, an address without a known peer would be dialled at each tick.
                one.wait_until = now + self.book.limits.min_life;
            } else {
                self.book.back_off(one, now);
            }
        }
        drop(known);
        self.record(Outcome::Failed(failure.to_string()), Vec::new());
    }

    /// The record names the peer that was wanted; another peer that answered is in the words of the outcome.
    fn record(&self, outcome: Outcome, inputs: Vec<Input>) {
        let what = if self.order.probe { ActionKind::Probe } else { ActionKind::Dial };
        self.book.journal.record(NewRecord {
            peer: self.order.expect.or(self.proven).or(self.known),
            address: Some(self.order.address),
            outcome,
            inputs,
            ..NewRecord::new(self.by.clone(), what, self.reason.clone())
        });
    }
}

impl Drop for DialAttempt {
    fn drop(&mut self) {
        if !self.ended {
            self.end(&DialFailure::Abandoned, None);
        }
    }
}

impl Drop for ConnectedGuard {
    fn drop(&mut self) {
        let now = self.book.clock.mono();
        let hearing_now = self.book.hearing_now();
        if let Some(one) = self.book.known.lock().get_mut(&self.address) {
            one.connection_ended(hearing_now);
            if self.is_taken_over {
                self.book.rest(one, now);
            } else if now.saturating_sub(self.since) >= self.book.limits.min_life {
                one.failures = 0;
                one.wait_until = now;
            } else {
                // A peer that hangs up at once is as bad as one that does not answer.
                self.book.back_off(one, now);
            }
        }
        // Afterwards: a save that sees this count has the change.
        self.book.changed();
    }
}
