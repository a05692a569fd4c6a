//! The one structure that holds every connection: slots, columns, index, statistics. Does no I/O and decides nothing.
//!
//! Columns are atomics that scans and statistics read without a lock; the owner of a connection marks it as seen by one
//! relaxed store to its own slot. Only coming, going and naming take the pool's lock, and never for longer than a
//! table operation.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::clock::{Clock, Coarse};
use groundskeeper_base::peer::{NetGroup, PeerId, canonical};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::journal::{Asker, Cause, Draft, Input, Journal, What};

mod addresses;
mod link;
mod members;
mod rows;
mod slot;
mod stats;
#[allow(dead_code, reason = "the models include this file by path and use all of it")]
mod tag;
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}
#[cfg(test)]
mod tests;

pub use link::{Goodbye, Link, Traffic};
use members::{MAX_PROTECTED, Members, NONE};
#[doc(hidden)]
pub use rows::{Rows, over_limit};
pub use slot::{Admission, Slot};
pub use stats::PoolStats;
use tag::Tag;
#[doc(hidden)]
pub use tag::{State, Word};

/// Health of a connection that has done nothing yet.
const HEALTH_AT_START: u8 = 100;

/// How long the owner of a closing connection may take to let go before it is aborted.
pub const CLOSING_DEADLINE: Duration = Duration::from_secs(5);

/// Round-trip time of a connection that has not answered a ping yet.
const RTT_NOT_KNOWN: u32 = u32::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    Inbound,
    Outbound,
}

/// How many connections the pool takes. Counts include handshakes and connections that are closing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Slots in all; memory for them is reserved up front.
    pub capacity: u32,
    pub inbound: u32,
    pub outbound: u32,
    /// Connections to one IPv4 /16 or IPv6 /32.
    pub per_group: u32,
    /// Incoming handshakes in flight.
    pub handshakes: u32,
}

impl PoolLimits {
    /// No limit but the number of slots.
    pub fn only_capacity(capacity: u32) -> Self {
        Self { capacity, inbound: capacity, outbound: capacity, per_group: capacity, handshakes: capacity }
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    pub id: PeerId,
    pub address: SocketAddr,
    pub direction: Direction,
}

/// One connection, past or present: a slot and the number that the connection had in it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnKey {
    pub slot: u32,
    pub conn: u32,
}

/// Why the pool does not take a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    #[error("{0}")]
    Limit(String),
    #[error("every one of the pool's {0} slots is taken")]
    Full(u32),
    #[error("this is the node's own key: it dialled itself")]
    SelfDial,
    #[error("a connection to this peer is kept already")]
    Duplicate,
    #[error("the peer is banned for another {0} s")]
    Banned(u32),
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why, by whom and on what inputs a connection is to end.
#[derive(Clone, Debug)]
pub struct Removal {
    pub by: Asker,
    pub cause: Cause,
    pub reason: String,
    /// Empty: the pool fills in what its columns say now.
    pub inputs: Vec<Input>,
}

impl Removal {
    pub fn new(by: Asker, cause: Cause, reason: impl Into<String>) -> Self {
        Self { by, cause, reason: reason.into(), inputs: Vec::new() }
    }
}

/// What became of a wish to disconnect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Closed,
    /// The connection had ended already.
    Gone,
    /// The peer spoke since the decision was made, which rested on its silence.
    Spoke,
    /// Fewer connections than [`Terms::keep`] would be left.
    TooFew,
}

/// Under which terms a connection is to end. All are looked at, and met, in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct Terms {
    /// It stays if the peer spoke after this moment.
    pub unless_seen_since: Option<Coarse>,
    /// It stays if fewer live connections would be left.
    pub keep: u32,
    /// The peer's key is refused for so long, from this very moment on.
    pub ban_for: Option<Duration>,
}

/// The node's connections.
pub struct Pool {
    self_id: PeerId,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    limits: Mutex<PoolLimits>,
    capacity: u32,
    tags: Box<[Tag]>,
    last_seen: Box<[AtomicU32]>,
    /// While a slot is closing: since when.
    connected_at: Box<[AtomicU32]>,
    rtt_us: Box<[AtomicU32]>,
    /// Slots below this have been used.
    high: AtomicU32,
    live: AtomicU32,
    closing: AtomicU32,
    refusing: std::sync::atomic::AtomicBool,
    removals: AtomicU64,
    aborted: AtomicU64,
    isolated: Notify,
    members: Mutex<Members>,
}

