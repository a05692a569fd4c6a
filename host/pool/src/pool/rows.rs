//! Snapshots of the pool: the connections live at one moment, and copies of their columns. Takes only short locks.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::peer::{NetGroup, PeerLabel};

use super::members::NONE;
use super::{
    ConnKey, Direction, Link, LinkTraffic, Pool, RTT_COUNTS, RTT_NOT_KNOWN, State, TagValue, in_micros,
};

/// Slots read under one lock, about 5 us, so that other threads do not wait for a long list.
const NAMES_PER_LOCK: usize = 256;

/// Slots per word of the live bits.
pub(super) const BLOCK: usize = 64;

/// The connections that were live when the rows were frozen, by ascending slot.
///
/// Freezing copies one bit per slot; everything else is copied on first use. A connection admitted later in the slot of
/// a row is never mistaken for the row: its number is too high.
pub struct PeerRows {
    pool: Arc<Pool>,
    live: Vec<u64>,
    len: usize,
    /// The lowest number of a connection admitted after the freeze.
    later: u32,
    slots: OnceLock<Vec<u32>>,
    words: OnceLock<Vec<TagValue>>,
}

impl PeerRows {
    /// Number of connections that were live at the freeze.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no connection was live at the freeze.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies the slots and the state words on the first call.
    #[inline]
    pub fn key(&self, row: usize) -> ConnKey {
        ConnKey { slot: self.slots()[row], conn: self.words()[row].conn() }
    }

    fn slots(&self) -> &[u32] {
        self.slots.get_or_init(|| self.gather(|slots| slots.map(|slot| slot as u32)))
    }

    /// State word of each row, with health, direction, protection and unanswered pings. Copied on the first call.
    pub fn words(&self) -> &[TagValue] {
        self.words.get_or_init(|| {
            let known = |word: TagValue| if word.conn() < self.later { word } else { TagValue::vacant(NONE) };
            self.gather(|slots| self.pool.tags[slots].iter().map(|tag| known(tag.load())))
        })
    }

    /// Collects one value per row. `values` gives the values of a range of slots.
    fn gather<T: Copy + Default, V: Iterator<Item = T>>(
        &self,
        values: impl Fn(std::ops::Range<usize>) -> V,
    ) -> Vec<T> {
        let mut rows = Vec::with_capacity(self.len);
        for (block, &live) in self.live.iter().enumerate() {
            let first = block * BLOCK;
            if live == u64::MAX {
                rows.extend(values(first..first + BLOCK));
            } else if live != 0 {
                // Stores each value, but advances only after a live slot: no branch to mispredict.
                let mut kept = [T::default(); BLOCK];
                let mut next = 0;
                let used = BLOCK - live.leading_zeros() as usize;
                for (bit, value) in values(first..first + used).enumerate() {
                    kept[next % BLOCK] = value;
                    next += (live >> bit & 1) as usize;
                }
                rows.extend_from_slice(&kept[..next]);
            }
        }
        rows
    }

    fn column(&self, column: &[AtomicU32]) -> Vec<u32> {
        self.gather(|slots| column[slots].iter().map(|cell| cell.load(Relaxed)))
    }
}

/// Chooses connections of one direction to end, so that at most `limit` are left: unprotected before protected, then
/// lowest health, then youngest. `since` is [`Pool::freeze_connected_at`] of the same rows. O(n log n).
pub fn over_limit(rows: &PeerRows, since: &[u32], direction: Direction, limit: u32) -> Vec<ConnKey> {
    let inbound = direction == Direction::Inbound;
    let mut of_it: Vec<usize> =
        (0..rows.len()).filter(|&row| rows.words()[row].inbound() == inbound).collect();
    of_it.sort_by_key(|&row| {
        let word = rows.words()[row];
        (word.protected(), word.health(), Reverse(since[row]))
    });
    let over = of_it.len().saturating_sub(limit as usize);
    of_it[..over].iter().map(|&row| rows.key(row)).collect()
}

#[doc(hidden)]
impl Pool {
    /// Freezes the live connections. One short lock, which copies one bit per slot.
    pub fn freeze(self: &Arc<Self>) -> PeerRows {
        let members = self.members.lock();
        let (live, later) = (members.live.clone(), members.next_conn);
        drop(members);
        let len = live.iter().map(|bits| bits.count_ones() as usize).sum();
        PeerRows { pool: Arc::clone(self), live, len, later, slots: OnceLock::new(), words: OnceLock::new() }
    }

    /// When each row was last seen, in [`CoarseInstant`] units.
    pub fn freeze_last_seen(&self, rows: &PeerRows) -> Vec<u32> {
        rows.column(&self.last_seen)
    }

