//! The part of the pool behind its only lock: the peer of each slot, the index by peer, limits and bans.
//! `peer_seen`, the statistics and scans of the atomic columns never take this lock.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::peer::{NetGroup, PeerId};
use hashbrown::HashTable;

use super::addresses::Addresses;
use super::link::Link;
use super::rows::BLOCK;
use super::{ConnKey, Direction, PoolLimits};
use crate::journal::NewRecord;

/// No slot: the end of the free list.
pub(super) const NONE: u32 = u32::MAX;

/// Peers per shard of the index. Small shards rehash in microseconds, and keep the load near its best at any pool
/// size; a single table of a power-of-two size would be half empty just above each power.
const SHARD_FILL: u32 = 400;
/// A table of 512 buckets holds 448 entries before it grows: 2.4 standard deviations above a mean of 400. The few
/// shards that exceed it double in size.
const SHARD_ROOM: usize = 448;

/// Maximum number of bans. A further ban replaces the one that expires first.
const MAX_BANS: usize = 4096;
/// Maximum number of protections.
pub(super) const MAX_PROTECTED: usize = 1024;

pub(super) struct Members {
    pub(super) limits: PoolLimits,
    pub(super) free: u32,
    pub(super) next_conn: u32,
    /// Connections by direction.
    counts: [u32; 2],
    /// Inbound handshakes in flight. The dialer limits outbound ones.
    incoming: u32,
    /// A bit for each slot whose connection is live.
    pub(super) live: Vec<u64>,
    ids: Vec<PeerId>,
    addresses: Addresses,
    links: Vec<Option<Arc<dyn Link>>>,
    /// Connections by network group; none if the group limit can never apply.
    groups: Option<HashMap<NetGroup, u32>>,
    pub(super) bans: HashMap<PeerId, CoarseInstant>,
    pub(super) protected: HashMap<u32, CoarseInstant>,
    shards: Vec<HashTable<u32>>,
    /// Hashes peers with random keys. The index is never iterated, so the keys do not affect what the pool does.
    hash: RandomState,
}

impl Members {
    pub(super) fn new(capacity: u32, limits: PoolLimits) -> Self {
        let room = capacity as usize;
        let shards = capacity.div_ceil(SHARD_FILL).max(1);
        let fill = if shards == 1 { room } else { SHARD_ROOM };
        Self {
            limits,
            free: NONE,
            next_conn: 1,
            counts: [0; 2],
            incoming: 0,
            live: Vec::with_capacity(room.div_ceil(BLOCK)),
            ids: Vec::with_capacity(room),
            addresses: Addresses::new(room),
            links: Vec::with_capacity(room),
            groups: (limits.per_group < capacity).then(HashMap::new),
            bans: HashMap::new(),
            protected: HashMap::new(),
            shards: (0..shards).map(|_| HashTable::with_capacity(fill)).collect(),
            hash: RandomState::new(),
        }
    }

    /// Slots used so far. Higher slots have no id, address or link yet.
    pub(super) fn used(&self) -> u32 {
        self.ids.len() as u32
    }

    /// The limit that a new connection would exceed, as text for the peer and the journal.
    pub(super) fn over_limit(&self, direction: Direction, group: NetGroup) -> Option<String> {
        let limits = &self.limits;
        let (limit, name) = match direction {
            Direction::Inbound => (limits.inbound, "inbound"),
            Direction::Outbound => (limits.outbound, "outbound"),
        };
        if self.counts[direction as usize] >= limit {
            return Some(format!("{name} connections are at their limit of {limit}"));
        }
        if direction == Direction::Inbound && self.incoming >= limits.handshakes {
            return Some(format!("handshakes in flight are at their limit of {}", limits.handshakes));
        }
        let in_group = self.groups.as_ref().and_then(|groups| groups.get(&group).copied()).unwrap_or(0);
        (in_group >= limits.per_group).then(|| {
            format!("connections to network group {} are at their limit of {}", group.0, limits.per_group)
        })
    }