fn column(capacity: u32, value: u32) -> Box<[AtomicU32]> {
    (0..capacity).map(|_| AtomicU32::new(value)).collect()
}

impl Pool {
    /// A pool for the node `self_id`. Takes 27 bytes per slot now, and 55 more of address space that is filled as
    /// slots are first used, so that no insert ever waits for memory to be moved.
    pub fn new(
        self_id: PeerId,
        limits: PoolLimits,
        clock: Arc<dyn Clock>,
        journal: Arc<Journal>,
    ) -> Arc<Self> {
        let capacity = limits.capacity.clamp(1, u32::MAX / 2);
        Arc::new(Self {
            self_id,
            clock,
            journal,
            limits: Mutex::new(limits),
            capacity,
            tags: (0..capacity).map(|_| Tag::new(Word::vacant(NONE))).collect(),
            last_seen: column(capacity, 0),
            connected_at: column(capacity, 0),
            rtt_us: column(capacity, RTT_NOT_KNOWN),
            high: AtomicU32::new(0),
            live: AtomicU32::new(0),
            closing: AtomicU32::new(0),
            refusing: false.into(),
            removals: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            isolated: Notify::new(),
            members: Mutex::new(Members::new(capacity, &limits)),
        })
    }

    pub fn self_id(&self) -> PeerId {
        self.self_id
    }

    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    pub fn limits(&self) -> PoolLimits {
        *self.limits.lock()
    }

    /// Changes what can change while there are connections. Those above a lowered limit stay: see [`Pool::disconnect`].
    pub fn set_limits(&self, inbound: u32, outbound: u32, handshakes: u32) {
        let mut limits = self.limits.lock();
        *limits = PoolLimits { inbound, outbound, handshakes, ..*limits };
    }

    /// Live connections now: what phases call `connected`. One relaxed load.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Connections that have ended since the pool was made. Equals the journal's count of disconnects.
    pub fn removals(&self) -> u64 {
        self.removals.load(Relaxed)
    }

    /// Closing connections whose owners had to be aborted.
    pub fn aborted(&self) -> u64 {
        self.aborted.load(Relaxed)
    }

    /// Told each time the last live connection ends.
    pub fn isolated(&self) -> &Notify {
        &self.isolated
    }

    /// From now on nobody is admitted. For shutdown.
    pub fn refuse_newcomers(&self) {
        self.refusing.store(true, Relaxed);
    }

    /// Takes a slot for a connection that is still to shake hands. O(1); one short lock.
    ///
    /// # Errors
    /// [`Denied::Limit`] or [`Denied::Full`] before anything was spent on the newcomer.
    pub fn admit(self: &Arc<Self>, direction: Direction, address: SocketAddr) -> Result<Admission, Denied> {
        let address = canonical(address);
        if self.refusing.load(Relaxed) {
            return Err(Denied::ShuttingDown);
        }
        let mut members = self.members.lock();
        if let Some(words) = members.over_limit(&self.limits(), direction, NetGroup::of(address.ip())) {
            return Err(Denied::Limit(words));
        }
        let slot = match members.free {
            NONE if members.used() == self.capacity => return Err(Denied::Full(self.capacity)),
            NONE => members.used(),
            free => {
                members.free = self.tags[free as usize].load().conn();
                free
            }
        };
        let conn = members.next_conn;
        // Numbers near the top are never reached: at 10 connections a second they last 13 years.
        members.next_conn += 1;
        members.occupy(slot, direction, address);
        self.tags[slot as usize].set(Word::handshaking(
            conn,
            direction == Direction::Inbound,
            HEALTH_AT_START,
        ));
        self.high.fetch_max(slot + 1, Relaxed);
        drop(members);
        Ok(Admission::new(Arc::clone(self), ConnKey { slot, conn }, direction))
    }

    /// Brings in a connection that an application has set up by itself.
    ///
    /// The returned [`Slot`] is its place in the pool: mark life on it, and drop or retire it when the connection ends.
    ///
    /// # Errors
    /// [`Denied`], and the connection should be closed.
    pub fn attach(self: &Arc<Self>, facts: PeerFacts, link: Arc<dyn Link>) -> Result<Slot, Denied> {
        self.admit(facts.direction, facts.address)?.go_live(facts.id, link)
    }