    /// Silence of each row until `now`, in whole seconds. Starts when it was last seen, or at `not_before` if later.
    pub fn freeze_idle(&self, rows: &PeerRows, now: CoarseInstant, not_before: CoarseInstant) -> Vec<u32> {
        // Signed, so that the loop vectorizes; correct for silences of up to eight years. Separate from the copy,
        // because compilers do not vectorize loops over atomics.
        let longest = (now.0.wrapping_sub(not_before.0) as i32).max(0);
        let mut idle = rows.column(&self.last_seen);
        for seen in &mut idle {
            let silent = (now.0.wrapping_sub(*seen) as i32).max(0).min(longest);
            *seen = silent as u32 / CoarseInstant::PER_SECOND;
        }
        idle
    }

    /// When each row's handshake ended, in [`CoarseInstant`] units.
    pub fn freeze_connected_at(&self, rows: &PeerRows) -> Vec<u32> {
        rows.column(&self.connected_at)
    }

    /// Smoothed round-trip times in microseconds, `u32::MAX` if not known.
    pub fn freeze_rtt(&self, rows: &PeerRows) -> Vec<u32> {
        rows.column(&self.rtt_us)
    }

    /// When each row's round-trip time was measured, in [`CoarseInstant`] units; arbitrary if it is not known.
    pub fn freeze_rtt_measured(&self, rows: &PeerRows) -> Vec<u32> {
        rows.column(&self.rtt_at)
    }

    /// Network group of each row; arbitrary for a row that has released its slot since the freeze.
    pub fn freeze_groups(&self, rows: &PeerRows) -> Vec<u32> {
        let mut groups = Vec::with_capacity(rows.len());
        for chunk in rows.slots().chunks(NAMES_PER_LOCK) {
            let members = self.members.lock();
            groups.extend(chunk.iter().map(|&slot| members.group(slot).0));
        }
        groups
    }

    /// Traffic of each row's connection; zero if it has ended. Calls [`Link::traffic`] once per row.
    pub fn freeze_traffic(&self, rows: &PeerRows) -> Vec<LinkTraffic> {
        let mut all = vec![LinkTraffic::default(); rows.len()];
        self.for_links(rows, 0..rows.len(), |row, link| all[row] = link.traffic());
        all
    }

    /// Calls `each` with the link of every given row that is still live, outside the lock.
    pub fn for_links(
        &self,
        rows: &PeerRows,
        which: impl IntoIterator<Item = usize>,
        mut each: impl FnMut(usize, &dyn Link),
    ) {
        let mut which = which.into_iter();
        let mut batch: Vec<(usize, Arc<dyn Link>)> = Vec::with_capacity(NAMES_PER_LOCK);
        loop {
            let mut taken = 0;
            {
                let members = self.members.lock();
                for row in which.by_ref().take(NAMES_PER_LOCK) {
                    taken += 1;
                    let key = rows.key(row);
                    if self.is_live(key)
                        && let Some(link) = members.link(key.slot)
                    {
                        batch.push((row, link));
                    }
                }
            }
            for (row, link) in batch.drain(..) {
                each(row, &*link);
            }
            if taken < NAMES_PER_LOCK {
                return;
            }
        }
    }

    /// The network group of a live connection's address.
    #[inline]
    pub fn group(&self, key: ConnKey) -> Option<NetGroup> {
        let members = self.members.lock();
        self.is_live(key).then(|| members.group(key.slot))
    }

    /// When a live connection's handshake ended, and its smoothed round-trip time in microseconds.
    #[inline]
    pub fn age_and_rtt(&self, key: ConnKey) -> Option<(CoarseInstant, u32)> {
        let at = key.slot as usize;
        let read = (CoarseInstant(self.connected_at.get(at)?.load(Relaxed)), self.rtt_us[at].load(Relaxed));
        self.is_live(key).then_some(read)
    }

    /// Orders live connections by round trip, for choosing the fastest peer; None if the connection has ended.
    ///
    /// Below 2^31 it is the round trip in microseconds. A figure older than 90 s comes after every younger one, because the peer
    /// may have become slow or silent since. An unknown one comes last.
    #[inline]
    pub fn rtt_rank(&self, key: ConnKey) -> Option<u32> {
        const OLD: u32 = 1 << 31;
        let at = key.slot as usize;
        let rank = match self.rtt_us.get(at)?.load(Relaxed) {
            RTT_NOT_KNOWN => RTT_NOT_KNOWN,
            rtt if self.is_rtt_old(at) => OLD + rtt.min(OLD - 2),
            rtt => rtt.min(OLD - 1),
        };
        self.is_live(key).then_some(rank)
    }

    fn is_rtt_old(&self, at: usize) -> bool {
        let measured = CoarseInstant(self.rtt_at[at].load(Relaxed));
        self.clock.coarse().since(measured) > RTT_COUNTS
    }