    /// Counts a new connection and stores its address. `slot` is a free slot or the first unused one.
    pub(super) fn occupy(&mut self, slot: u32, direction: Direction, address: SocketAddr) {
        self.counts[direction as usize] += 1;
        self.incoming += u32::from(direction == Direction::Inbound);
        if let Some(groups) = &mut self.groups {
            *groups.entry(NetGroup::of(address.ip())).or_insert(0) += 1;
        }
        let at = slot as usize;
        if at == self.ids.len() {
            self.ids.push(PeerId::from_bytes([0; 32]));
            self.addresses.grow();
            self.links.push(None);
            self.live.resize(self.ids.len().div_ceil(BLOCK), 0);
        }
        self.addresses.set(slot, address);
    }

    /// Counts the end of a handshake that `occupy` began, successful or not.
    pub(super) fn handshake_over(&mut self, direction: Direction) {
        self.incoming -= u32::from(direction == Direction::Inbound);
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (u32, u32, u32) {
        let [inbound, outbound] = self.counts;
        (inbound, outbound, self.incoming)
    }

    /// Undoes `occupy`, and drops the link.
    pub(super) fn vacate(&mut self, slot: u32, direction: Direction) {
        let group = NetGroup::of(self.address(slot).ip());
        self.counts[direction as usize] -= 1;
        if let Some(groups) = &mut self.groups
            && let Entry::Occupied(mut count) = groups.entry(group)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        self.addresses.forget(slot);
        self.links[slot as usize] = None;
    }

    fn place(&self, id: &PeerId) -> (usize, u64) {
        let hash = self.hash.hash_one(id);
        // The table uses the low bits and the top seven; bits 16 to 47 choose the shard.
        let part = u64::from((hash >> 16) as u32);
        (((part * self.shards.len() as u64) >> 32) as usize, hash)
    }

    pub(super) fn find(&self, id: &PeerId) -> Option<u32> {
        let (shard, hash) = self.place(id);
        self.shards[shard].find(hash, |&slot| self.ids[slot as usize] == *id).copied()
    }

    pub(super) fn enter(&mut self, slot: u32, id: PeerId, link: Arc<dyn Link>) {
        self.ids[slot as usize] = id;
        self.links[slot as usize] = Some(link);
        self.live[slot as usize / BLOCK] |= 1 << (slot as usize % BLOCK);
        let (shard, hash) = self.place(&id);
        let (ids, hasher) = (&self.ids, &self.hash);
        self.shards[shard].insert_unique(hash, slot, |&other| hasher.hash_one(ids[other as usize]));
    }

    /// Removes the slot's peer from the index and from the live bits.
    pub(super) fn leave(&mut self, slot: u32) {
        self.live[slot as usize / BLOCK] &= !(1 << (slot as usize % BLOCK));
        let (shard, hash) = self.place(&self.ids[slot as usize]);
        if let Ok(entry) = self.shards[shard].find_entry(hash, |&other| other == slot) {
            entry.remove();
        }
    }

    pub(super) fn id(&self, slot: u32) -> PeerId {
        self.ids[slot as usize]
    }

    pub(super) fn address(&self, slot: u32) -> SocketAddr {
        self.addresses.get(slot)
    }

    pub(super) fn group(&self, slot: u32) -> NetGroup {
        NetGroup::of(self.address(slot).ip())
    }

    pub(super) fn link(&self, slot: u32) -> Option<Arc<dyn Link>> {
        self.links[slot as usize].clone()
    }

    /// `draft` with the connection's peer, number and address.
    pub(super) fn about(&self, key: ConnKey, draft: NewRecord) -> NewRecord {
        let (peer, address) = (self.id(key.slot), self.address(key.slot));
        NewRecord { peer: Some(peer), conn: Some(key.conn), address: Some(address), ..draft }
    }

    pub(super) fn ban(&mut self, id: PeerId, time: Duration, now: CoarseInstant) {
        self.bans.retain(|_, until| *until > now);
        if self.bans.len() >= MAX_BANS
            && let Some(soonest) =
                self.bans.iter().min_by_key(|(id, until)| (until.0, **id)).map(|(id, _)| *id)
        {
            self.bans.remove(&soonest);
        }
        self.bans.insert(id, now.after(time));
    }

    /// When the peer's ban ends, if it is banned now. Bans expire by time alone; no phase has to run.
    pub(super) fn banned_until(&self, id: &PeerId, now: CoarseInstant) -> Option<CoarseInstant> {
        self.bans.get(id).copied().filter(|until| *until > now)
    }
}