    /// Handshaking to live: the end of [`Admission::go_live`].
    fn enter(
        &self,
        key: ConnKey,
        direction: Direction,
        id: PeerId,
        link: Arc<dyn Link>,
    ) -> Result<(), Denied> {
        let now = self.clock.coarse();
        let at = key.slot as usize;
        let mut members = self.members.lock();
        if self.refusing.load(Relaxed) {
            return Err(Denied::ShuttingDown);
        }
        if id == self.self_id {
            return Err(Denied::SelfDial);
        }
        if let Some(until) = members.banned_until(&id, now) {
            return Err(Denied::Banned(until.seconds_since(now).max(1)));
        }
        let mut replaced = None;
        if let Some(old) = members.find(&id) {
            let old_link = members.link(old).map(Arc::clone);
            let same_boot = old_link.as_ref().is_some_and(|old| old.boot_nonce() == link.boot_nonce());
            if same_boot && !self.new_one_wins(&id, self.tags[old as usize].load(), direction) {
                return Err(Denied::Duplicate);
            }
            let words = if same_boot { "dialled from both sides" } else { "the peer came back" };
            let removal = Removal::new(Asker::Host, Cause::Replaced, words);
            let old_key = ConnKey { slot: old, conn: self.tags[old as usize].load().conn() };
            replaced = self.close_locked(&mut members, old_key, removal);
        }
        self.last_seen[at].store(now.0, Relaxed);
        self.connected_at[at].store(now.0, Relaxed);
        self.rtt_us[at].store(RTT_NOT_KNOWN, Relaxed);
        members.enter(key.slot, id, link);
        members.handshake_over(direction);
        let address = members.address(key.slot);
        let was_handshaking = self.tags[at].go_live(key.conn);
        debug_assert!(was_handshaking, "only the owner of an admission changes its slot");
        self.live.fetch_add(1, Relaxed);
        drop(members);
        if let Some(closed) = replaced {
            self.finish_close(closed);
        }
        self.journal.record(Draft {
            peer: Some(id),
            conn: Some(key.conn),
            address: Some(address),
            ..Draft::new(
                Asker::Host,
                What::Connect,
                match direction {
                    Direction::Inbound => "accepted",
                    Direction::Outbound => "dialled",
                },
            )
        });
        Ok(())
    }

    /// Both ends keep the connection that the smaller id dialled, so they agree without asking each other.
    fn new_one_wins(&self, id: &PeerId, old: Word, new: Direction) -> bool {
        let we_are_smaller = self.self_id < *id;
        let dialled_by_smaller = |outbound: bool| outbound == we_are_smaller;
        dialled_by_smaller(new == Direction::Outbound) && !dialled_by_smaller(!old.inbound())
    }

    /// Ends a live connection: out of the index and the counts now, into the journal, and its owner is told.
    ///
    /// With `unless_seen_since` the connection stays if the peer spoke after that moment.
    pub fn disconnect(&self, key: ConnKey, removal: Removal, unless_seen_since: Option<Coarse>) -> Verdict {
        self.disconnect_on(key, removal, Terms { unless_seen_since, ..Terms::default() })
    }

    /// The same, on more terms.
    pub fn disconnect_on(&self, key: ConnKey, removal: Removal, terms: Terms) -> Verdict {
        let mut members = self.members.lock();
        if !self.is_live(key) {
            return Verdict::Gone;
        }
        let seen = Coarse(self.last_seen[key.slot as usize].load(Relaxed));
        if terms.unless_seen_since.is_some_and(|view| seen > view) {
            return Verdict::Spoke;
        }
        // Connections become live and end under this lock only.
        if self.live.load(Relaxed) <= terms.keep {
            return Verdict::TooFew;
        }
        let id = members.id(key.slot);
        let closed = self.close_locked(&mut members, key, removal);
        if closed.is_some()
            && let Some(time) = terms.ban_for
        {
            let now = self.clock.coarse();
            members.ban(id, Coarse(now.0.saturating_add(Coarse::from_duration(time).0)), now);
        }
        drop(members);
        match closed {
            Some(closed) => {
                self.finish_close(closed);
                Verdict::Closed
            }
            None => Verdict::Gone,
        }
    }

    /// Whether the connection is still live.
    pub fn is_live(&self, key: ConnKey) -> bool {
        self.tags.get(key.slot as usize).is_some_and(|tag| {
            let word = tag.load();
            word.is_live() && word.conn() == key.conn
        })
    }

