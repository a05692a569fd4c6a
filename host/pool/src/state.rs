//! What one node knows, in one bundle, and how much of it may be held.

use std::sync::Arc;

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;

use crate::book::{Book, BookLimits};
use crate::broadcasts::{BroadcastLimits, Broadcasts};
use crate::journal::{Journal, JournalFile, JournalLimits};
use crate::pool::{Pool, PoolLimits};

/// How much the state of one node may hold.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    pub pool: PoolLimits,
    pub book: BookLimits,
    pub broadcasts: BroadcastLimits,
    pub journal: JournalLimits,
}

impl NodeLimits {
    /// Room for `connections`, everything else at its default.
    pub fn for_connections(connections: u32) -> Self {
        Self {
            pool: PoolLimits::only_capacity(connections),
            book: BookLimits::default(),
            broadcasts: BroadcastLimits::default(),
            journal: JournalLimits::default(),
        }
    }
}

/// What a node knows: its connections, the addresses it has heard of, the broadcasts it has seen, and its journal.
/// Clones share it.
#[derive(Clone)]
pub struct NodeState {
    pub clock: Arc<dyn Clock>,
    pub journal: Arc<Journal>,
    pub pool: Arc<Pool>,
    pub book: Arc<Book>,
    pub broadcasts: Arc<Broadcasts>,
}

impl NodeState {
    /// The empty state of the node `self_id`. With `file`, the journal is also written there.
    pub fn new(
        self_id: PeerId,
        limits: NodeLimits,
        clock: Arc<dyn Clock>,
        file: Option<JournalFile>,
    ) -> Self {
        let journal = Journal::new(Arc::clone(&clock), limits.journal, file);
        Self {
            pool: Pool::new(self_id, limits.pool, Arc::clone(&clock), Arc::clone(&journal)),
            book: Book::new(limits.book, Arc::clone(&clock), Arc::clone(&journal)),
            broadcasts: Arc::new(Broadcasts::new(limits.broadcasts)),
            clock,
            journal,
        }
    }
}
