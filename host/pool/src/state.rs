//! The state of one node, and its limits.

use std::sync::Arc;

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;

use crate::book::{Book, BookLimits};
use crate::broadcasts::{BroadcastLimits, Broadcasts};
use crate::journal::{Journal, JournalFile, JournalLimits};
use crate::pool::{Pool, PoolLimits};

/// Limits on the state of one node.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Limits on connections.
    pub pool: PoolLimits,
    /// Limits on known addresses, and their backoff.
    pub book: BookLimits,
    /// Limits on broadcasts: how many are remembered, and how many are sent per window.
    pub broadcasts: BroadcastLimits,
    /// Limits on the records in memory. The file has its own limit.
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

/// The state of one node: its connections, address book, seen broadcasts and journal. Clones share it.
#[derive(Clone)]
pub struct NodeState {
    /// The clock that the pool, the book and the journal read.
    pub clock: Arc<dyn Clock>,
    /// Records the actions on all other parts.
    pub journal: Arc<Journal>,
    /// The connections: in a handshake, live or closing.
    pub pool: Arc<Pool>,
    /// The known addresses. The caller loads them from disk and saves them.
    pub book: Arc<Book>,
    /// The broadcasts seen, so that each is forwarded only once.
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
