//! Pings that plans asked for, sent to the connections in batches. Does not choose the peers.

use std::collections::VecDeque;
use std::sync::Arc;

use super::BeatContext;
use super::snapshot::TickSnapshot;

/// Pings that were asked for and not sent yet.
pub(super) struct PingQueue {
    snapshot: Arc<TickSnapshot>,
    rows: Vec<u32>,
    next: usize,
}

impl PingQueue {
    pub(super) fn new(snapshot: Arc<TickSnapshot>, rows: Vec<u32>) -> Self {
        Self { snapshot, rows, next: 0 }
    }
}

/// Sends at most `most` waiting pings. True if more wait.
pub(super) fn send_pings(world: &BeatContext, waiting: &mut VecDeque<PingQueue>, mut most: usize) -> bool {
    while let Some(batch) = waiting.front_mut() {
        let end = batch.rows.len().min(batch.next + most);
        most -= end - batch.next;
        let rows = batch.rows[batch.next..end].iter().map(|&row| row as usize);
        world.state.pool.for_links(batch.snapshot.rows(), rows, |_, link| link.ping());
        batch.next = end;
        if batch.next < batch.rows.len() {
            return true;
        }
        waiting.pop_front();
    }
    false
}
