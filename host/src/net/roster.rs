//! The node's own connections by slot number, for broadcasts and requests. Who is live is the pool's word, not its.

use std::sync::Arc;

use parking_lot::Mutex;

use super::conn::Conn;
use crate::pool::ConnKey;

/// Slots behind one lock: a broadcast holds it for as many pushes, about ten microseconds.
const BLOCK: u32 = 64;

type Block = Mutex<Vec<Option<Arc<Conn>>>>;

/// Connections by slot, in blocks that take no memory before they are used.
pub(crate) struct Roster {
    blocks: Box<[Block]>,
}

impl Roster {
    pub(crate) fn new(capacity: u32) -> Self {
        Self { blocks: (0..capacity.div_ceil(BLOCK)).map(|_| Mutex::default()).collect() }
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
    }

    /// Gives the place up, unless a later connection has it.
    pub(crate) fn leave(&self, key: ConnKey) {
        let (block, at) = self.place(key.slot);
        let mut block = block.lock();
        let left = block.get_mut(at).and_then(|place| place.take_if(|conn| conn.key == key));
        drop(block);
        drop(left);
    }

    pub(crate) fn find(&self, key: ConnKey) -> Option<Arc<Conn>> {
        let (block, at) = self.place(key.slot);
        let block = block.lock();
        block.get(at)?.as_ref().filter(|conn| conn.key == key).cloned()
    }

    /// Calls `each` for every connection, one block of slots at a time under its lock.
    pub(crate) fn for_each(&self, mut each: impl FnMut(&Arc<Conn>)) {
        for block in &self.blocks {
            block.lock().iter().flatten().for_each(&mut each);
        }
    }
}
