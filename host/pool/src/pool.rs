//! Holds every connection of the node: slots, columns, index, statistics. Does no I/O and makes no decisions.
//!
//! Columns are atomics. Scans and statistics read them without a lock; the owner of a connection marks its peer as seen
//! by one relaxed store to its own slot. Operations that add, remove, look up or name connections take the pool's lock
//! for a short time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::clock::{Clock, CoarseInstant};
use groundskeeper_base::lock::{LockWaits, WatchedMutex};
use groundskeeper_base::peer::{NetGroup, PeerId, canonical};
use tokio::sync::Notify;

use crate::journal::{ActionKind, Cause, Initiator, Journal, NewRecord};

mod addresses;
mod ending;
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

#[doc(hidden)]
pub use ending::DisconnectTerms;
pub use ending::{CLOSING_DEADLINE, DisconnectOutcome, Removal};
pub use link::{Goodbye, Link, LinkTraffic};
use members::{MAX_PROTECTED, Members, NONE};
#[doc(hidden)]
pub use rows::{PeerRows, over_limit};
pub use slot::{Admission, Slot};
pub use stats::PoolStats;
use tag::Tag;
#[doc(hidden)]
pub use tag::{State, TagValue};

/// A goodbye with the cause `replaced` begins with this if the peer's key came from another process: after a restart, or
/// because two processes use the key. Nodes recognise it, so it never changes.
#[doc(hidden)]
pub const CAME_BACK: &str = "the peer came back";

/// Health of a connection that has done nothing yet.
const HEALTH_AT_START: u8 = 100;

/// Round-trip time of a connection that has not answered a ping yet.
const RTT_NOT_KNOWN: u32 = u32::MAX;

/// A round-trip time counts this long against an answer that took longer, and against fresher ones of other peers. Quiet peers are pinged each 25 s, and two pings
/// may be lost.
const RTT_COUNTS: Duration = Duration::from_secs(90);

/// In the unit of the column, at least 1: on one machine a round trip may take less.
fn in_micros(rtt: Duration) -> u32 {
    u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).clamp(1, RTT_NOT_KNOWN - 1)
}

/// Which side dialled a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The peer dialled this node.
    Inbound,
    /// This node dialled the peer.
    Outbound,
}

/// Limits on the number of connections. Handshakes and closing connections count too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolLimits {
    /// Slots in total; their memory is reserved up front.
    pub capacity: u32,
    /// Connections that peers dialled. [`Pool::set_limits`] changes this at runtime.
    pub inbound: u32,
    /// Connections that this node dialled. [`Pool::set_limits`] changes this at runtime.
    pub outbound: u32,
    /// Connections to one IPv4 /16 or IPv6 /32.
    pub per_group: u32,
    /// Incoming handshakes in flight.
    pub handshakes: u32,
}

impl PoolLimits {
    /// Limits only the number of slots.
    pub fn only_capacity(capacity: u32) -> Self {
        Self { capacity, inbound: capacity, outbound: capacity, per_group: capacity, handshakes: capacity }
    }
}

/// The peer of a connection.
#[derive(Clone, Debug)]
pub struct PeerFacts {
    /// The peer's public key. The caller has verified it; the pool does not.
    pub id: PeerId,
    /// The remote address. Its network group counts for [`PoolLimits::per_group`].
    pub address: SocketAddr,
    /// Decides which limit counts the connection, and which of two connections to the peer stays.
    pub direction: Direction,
}

/// Identifies one connection, current or ended: its slot and its number.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ConnKey {
    /// Index of the slot, from 0. Later connections use it again.
    pub slot: u32,
    /// Number of the connection, from 1 since the pool was created. Never used again.
    pub conn: u32,
}

/// Why the pool does not take a connection.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A limit for a direction, a network group or handshakes; the text names it.
    #[error("{0}")]
    Limit(String),
    #[error("all {0} slots of the pool are taken")]
    Full(u32),
    #[error("this is the node's own key: it dialled itself")]
    SelfDial,
    #[error("there is already a connection to this peer")]
    Duplicate,
    #[error("the peer is banned for another {0} s")]
    Banned(u32),
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// The node's connections.
pub struct Pool {
    self_id: PeerId,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    capacity: u32,
    tags: Box<[Tag]>,
    last_seen: Box<[AtomicU32]>,
    /// In a closing slot: when closing began.
    connected_at: Box<[AtomicU32]>,
    rtt_us: Box<[AtomicU32]>,
    /// When that was measured.
    rtt_at: Box<[AtomicU32]>,
    /// All slots used so far are below this.
    high: AtomicU32,
    live: AtomicU32,
    closing: AtomicU32,
    refusing: std::sync::atomic::AtomicBool,
    removals: AtomicU64,
    aborted: AtomicU64,
    isolated: Notify,
    members: WatchedMutex<Members>,
}

fn column(capacity: u32, value: u32) -> Box<[AtomicU32]> {
    (0..capacity).map(|_| AtomicU32::new(value)).collect()
}

