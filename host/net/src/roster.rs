//! The node's own connections by slot number, for broadcasts and requests. Only the pool decides which are live.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use groundskeeper_base::chance::SharedRng;
use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Priority;
use groundskeeper_pool::pool::{ConnKey, Link, Pool};
use parking_lot::Mutex;

use super::conn::Conn;
use super::peer_record::PeerRecords;

/// Slots behind one lock. A broadcast holds the lock for this many pushes, about ten microseconds.
const BLOCK: u32 = 64;

type Block = Mutex<Vec<Option<Arc<Conn>>>>;

/// Connections by slot, in blocks that take no memory before they are used.
pub(crate) struct Roster {
    blocks: Box<[Block]>,
    /// Counts connections that were added and removed.
    changes: AtomicU64,
    listed: ArcSwap<ConnList>,
    /// Records of peers that have disconnected.
    pub(crate) records: PeerRecords,
    /// When [`Roster::relieve`] last ran: the coarse time plus one, or 0 for never.
    relieved: AtomicU32,
}

/// All connections at one moment, to choose from without a lock.
#[derive(Default)]
pub(crate) struct ConnList {
    changes: u64,
    pub(crate) conns: Vec<Arc<Conn>>,
}

impl Roster {
    /// For slots below `capacity`.
    pub(crate) fn new(capacity: u32) -> Self {
        Self {
            blocks: (0..capacity.div_ceil(BLOCK)).map(|_| Mutex::default()).collect(),
            changes: AtomicU64::new(0),
            listed: ArcSwap::default(),
            records: PeerRecords::default(),
            relieved: AtomicU32::new(0),
        }
    }

    fn place(&self, slot: u32) -> (&Block, usize) {
        (&self.blocks[(slot / BLOCK) as usize], (slot % BLOCK) as usize)
    }

    /// Stores the connection at its slot. The slot's earlier connection has left the pool already.
    pub(crate) fn enter(&self, conn: Arc<Conn>) {
        let (block, at) = self.place(conn.key.slot);
        let mut block = block.lock();
        if block.len() <= at {
            block.resize(at + 1, None);
        }
        block[at] = Some(conn);
        drop(block);
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Removes the connection, unless a later one has the slot, and keeps the peer's record.
    pub(crate) fn leave(&self, conn: &Conn) {
        let (block, at) = self.place(conn.key.slot);
        let mut block = block.lock();
        let left = block.get_mut(at).and_then(|place| place.take_if(|other| other.key == conn.key));
        drop(block);
        self.changes.fetch_add(1, Ordering::Release);
        drop(left);
        self.records.keep(conn.peer, &conn.record);
    }

    /// The connections. Lists them again if one was added or removed since the last call; otherwise O(1), with no lock.
    pub(crate) fn listed(&self) -> arc_swap::Guard<Arc<ConnList>> {
        let changes = self.changes.load(Ordering::Acquire);
        let listed = self.listed.load();
        if listed.changes == changes {
            return listed;
        }
        let mut conns = Vec::with_capacity(listed.conns.len() + 1);
        self.for_each(|conn| conns.push(Arc::clone(conn)));
        // Two callers may list at once, and either list will do: a connection added meanwhile has changed the count.
        self.listed.store(Arc::new(ConnList { changes, conns }));
        self.listed.load()
    }

    /// The live connection to `peer`, if it is one of ours.
    pub(crate) fn find_peer(&self, pool: &Pool, peer: &PeerId) -> Option<Arc<Conn>> {
        self.find(pool.find(peer)?)
    }

    pub(crate) fn find(&self, key: ConnKey) -> Option<Arc<Conn>> {
        let (block, at) = self.place(key.slot);
        let block = block.lock();
        block.get(at)?.as_ref().filter(|conn| conn.key == key).cloned()
    }

    /// One random connection.
    pub(crate) fn draw(&self, chance: &SharedRng) -> Option<Arc<Conn>> {
        let (mut chosen, mut met) = (None, 0);
        self.for_each(|conn| {
            met += 1;
            if chance.below(met) == 0 {
                chosen = Some(Arc::clone(conn));
            }
        });
        chosen
    }

    /// Aborts the tasks of all connections. Returns their number.
    pub(crate) fn abort_all(&self) -> u32 {
        let mut left = Vec::new();
        self.for_each(|conn| left.push(Arc::clone(conn)));
        left.iter().for_each(|conn| conn.abort());
        left.len() as u32
    }

    /// Drops bulk, then broadcast frames from queues above their fair share of `budget` bytes: peers that do not read
    /// lose frames, others do not. Calls `shed` with the frames by priority. At most once per 125 ms. O(connections).
    pub(crate) fn relieve(&self, now: CoarseInstant, budget: usize, shed: impl Fn([u32; Priority::COUNT])) {
        // One more than the time, since 0 means never.
        let moment = now.0.wrapping_add(1);
        if self.relieved.swap(moment, Ordering::Relaxed) == moment {
            return;
        }
        let listed = self.listed();
        let fair = budget / (2 * listed.conns.len().max(1));
        for conn in &listed.conns {
            shed(conn.shed(fair));
        }
    }

    /// Calls `each` for every connection, one block of slots at a time under its lock.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Conn>)) {
        for block in &self.blocks {
            block.lock().iter().flatten().for_each(&mut each);
        }
    }
}