    /// Records that a live connection answered a request within `took`. Its round trip takes no longer, so this replaces a
    /// figure that is larger, not known, or older than 90 s. Applications that send requests themselves call it.
    pub fn answered_within(&self, key: ConnKey, took: Duration) {
        let Some(cell) = self.rtt_us.get(key.slot as usize) else { return };
        let bound = in_micros(took);
        let is_old = self.is_rtt_old(key.slot as usize);
        if (bound < cell.load(Relaxed) || is_old) && self.is_live(key) {
            cell.store(bound, Relaxed);
            self.rtt_measured(key.slot);
        }
    }

    /// The round trip in `slot` was measured now.
    pub(super) fn rtt_measured(&self, slot: u32) {
        self.rtt_at[slot as usize].store(self.clock.coarse().0, Relaxed);
    }

    /// When the peer of a live connection was last seen.
    #[inline]
    pub fn seen(&self, key: ConnKey) -> Option<CoarseInstant> {
        self.is_live(key).then(|| CoarseInstant(self.last_seen[key.slot as usize].load(Relaxed)))
    }
}

impl Pool {
    /// Id, address and agent of a live or closing connection; none once its slot is released.
    pub fn name(&self, key: ConnKey) -> Option<PeerLabel> {
        let members = self.members.lock();
        let word = self.tags.get(key.slot as usize)?.load();
        if word.conn() != key.conn || !matches!(word.state(), State::Live | State::Closing) {
            return None;
        }
        let agent = members.link(key.slot).map(|link| link.agent().to_owned()).unwrap_or_default();
        Some(PeerLabel { id: members.id(key.slot), address: members.address(key.slot), agent })
    }

    /// Connected peers with their addresses, by ascending slot.
    pub fn peers(self: &Arc<Self>) -> Vec<(ConnKey, PeerLabel)> {
        let rows = self.freeze();
        (0..rows.len()).filter_map(|row| Some((rows.key(row), self.name(rows.key(row))?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::{Direction, PeerFacts, PoolLimits, Slot};
    use super::*;
    use crate::journal::{Journal, JournalLimits};
    use crate::pool::Goodbye;
    use groundskeeper_base::clock::SystemClock;
    use groundskeeper_base::peer::PeerId;

    struct SilenceColumn;

    impl Link for SilenceColumn {
        fn ping(&self) {}

        fn close(&self, _: &Goodbye) {}
    }

    fn pool() -> Arc<Pool> {
        let clock = SystemClock::new();
        let journal = Journal::new(clock.clone(), JournalLimits::default(), None);
        Pool::new(PeerId::from_bytes([255; 32]), PoolLimits::only_capacity(300), clock, journal)
    }

    fn attach(pool: &Arc<Pool>, peer: u8) -> Slot {
        let facts = PeerFacts {
            id: PeerId::from_bytes([peer; 32]),
            address: SocketAddr::from(([10, 0, 0, peer], 1)),
            direction: if peer.is_multiple_of(2) { Direction::Inbound } else { Direction::Outbound },
        };
        pool.attach(facts, Arc::new(SilenceColumn)).unwrap()
    }

    #[test]
    fn rows_are_the_live_slots_in_order_whatever_holes_there_are() {
        for holes in [|_| false, |peer| peer % 3 == 0, |peer| peer >= 64, |peer| peer < 130, |_| true]
            as [fn(u8) -> bool; 5]
        {
            let pool = pool();
            let mut slots: Vec<Slot> = (0..200).map(|peer| attach(&pool, peer)).collect();
            slots.retain(|slot| !holes(slot.key().slot as u8));
            for slot in &slots {
                slot.peer_seen(CoarseInstant(slot.key().slot * 8));
            }
            let rows = pool.freeze();
            assert_eq!(rows.len(), slots.len());
            let idle = pool.freeze_idle(&rows, CoarseInstant(150 * 8 + 7), CoarseInstant(20 * 8));
            let seen = pool.freeze_last_seen(&rows);
            for (row, slot) in slots.iter().enumerate() {
                let key = slot.key();
                assert_eq!((rows.key(row), seen[row]), (key, key.slot * 8));
                assert_eq!(idle[row], 150_u32.saturating_sub(key.slot).min(130), "slot {}", key.slot);
                assert_eq!(rows.words()[row].inbound(), key.slot.is_multiple_of(2));
            }
        }
    }

    #[test]
    fn the_next_tenant_of_a_slot_is_not_taken_for_a_row() {
        let pool = pool();
        let (first, second) = (attach(&pool, 1), attach(&pool, 2));
        let rows = pool.freeze();
        let slot = first.key().slot;
        drop(first);
        let next = attach(&pool, 3);
        assert_eq!(next.key().slot, slot);
        assert!(pool.link(rows.key(0)).is_none() && pool.name(rows.key(0)).is_none());
        assert_eq!(rows.key(1), second.key());
    }
}