impl Pool {
    /// Creates the pool of node `self_id`. Allocates 27 bytes per slot, and reserves address space for 55 more, which
    /// is filled when slots are first used. No insert therefore waits for memory to be moved.
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
            capacity,
            tags: (0..capacity).map(|_| Tag::new(TagValue::vacant(NONE))).collect(),
            last_seen: column(capacity, 0),
            connected_at: column(capacity, 0),
            rtt_us: column(capacity, RTT_NOT_KNOWN),
            rtt_at: column(capacity, 0),
            high: AtomicU32::new(0),
            live: AtomicU32::new(0),
            closing: AtomicU32::new(0),
            refusing: false.into(),
            removals: AtomicU64::new(0),
            aborted: AtomicU64::new(0),
            isolated: Notify::new(),
            members: WatchedMutex::new(Members::new(capacity, limits)),
        })
    }

    /// The node's own key. The pool refuses connections to it.
    pub fn self_id(&self) -> PeerId {
        self.self_id
    }

    /// Number of slots, fixed when the pool is created.
    #[inline]
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// The limits in force, as last changed by [`Pool::set_limits`]. Takes the pool's lock.
    pub fn limits(&self) -> PoolLimits {
        self.members.lock().limits
    }

    /// Changes the limits that may change at runtime. Connections above a lowered limit stay: see [`Pool::disconnect`].
    pub fn set_limits(&self, inbound: u32, outbound: u32, handshakes: u32) {
        let limits = &mut self.members.lock().limits;
        *limits = PoolLimits { inbound, outbound, handshakes, ..*limits };
    }

    /// Number of live connections; phases call it `connected`. One relaxed load.
    pub fn live(&self) -> u32 {
        self.live.load(Relaxed)
    }

    /// Connections that have ended since the pool was created. Equals the journal's count of disconnects whenever no
    /// disconnect is in progress: the record follows the count, outside of the pool's lock.
    pub fn removals(&self) -> u64 {
        self.removals.load(Relaxed)
    }

    /// Closing connections whose owner was aborted.
    pub fn aborted(&self) -> u64 {
        self.aborted.load(Relaxed)
    }

    /// How long callers have waited for the pool's one lock.
    pub fn lock_waits(&self) -> LockWaits {
        self.members.waits()
    }

    /// Notified each time the last live connection ends.
    pub fn isolated(&self) -> &Notify {
        &self.isolated
    }

    /// Adds a connection that the application opened itself.
    ///
    /// Report signs of life on the returned [`Slot`], and drop or retire it when the connection ends.
    ///
    /// # Errors
    /// [`Denied`]; the caller should close the connection.
    pub fn attach(self: &Arc<Self>, facts: PeerFacts, link: Arc<dyn Link>) -> Result<Slot, Denied> {
        self.admit(facts.direction, facts.address)?.go_live(facts.id, link)
    }

    /// Changes a slot from handshaking to live, for [`Admission::go_live`].
    fn enter(
        &self,
        key: ConnKey,
        direction: Direction,
        id: PeerId,
        link: Arc<dyn Link>,
    ) -> Result<(), Denied> {
        let reason = match direction {
            Direction::Inbound => "accepted",
            Direction::Outbound => "dialled",
        };
        let draft = NewRecord::new(Initiator::Host, ActionKind::Connect, reason);
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
            let old_link = members.link(old);
            let same_boot = old_link.as_ref().is_some_and(|old| old.boot_nonce() == link.boot_nonce());
            if same_boot && !self.new_one_wins(&id, self.tags[old as usize].load(), direction) {
                return Err(Denied::Duplicate);
            }
            let reason = if same_boot {
                "dialled from both sides".to_owned()
            } else {
                // The other process has proven the same key, so both may know the addresses.
                let (new, old) = (members.address(key.slot), members.address(old));
                format!("{CAME_BACK}: {new} replaces {old}")
            };
            let removal = Removal::new(Initiator::Host, Cause::Replaced, reason);
            let old_key = ConnKey { slot: old, conn: self.tags[old as usize].load().conn() };
            replaced = self.close_locked(&mut members, old_key, removal);
        }
        self.last_seen[at].store(now.0, Relaxed);
        self.connected_at[at].store(now.0, Relaxed);
        self.rtt_us[at].store(RTT_NOT_KNOWN, Relaxed);
        members.enter(key.slot, id, link);
        members.handshake_over(direction);
        let draft = members.about(key, draft);
        let was_handshaking = self.tags[at].go_live(key.conn);
        debug_assert!(was_handshaking, "only the owner of an admission changes its slot");
        self.live.fetch_add(1, Relaxed);
        drop(members);
        if let Some(closed) = replaced {
            self.finish_close(closed);
        }
        self.journal.record(draft);
        Ok(())
    }

    /// Both ends keep the connection that the smaller id dialled, so they agree without a message.
    fn new_one_wins(&self, id: &PeerId, old: TagValue, new: Direction) -> bool {
        let we_are_smaller = self.self_id < *id;
        let smaller_dialled_new = (new == Direction::Outbound) == we_are_smaller;
        let smaller_dialled_old = old.inbound() != we_are_smaller;
        smaller_dialled_new && !smaller_dialled_old
    }

    /// Whether the connection is still live.
    #[inline]
    pub fn is_live(&self, key: ConnKey) -> bool {
        self.health(key).is_some()
    }

    /// Health of the connection if it is live. One load.
    #[inline]
    pub fn health(&self, key: ConnKey) -> Option<u8> {
        let word = self.tags.get(key.slot as usize)?.load();
        (word.is_live() && word.conn() == key.conn).then(|| word.health())
    }

    /// Closing connections: their owners have not released the slots yet.
    pub fn closing(&self) -> u32 {
        self.closing.load(Relaxed)
    }

    /// Refuses the peer's key for `time`. Does not end a connection that the peer has.
    pub fn ban(&self, id: PeerId, time: Duration) {
        self.members.lock().ban(id, time, self.clock.coarse());
    }

    /// Bans in force.
    pub fn bans(&self) -> usize {
        let now = self.clock.coarse();
        self.members.lock().bans.values().filter(|until| **until > now).count()
    }

    /// The bans in force, and how long each will last. Bans expire by the time that the node is up, so these are what
    /// the next process should impose again with [`Pool::ban`].
    pub fn bans_left(&self) -> Vec<(PeerId, Duration)> {
        let now = self.clock.coarse();
        let members = self.members.lock();
        let in_force = members.bans.iter().filter(|(_, until)| **until > now);
        let mut left: Vec<_> = in_force.map(|(id, until)| (*id, until.since(now))).collect();
        left.sort_unstable();
        left
    }

    /// Refuses all further connections, for shutdown.
    pub fn refuse_newcomers(&self) {
        self.refusing.store(true, Relaxed);
    }

    /// Changes the health of a live connection by `by` within 0 to 100, and never lowers it below `floor`. Returns
    /// health before and after, or none if the connection has ended.
    pub fn adjust_health(&self, key: ConnKey, by: i32, floor: u8) -> Option<(u8, u8)> {
        self.tags.get(key.slot as usize)?.adjust_health(key.conn, by, floor)
    }

    /// Ends the ban of a peer.
    pub fn end_ban(&self, id: &PeerId) {
        self.members.lock().bans.remove(id);
    }

    /// The live connection to `id`, if there is one.
    pub fn find(&self, id: &PeerId) -> Option<ConnKey> {
        let members = self.members.lock();
        let slot = members.find(id)?;
        Some(ConnKey { slot, conn: self.tags[slot as usize].load().conn() })
    }

    /// The link of a live connection.
    pub fn link(&self, key: ConnKey) -> Option<Arc<dyn Link>> {
        let members = self.members.lock();
        if self.is_live(key) { members.link(key.slot) } else { None }
    }
}

