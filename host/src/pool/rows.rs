//! Freezing the pool: which connections are live at one moment, and their columns. Copies; never holds the lock for long.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use super::{ConnKey, Link, Pool, State, Traffic, Word};
use crate::clock::Coarse;
use crate::peer::{NetGroup, PeerId};

/// Slots named under one hold of the lock, so that nobody waits for a long list: about 5 us.
const NAMES_PER_LOCK: usize = 256;

/// The connections that were live when the rows were frozen, by ascending slot. 12 bytes each.
#[derive(Default)]
pub struct Rows {
    slots: Vec<u32>,
    words: Vec<Word>,
}

impl Rows {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    pub fn key(&self, row: usize) -> ConnKey {
        ConnKey { slot: self.slots[row], conn: self.words[row].conn() }
    }

    /// State word of each row as it was: health, direction, protection and unanswered pings come from here.
    pub fn words(&self) -> &[Word] {
        &self.words
    }
}

/// Who a row is, for logs and operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    pub id: PeerId,
    pub address: SocketAddr,
    pub agent: String,
}

impl Pool {
    /// The live connections now. About 1 ns per slot; takes no lock.
    pub fn freeze(&self) -> Rows {
        let used = &self.tags[..self.high.load(Relaxed) as usize];
        let expected = self.live() as usize;
        let mut rows = Rows { slots: Vec::with_capacity(expected), words: Vec::with_capacity(expected) };
        for (slot, tag) in used.iter().enumerate() {
            let word = tag.load();
            if word.is_live() {
                rows.slots.push(slot as u32);
                rows.words.push(word);
            }
        }
        rows
    }

    fn gather(column: &[AtomicU32], rows: &Rows) -> Vec<u32> {
        rows.slots.iter().map(|&slot| column[slot as usize].load(Relaxed)).collect()
    }

    /// When each row was last seen, in [`Coarse`] units.
    pub fn freeze_last_seen(&self, rows: &Rows) -> Vec<u32> {
        Self::gather(&self.last_seen, rows)
    }

    /// When each row's handshake ended, in [`Coarse`] units.
    pub fn freeze_connected_at(&self, rows: &Rows) -> Vec<u32> {
        Self::gather(&self.connected_at, rows)
    }

    /// Smoothed round-trip times in microseconds, `u32::MAX` if not known.
    pub fn freeze_rtt(&self, rows: &Rows) -> Vec<u32> {
        Self::gather(&self.rtt_us, rows)
    }

    /// Network group of each row. A row that has ended meanwhile still gives the group it had.
    pub fn freeze_groups(&self, rows: &Rows) -> Vec<u32> {
        let mut groups = Vec::with_capacity(rows.len());
        for chunk in rows.slots.chunks(NAMES_PER_LOCK) {
            let members = self.members.lock();
            groups.extend(chunk.iter().map(|&slot| members.group(slot).0));
        }
        groups
    }

    /// What each row's connection has carried; zero for one that has ended. One call of [`Link::traffic`] a row.
    pub fn freeze_traffic(&self, rows: &Rows) -> Vec<Traffic> {
        let mut all = vec![Traffic::default(); rows.len()];
        self.for_links(rows, 0..rows.len(), |row, link| all[row] = link.traffic());
        all
    }

    /// Calls `each` with the link of every given row that is still live, outside the lock.
    pub fn for_links(
        &self,
        rows: &Rows,
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
                        batch.push((row, Arc::clone(link)));
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

    /// Who a connection is, also while it is closing; none once its slot has another tenant.
    pub fn name(&self, key: ConnKey) -> Option<Naming> {
        let members = self.members.lock();
        let word = self.tags.get(key.slot as usize)?.load();
        if word.conn() != key.conn || !matches!(word.state(), State::Live | State::Closing) {
            return None;
        }
        let agent = members.link(key.slot).map(|link| link.agent().to_owned()).unwrap_or_default();
        Some(Naming { id: members.id(key.slot), address: members.address(key.slot), agent })
    }

    /// The network group of a connection's address, if the connection is still there.
    pub fn group(&self, key: ConnKey) -> Option<NetGroup> {
        let members = self.members.lock();
        self.is_live(key).then(|| members.group(key.slot))
    }

    /// When a live connection's handshake ended, and its smoothed round-trip time in microseconds.
    pub fn age_and_rtt(&self, key: ConnKey) -> Option<(Coarse, u32)> {
        let at = key.slot as usize;
        let read = (Coarse(self.connected_at.get(at)?.load(Relaxed)), self.rtt_us[at].load(Relaxed));
        self.is_live(key).then_some(read)
    }

    /// When the peer of a live connection was last seen.
    pub fn seen(&self, key: ConnKey) -> Option<Coarse> {
        self.is_live(key).then(|| Coarse(self.last_seen[key.slot as usize].load(Relaxed)))
    }

    /// Connected peers with their addresses, by ascending slot.
    pub fn peers(&self) -> Vec<(ConnKey, Naming)> {
        let rows = self.freeze();
        (0..rows.len()).filter_map(|row| Some((rows.key(row), self.name(rows.key(row))?))).collect()
    }
}
