//! One attempt to reach an address, from the order to its outcome. Every attempt ends in the book and in the journal.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::clock::unix_seconds;
use groundskeeper_base::peer::PeerId;
use serde::{Deserialize, Serialize};

use super::{Book, Known};
use crate::journal::{Asker, Draft, Input, Outcome, What};

/// Opens connections. The host's `net` is one; an application may bring its own.
pub trait Dial: Send + Sync + 'static {
    /// Starts an attempt and returns at once. How it ended is told to `ticket`; a dropped ticket counts as given up.
    fn dial(&self, order: DialOrder, ticket: Dialing);
}

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialOrder {
    pub address: SocketAddr,
    /// The key it must have, if the operator gave one.
    pub expect: Option<PeerId>,
    /// Shake hands and hang up: only whether it is alive is asked.
    pub probe: bool,
}

/// Why an attempt did not end in a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "detail")]
pub enum DialFailure {
    /// Nothing listens there.
    Refused,
    TimedOut,
    /// No route, no network, no descriptors: what the system said.
    Unreachable(String),
    /// The transport or the hello failed.
    Handshake(String),
    WrongKey {
        got: PeerId,
    },
    OtherNetwork,
    /// It is ourselves.
    SelfDial,
    /// We have a connection to this peer already; no failure of the address.
    Duplicate,
    /// One side's limits or bans.
    Denied(String),
    /// The dialer gave the attempt up.
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

/// An attempt under way. Counted in `dialing` until it ends.
pub struct Dialing {
    book: Arc<Book>,
    by: Asker,
    reason: String,
    order: DialOrder,
    ended: bool,
}

/// A connection that came of an attempt, or of an accepted peer whose address is known. Dropped when it ends.
pub struct Tenure {
    book: Arc<Book>,
    address: SocketAddr,
    since: Duration,
}

impl Book {
    /// Begins an attempt: the address leaves the book's rows until the ticket ends.
    ///
    /// None if the address is not in the book or is being dialled already.
    #[doc(hidden)]
    pub fn begin(
        self: &Arc<Self>,
        address: SocketAddr,
        probe: bool,
        by: Asker,
        reason: impl Into<String>,
        inputs: Vec<Input>,
    ) -> Option<(DialOrder, Dialing)> {
        let mut known = self.known.lock();
        let one = known.get_mut(&address).filter(|one| !one.dialing)?;
        one.dialing = true;
        let order = DialOrder { address, expect: one.bootstrap.flatten(), probe };
        drop(known);
        let ticket = Dialing { book: Arc::clone(self), by, reason: reason.into(), order, ended: false };
        ticket.record(None, Outcome::Started, inputs);
        Some((order, ticket))
    }

    /// The tenure of a peer that came to us and listens at `address`.
    pub fn tenure(self: &Arc<Self>, address: SocketAddr) -> Tenure {
        Tenure { book: Arc::clone(self), address, since: self.clock.mono() }
    }
}

impl Dialing {
    /// The attempt succeeded: hold the tenure as long as the connection lives.
    pub fn connected(mut self, peer: PeerId) -> Tenure {
        self.reached(peer, |_| {});
        self.book.changed();
        self.book.tenure(self.order.address)
    }

    /// The attempt found `peer` alive and was not meant to end in a connection. The address rests for as long as a
    /// connection has to live, so that one probe is not followed by the next at once.
    pub fn alive(mut self, peer: PeerId) {
        let rest_until = self.book.clock.mono() + self.book.limits.min_life;
        self.reached(peer, |one| {
            one.entry.failures = 0;
            one.wait_until = rest_until;
        });
    }

    fn reached(&mut self, peer: PeerId, more: impl FnOnce(&mut Known)) {
        self.ended = true;
        let unix = unix_seconds(&*self.book.clock);
        if let Some(one) = self.book.known.lock().get_mut(&self.order.address) {
            one.dialing = false;
            one.entry.peer = Some(peer);
            one.entry.heard = unix;
            one.entry.reached = Some(unix);
            more(one);
        }
        self.record(Some(peer), Outcome::Applied, Vec::new());
    }

    /// The attempt failed.
    pub fn failed(mut self, failure: &DialFailure) {
        self.end(failure, None);
    }

    /// The attempt reached `peer`, to whom there is a connection already.
    pub fn duplicate(mut self, peer: PeerId) {
        self.end(&DialFailure::Duplicate, Some(peer));
    }

    fn end(&mut self, failure: &DialFailure, peer: Option<PeerId>) {
        self.ended = true;
        let now = self.book.clock.mono();
        let mut known = self.book.known.lock();
        if *failure == DialFailure::SelfDial {
            known.remove(&self.order.address);
        } else if let Some(one) = known.get_mut(&self.order.address) {
            one.dialing = false;
            if *failure == DialFailure::Duplicate {
                one.entry.peer = peer.or(one.entry.peer);
                // Without this an address whose peer is not known would be dialled at each tick.
                one.wait_until = now + self.book.limits.min_life;
            } else {
                self.book.back_off(one, now);
            }
        }
        drop(known);
        self.record(peer, Outcome::Failed(failure.to_string()), Vec::new());
    }

    fn record(&self, peer: Option<PeerId>, outcome: Outcome, inputs: Vec<Input>) {
        let what = if self.order.probe { What::Probe } else { What::Dial };
        self.book.journal.record(Draft {
            peer: peer.or(self.order.expect),
            address: Some(self.order.address),
            outcome,
            inputs,
            ..Draft::new(self.by.clone(), what, self.reason.clone())
        });
    }
}

impl Drop for Dialing {
    fn drop(&mut self) {
        if !self.ended {
            self.end(&DialFailure::Abandoned, None);
        }
    }
}

impl Drop for Tenure {
    fn drop(&mut self) {
        self.book.changed();
        let (now, unix) = (self.book.clock.mono(), unix_seconds(&*self.book.clock));
        if let Some(one) = self.book.known.lock().get_mut(&self.address) {
            one.entry.heard = unix;
            one.entry.reached = Some(unix);
            if now.saturating_sub(self.since) >= self.book.limits.min_life {
                one.entry.failures = 0;
                one.wait_until = now;
            } else {
                // A peer that hangs up at once is as bad as one that does not answer.
                self.book.back_off(one, now);
            }
        }
    }
}