    /// Its health, if it is live. One load.
    pub fn health(&self, key: ConnKey) -> Option<u8> {
        let word = self.tags.get(key.slot as usize)?.load();
        (word.is_live() && word.conn() == key.conn).then(|| word.health())
    }

    /// Whether the connection's peer was seen after `view`.
    pub fn seen_since(&self, key: ConnKey, view: Coarse) -> bool {
        let seen = self.last_seen.get(key.slot as usize);
        self.is_live(key) && seen.is_some_and(|seen| Coarse(seen.load(Relaxed)) > view)
    }

    /// Live to closing under the lock. What has to be told once the lock is released.
    fn close_locked(&self, members: &mut Members, key: ConnKey, removal: Removal) -> Option<Closed> {
        let at = key.slot as usize;
        let before = self.tags[at].close(key.conn)?;
        let now = self.clock.coarse();
        let Removal { by, cause, reason, mut inputs } = removal;
        if inputs.is_empty() {
            inputs = self.inputs_now(key.slot, before, now);
        }
        let draft = Draft {
            peer: Some(members.id(key.slot)),
            conn: Some(key.conn),
            address: Some(members.address(key.slot)),
            cause: Some(cause),
            inputs,
            ..Draft::new(by, What::Disconnect, reason.clone())
        };
        let link = members.link(key.slot).map(Arc::clone);
        members.leave(key.slot);
        members.protected.remove(&key.slot);
        self.connected_at[at].store(now.0, Relaxed);
        self.closing.fetch_add(1, Relaxed);
        self.removals.fetch_add(1, Relaxed);
        if self.live.fetch_sub(1, Relaxed) == 1 {
            self.isolated.notify_one();
        }
        Some(Closed { draft, link, goodbye: Goodbye { cause, text: reason } })
    }

    fn finish_close(&self, closed: Closed) {
        self.journal.record(closed.draft);
        if let Some(link) = closed.link {
            link.close(&closed.goodbye);
        }
    }

    fn inputs_now(&self, slot: u32, word: Word, now: Coarse) -> Vec<Input> {
        let at = slot as usize;
        vec![
            ("idle-s".into(), now.seconds_since(Coarse(self.last_seen[at].load(Relaxed)))),
            ("age-s".into(), now.seconds_since(Coarse(self.connected_at[at].load(Relaxed)))),
            ("health".into(), word.health().into()),
            ("rtt-us".into(), self.rtt_us[at].load(Relaxed)),
            ("pings-lost".into(), word.pings_lost().into()),
        ]
    }

    /// Frees a slot, by its owner. A connection that is still live is removed first, as `removal` says.
    fn release(&self, key: ConnKey, direction: Direction, removal: Option<Removal>) {
        let mut members = self.members.lock();
        let mut closed = None;
        match self.tags[key.slot as usize].load().state() {
            State::Live => {
                let removal = removal.unwrap_or_else(|| {
                    Removal::new(Asker::Application, Cause::OwnerDropped, "its owner let go without a reason")
                });
                closed = self.close_locked(&mut members, key, removal);
                self.closing.fetch_sub(1, Relaxed);
            }
            State::Closing => _ = self.closing.fetch_sub(1, Relaxed),
            State::Handshaking => members.handshake_over(direction),
            State::Vacant => unreachable!("a slot has one owner, who frees it once"),
        }
        members.vacate(key.slot, direction);
        self.tags[key.slot as usize].set(Word::vacant(members.free));
        members.free = key.slot;
        drop(members);
        if let Some(closed) = closed {
            // The owner is the caller: it needs no telling.
            self.journal.record(closed.draft);
        }
    }

    /// Aborts the owners of connections that have been closing for [`CLOSING_DEADLINE`]. O(slots) only if any is closing.
    pub fn abort_overdue(&self) -> u32 {
        if self.closing.load(Relaxed) == 0 {
            return 0;
        }
        let now = self.clock.coarse();
        let mut overdue = Vec::new();
        for slot in 0..self.high.load(Relaxed) {
            let word = self.tags[slot as usize].load();
            let since = Coarse(self.connected_at[slot as usize].load(Relaxed));
            if word.state() == State::Closing && now.since(since) >= CLOSING_DEADLINE {
                overdue.push((slot, word.conn()));
            }
        }
        let mut aborted = 0;
        for (slot, conn) in overdue {
            let members = self.members.lock();
            let word = self.tags[slot as usize].load();
            if word.state() != State::Closing || word.conn() != conn {
                continue;
            }
            // One abort each: an owner that ignores this too keeps its slot until it lets go.
            self.connected_at[slot as usize].store(u32::MAX, Relaxed);
            let (peer, address) = (members.id(slot), members.address(slot));
            let link = members.link(slot).map(Arc::clone);
            drop(members);
            aborted += 1;
            self.aborted.fetch_add(1, Relaxed);
            self.journal.record(Draft {
                peer: Some(peer),
                conn: Some(conn),
                address: Some(address),
                ..Draft::new(Asker::Host, What::Aborted, "did not let go of its slot in time")
            });
            if let Some(link) = link {
                link.abort();
            }
        }
        aborted
    }

