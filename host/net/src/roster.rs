//! The node's own connections by slot number, for broadcasts and requests. Who is live is the pool's word, not its.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use groundskeeper_base::chance::Chance;
use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::pool::{ConnKey, Link, Pool};
use parking_lot::Mutex;

use super::conn::Conn;

/// Slots behind one lock: a broadcast holds it for as many pushes, about ten microseconds.
const BLOCK: u32 = 64;

type Block = Mutex<Vec<Option<Arc<Conn>>>>;

/// Connections by slot, in blocks that take no memory before they are used.
pub(crate) struct Roster {
    blocks: Box<[Block]>,
    /// Counts comings and goings.
    changes: AtomicU64,
    listed: ArcSwap<Listed>,
    pool: Arc<Pool>,
}

/// All connections at one moment, to choose from without a lock.
#[derive(Default)]
pub(crate) struct Listed {
    changes: u64,
    pub(crate) conns: Vec<Arc<Conn>>,
}

impl Roster {
    pub(crate) fn new(pool: &Arc<Pool>) -> Arc<Self> {
        Arc::new(Self {
            blocks: (0..pool.capacity().div_ceil(BLOCK)).map(|_| Mutex::default()).collect(),
            changes: AtomicU64::new(0),
            listed: ArcSwap::default(),
            pool: pool.clone(),
        })
    }

    fn place(&self, slot: u32) -> (&Block, usize) {
        (&self.blocks[(slot / BLOCK) as usize], (slot % BLOCK) as usize)
    }

    /// Takes the slot's place; whoever had it has left the pool already.
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

    /// Gives the place up, unless a later connection has it.
    pub(crate) fn leave(&self, key: ConnKey) {
        let (block, at) = self.place(key.slot);
        let mut block = block.lock();
        let left = block.get_mut(at).and_then(|place| place.take_if(|conn| conn.key == key));
        drop(block);
        self.changes.fetch_add(1, Ordering::Release);
        drop(left);
    }

    /// The connections, listed anew if one has come or gone since the last call: O(1) in between, with no lock.
    pub(crate) fn listed(&self) -> arc_swap::Guard<Arc<Listed>> {
        let changes = self.changes.load(Ordering::Acquire);
        let listed = self.listed.load();
        if listed.changes == changes {
            return listed;
        }
        let mut conns = Vec::with_capacity(listed.conns.len() + 1);
        self.for_each(|conn| conns.push(Arc::clone(conn)));
        // Of two that list at once, either is right: who comes meanwhile has counted a change.
        self.listed.store(Arc::new(Listed { changes, conns }));
        self.listed.load()
    }

    pub(crate) fn find(&self, key: ConnKey) -> Option<Arc<Conn>> {
        let (block, at) = self.place(key.slot);
        let block = block.lock();
        block.get(at)?.as_ref().filter(|conn| conn.key == key).cloned()
    }

    /// The live connection to `peer`, if it is one of ours.
    pub(crate) fn find_peer(&self, peer: &PeerId) -> Option<Arc<Conn>> {
        self.find(self.pool.find(peer)?)
    }

    /// One connection by chance.
    pub(crate) fn draw(&self, chance: &Chance) -> Option<Arc<Conn>> {
        let (mut chosen, mut met) = (None, 0);
        self.for_each(|conn| {
            met += 1;
            if chance.below(met) == 0 {
                chosen = Some(Arc::clone(conn));
            }
        });
        chosen
    }

    /// Ends the task of every connection without asking. How many there were.
    pub(crate) fn abort_all(&self) -> u32 {
        let mut left = Vec::new();
        self.for_each(|conn| left.push(Arc::clone(conn)));
        left.iter().for_each(|conn| conn.abort());
        left.len() as u32
    }

    /// Calls `each` for every connection, one block of slots at a time under its lock.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Conn>)) {
        for block in &self.blocks {
            block.lock().iter().flatten().for_each(&mut each);
        }
    }
}
