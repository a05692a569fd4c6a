//! One known address, and which addresses must not be lost. Holds no lock.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_base::peer::PeerId;

use super::hearing::HeardAt;
use super::{AddressSource, BookEntry};

/// Addresses that stay in the book whatever their age, besides those in use and those of the operator: the last ones
/// where this node was connected. Eight times the connections that a node wants by default, so that some of them are
/// still there after a long absence. In a small book, half of its capacity.
#[doc(hidden)]
pub const LAST_GOOD: usize = 64;

pub(super) struct KnownAddress {
    /// The peer last known at the address. A hint: an address proves nothing.
    pub(super) peer: Option<PeerId>,
    heard: HeardAt,
    reached: Option<HeardAt>,
    /// This node was connected there by its own dial.
    has_answered: bool,
    pub(super) failures: u32,
    pub(super) told_by: Option<u32>,
    /// Live connections to it.
    connections: u32,
    /// Its peer was connected, at this address or elsewhere, when the pool was last asked.
    pub(super) has_connected_peer: bool,
    /// It must not be dialled before this monotonic time.
    pub(super) wait_until: Duration,
    /// The same, whatever limits the waits.
    pub(super) rest_until: Duration,
    pub(super) dialing: bool,
    /// Set if the operator named it; contains the key that the peer must have, if one was given.
    pub(super) bootstrap: Option<Option<PeerId>>,
}

impl KnownAddress {
    /// An address that is named now for the first time.
    pub(super) fn new(peer: Option<PeerId>, now: HeardAt, told_by: Option<u32>) -> Self {
        Self {
            peer,
            heard: now,
            reached: None,
            has_answered: false,
            failures: 0,
            told_by,
            connections: 0,
            has_connected_peer: false,
            wait_until: Duration::ZERO,
            rest_until: Duration::ZERO,
            dialing: false,
            bootstrap: None,
        }
    }

    pub(super) fn restored(entry: &BookEntry, now: HeardAt) -> Self {
        Self {
            heard: now.before(entry.heard_s),
            reached: entry.reached_s.map(|age| now.before(age)),
            has_answered: entry.has_answered,
            failures: entry.failures,
            ..Self::new(entry.peer, now, entry.told_by)
        }
    }

    pub(super) fn entry(&self, address: SocketAddr, now: HeardAt) -> BookEntry {
        BookEntry {
            address,
            peer: self.peer,
            heard_s: self.heard_s(now),
            reached_s: self.reached_s(now),
            has_answered: self.has_answered,
            failures: self.failures,
            told_by: self.told_by,
        }
    }

    /// Seconds since it was last named. The operator's config and a live connection name it all the time.
    pub(super) fn heard_s(&self, now: HeardAt) -> u32 {
        if self.is_connected() || self.bootstrap.is_some() { 0 } else { now.since(self.heard) }
    }

    /// Seconds since the last connection to it.
    pub(super) fn reached_s(&self, now: HeardAt) -> Option<u32> {
        if self.is_connected() { Some(0) } else { self.reached.map(|at| now.since(at)) }
    }

    /// Whether there is or was a connection to it.
    pub(super) fn was_reached(&self) -> bool {
        self.reached.is_some() || self.is_connected()
    }

    /// Whether there is a guard of a live connection to it.
    pub(super) fn is_connected(&self) -> bool {
        self.connections > 0
    }

    pub(super) fn named(&mut self, now: HeardAt) {
        self.heard = now;
    }

    /// A dial of this node was answered.
    pub(super) fn answered(&mut self, peer: PeerId, now: HeardAt) {
        self.dialing = false;
        self.peer = Some(peer);
        self.has_answered = true;
        self.seen(now);
    }

    fn seen(&mut self, now: HeardAt) {
        self.heard = now;
        self.reached = Some(now);
    }

    pub(super) fn connection_began(&mut self) {
        self.connections += 1;
    }

    pub(super) fn connection_ended(&mut self, now: HeardAt) {
        self.connections = self.connections.saturating_sub(1);
        self.seen(now);
    }

    /// Whether it may be forgotten for its age alone; [`last_good`] may still keep it.
    pub(super) fn is_older(&self, age_s: u32, now: HeardAt) -> bool {
        !self.dialing && !self.has_connected_peer && self.heard_s(now) > age_s
    }

    fn may_be_evicted(&self) -> bool {
        self.bootstrap.is_none() && !self.dialing && !self.is_connected()
    }
}

pub(super) type KnownAddresses = BTreeMap<SocketAddr, KnownAddress>;

/// The last [`LAST_GOOD`] addresses where this node was connected. Those that answered a dial come first: of the others
/// only the peer itself has said that it listens there. Connected addresses and bootstrap nodes are not counted: they
/// stay anyway. O(n).
pub(super) fn last_good(known: &KnownAddresses, capacity: usize) -> BTreeSet<SocketAddr> {
    let most = LAST_GOOD.min(capacity / 2);
    let unused = known.iter().filter(|(_, one)| one.bootstrap.is_none() && !one.is_connected());
    let mut good: Vec<_> = unused
        .filter_map(|(address, one)| Some(((!one.has_answered, Reverse(one.reached?)), *address)))
        .collect();
    if good.len() > most {
        good.select_nth_unstable(most);
        good.truncate(most);
    }
    good.into_iter().map(|(_, address)| address).collect()
}

/// Drops the least useful address: never reached, most failures, longest not named. False if none may be dropped.
pub(super) fn make_room(known: &mut KnownAddresses, capacity: usize, newcomer: AddressSource) -> bool {
    let kept = last_good(known, capacity);
    let worst = known
        .iter()
        .filter(|(address, one)| one.may_be_evicted() && !kept.contains(address))
        .filter(|(_, one)| one.failures > 0 || !matches!(newcomer, AddressSource::Told(_)))
        .max_by_key(|(_, one)| (!one.was_reached(), one.failures, Reverse(one.heard)))
        .map(|(address, _)| *address);
    worst.is_some_and(|address| known.remove(&address).is_some())
}

/// Sorts the best entries first, for a book that has not room for all of them.
pub(super) fn best_first(entries: &mut [BookEntry]) {
    entries.sort_by_key(|entry| {
        let reached_s = entry.reached_s.unwrap_or(u32::MAX);
        (!entry.has_answered, reached_s, entry.failures, entry.heard_s, entry.address)
    });
}
