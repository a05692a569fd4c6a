//! The part of the pool behind its one lock: who is in which slot, the index by peer, limits and bans.
//! Taken only when a connection comes, goes or is named; never by `peer_seen`, a scan or the statistics.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::clock::Coarse;
use groundskeeper_base::peer::{NetGroup, PeerId};
use hashbrown::HashTable;

use super::addresses::Addresses;
use super::link::Link;
use super::rows::BLOCK;
use super::{ConnKey, Direction, PoolLimits};
use crate::journal::Draft;

/// No slot: the end of the free list.
pub(super) const NONE: u32 = u32::MAX;

/// Peers in one shard of the index. Small shards keep the table's load near its best at any pool size, where one
/// table of a power of two would waste half of itself just above each power, and they re-hash in microseconds.
const SHARD_FILL: u32 = 400;
/// Buckets hold 448 of 512 before they grow: 2.4 standard deviations above a mean of 400. The few shards that pass
/// it double by themselves.
const SHARD_ROOM: usize = 448;

/// How many bans are kept. The soonest to expire makes room.
const MAX_BANS: usize = 4096;
/// How many protections are kept.
pub(super) const MAX_PROTECTED: usize = 1024;

pub(super) struct Members {
    pub(super) limits: PoolLimits,
    pub(super) free: u32,
    pub(super) next_conn: u32,
    /// Connections by their direction.
    counts: [u32; 2],
    /// Handshakes that others began: ours are limited by the dialer.
    incoming: u32,
    /// A bit for each slot whose connection is live.
    pub(super) live: Vec<u64>,
    ids: Vec<PeerId>,
    addresses: Addresses,
    links: Vec<Option<Arc<dyn Link>>>,
    /// Connections by network group; none are counted if the limit on them cannot bind.
    groups: Option<HashMap<NetGroup, u32>>,
    pub(super) bans: HashMap<PeerId, Coarse>,
    pub(super) protected: HashMap<u32, Coarse>,
    shards: Vec<HashTable<u32>>,
    /// Places peers in the index, which is asked and never walked: its secret does not show in what the pool does.
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

    /// Slots ever used: those above have no cold columns yet.
    pub(super) fn used(&self) -> u32 {
        self.ids.len() as u32
    }

    /// Which limit a newcomer would break, in words for the peer and the journal.
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

    /// Counts a newcomer and gives its slot cold columns. `slot` is free or the next virgin one.
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

    /// A handshake that `occupy` began is over, either way.
    pub(super) fn handshake_over(&mut self, direction: Direction) {
        self.incoming -= u32::from(direction == Direction::Inbound);
    }

    #[cfg(test)]
    pub(super) fn counts(&self) -> (u32, u32, u32) {
        let [inbound, outbound] = self.counts;
        (inbound, outbound, self.incoming)
    }

    /// Undoes `occupy`'s counting.
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
        // The table uses the low and the top seven bits; the shard is chosen by others.
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

    /// Takes the slot's peer out of the index and of those that are live.
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

    /// `draft` with what the journal says of a connection.
    pub(super) fn about(&self, key: ConnKey, draft: Draft) -> Draft {
        let (peer, address) = (self.id(key.slot), self.address(key.slot));
        Draft { peer: Some(peer), conn: Some(key.conn), address: Some(address), ..draft }
    }

    pub(super) fn ban(&mut self, id: PeerId, time: Duration, now: Coarse) {
        self.bans.retain(|_, until| *until > now);
        if self.bans.len() >= MAX_BANS
            && let Some(soonest) =
                self.bans.iter().min_by_key(|(id, until)| (until.0, **id)).map(|(id, _)| *id)
        {
            self.bans.remove(&soonest);
        }
        self.bans.insert(id, now.after(time));
    }

    /// When the peer's ban ends, if it is banned now. Expires by itself: no phase has to run for it.
    pub(super) fn banned_until(&self, id: &PeerId, now: Coarse) -> Option<Coarse> {
        self.bans.get(id).copied().filter(|until| *until > now)
    }
}