#[doc(hidden)]
impl Pool {
    /// Takes a slot for a connection before its handshake. O(1); one short lock.
    ///
    /// # Errors
    /// [`Denied::Limit`], [`Denied::Full`] or [`Denied::ShuttingDown`], before the connection has cost anything.
    pub fn admit(self: &Arc<Self>, direction: Direction, address: SocketAddr) -> Result<Admission, Denied> {
        let address = canonical(address);
        if self.refusing.load(Relaxed) {
            return Err(Denied::ShuttingDown);
        }
        let mut members = self.members.lock();
        if let Some(reason) = members.over_limit(direction, NetGroup::of(address.ip())) {
            return Err(Denied::Limit(reason));
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
        // Does not overflow in practice: at 10 connections per second the numbers last 13 years.
        members.next_conn += 1;
        members.occupy(slot, direction, address);
        self.tags[slot as usize].set(TagValue::handshaking(
            conn,
            direction == Direction::Inbound,
            HEALTH_AT_START,
        ));
        self.high.fetch_max(slot + 1, Relaxed);
        drop(members);
        Ok(Admission::new(Arc::clone(self), ConnKey { slot, conn }, direction))
    }

    /// Whether the connection's peer was seen after `view`.
    pub fn seen_since(&self, key: ConnKey, view: CoarseInstant) -> bool {
        self.seen(key).is_some_and(|seen| seen > view)
    }

    /// Keeps phases from disconnecting a connection for `time`; never shortens an existing protection. False if the
    /// connection has ended, or if too many are protected.
    pub fn protect(&self, key: ConnKey, time: Duration) -> bool {
        let until = self.clock.coarse().after(time);
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

    /// Ends expired protections. O(protected connections).
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

    /// Which of `ids` have a live connection, under one lock.
    pub fn connected_among<'a>(&self, ids: impl Iterator<Item = &'a PeerId>) -> Vec<bool> {
        let members = self.members.lock();
        ids.map(|id| members.find(id).is_some()).collect()
    }
}