    /// Connections that are closing and not yet let go of.
    pub fn closing(&self) -> u32 {
        self.closing.load(Relaxed)
    }

    /// Moves the health of a live connection within 0 to 100. Before and after, if it is still there.
    pub fn adjust_health(&self, key: ConnKey, by: i32) -> Option<(u8, u8)> {
        self.tags.get(key.slot as usize)?.adjust_health(key.conn, by)
    }

    /// As [`Pool::adjust_health`], but lowers it no further than `floor`.
    pub fn adjust_health_above(&self, key: ConnKey, by: i32, floor: u8) -> Option<(u8, u8)> {
        self.tags.get(key.slot as usize)?.adjust_health_above(key.conn, by, floor)
    }

    /// Keeps phases from disconnecting a connection for a while, or for as long as it is protected already. False if it
    /// has ended, or too many are protected.
    pub fn protect(&self, key: ConnKey, time: Duration) -> bool {
        let until = Coarse(self.clock.coarse().0.saturating_add(Coarse::from_duration(time).0));
        let mut members = self.members.lock();
        if members.protected.len() >= MAX_PROTECTED && !members.protected.contains_key(&key.slot) {
            return false;
        }
        let held = self.tags.get(key.slot as usize).is_some_and(|tag| tag.set_protected(key.conn, true));
        if held {
            let held_until = members.protected.entry(key.slot).or_insert(until);
            *held_until = (*held_until).max(until);
        }
        held
    }

    /// Ends the protection of a connection.
    pub fn end_protection(&self, key: ConnKey) {
        let mut members = self.members.lock();
        if self.tags.get(key.slot as usize).is_some_and(|tag| tag.set_protected(key.conn, false)) {
            members.protected.remove(&key.slot);
        }
    }

    /// Ends the ban of a peer.
    pub fn end_ban(&self, id: &PeerId) {
        self.members.lock().end_ban(id);
    }

    /// Ends protections whose time is over. O(protected connections).
    pub fn expire_protection(&self) {
        let now = self.clock.coarse();
        let mut members = self.members.lock();
        members.protected.retain(|&slot, until| {
            let over = *until <= now;
            if over {
                let tag = &self.tags[slot as usize];
                tag.set_protected(tag.load().conn(), false);
            }
            !over
        });
    }

    /// Refuses the peer's key for `time`. The connection it may have is the caller's business.
    pub fn ban(&self, id: PeerId, time: Duration) {
        let now = self.clock.coarse();
        let until = Coarse(now.0.saturating_add(Coarse::from_duration(time).0));
        self.members.lock().ban(id, until, now);
    }

    /// Bans in force.
    pub fn bans(&self) -> usize {
        self.members.lock().bans(self.clock.coarse())
    }

    /// The live connection to `id`, if there is one.
    pub fn find(&self, id: &PeerId) -> Option<ConnKey> {
        let members = self.members.lock();
        let slot = members.find(id)?;
        Some(ConnKey { slot, conn: self.tags[slot as usize].load().conn() })
    }

    /// Which of `ids` have a live connection, under one lock.
    pub fn connected_among<'a>(&self, ids: impl Iterator<Item = &'a PeerId>) -> Vec<bool> {
        let members = self.members.lock();
        ids.map(|id| members.find(id).is_some()).collect()
    }

    /// The link of a live connection.
    pub fn link(&self, key: ConnKey) -> Option<Arc<dyn Link>> {
        let members = self.members.lock();
        if self.is_live(key) { members.link(key.slot).map(Arc::clone) } else { None }
    }
}

/// A connection that has just been closed, before anybody was told.
struct Closed {
    draft: Draft,
    link: Option<Arc<dyn Link>>,
    goodbye: Goodbye,
}
