//! Journal records of connections that never became live. The first of a kind is recorded at once and later ones in
//! sums, so that an attack cannot flood the journal. Refuses no connection itself.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_flow::NewcomerRefusal;
use groundskeeper_pool::NodeState;
use groundskeeper_pool::journal::{ActionKind, Initiator, Journal, NewRecord, Outcome};
use parking_lot::Mutex;

/// The time in which each kind gets at most one record.
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Default)]
struct RefusalSum {
    recorded: Option<CoarseInstant>,
    since: u32,
}

/// Each reason has its own sum, so that one cannot hide another.
#[derive(Default)]
pub(crate) struct Refusals {
    sums: Mutex<[RefusalSum; NewcomerRefusal::COUNT]>,
    /// Since the start.
    counts: [AtomicU64; NewcomerRefusal::COUNT],
}

impl Refusals {
    /// Counts one refusal. Writes at most one record per reason and window; its count is the number of refusals it
    /// covers. Returns that number if it wrote one.
    pub(crate) fn note(
        &self,
        state: &NodeState,
        reason: NewcomerRefusal,
        address: Option<SocketAddr>,
        why: impl FnOnce() -> String,
    ) -> Option<u32> {
        self.counts[reason as usize].fetch_add(1, Relaxed);
        let now = state.clock.coarse();
        let mut sums = self.sums.lock();
        let sum = &mut sums[reason as usize];
        sum.since += 1;
        if sum.recorded.is_some_and(|at| now.since(at) < WINDOW) {
            return None;
        }
        let count = std::mem::take(&mut sum.since);
        sum.recorded = Some(now);
        drop(sums);
        record(&state.journal, address, why(), count);
        Some(count)
    }

    /// Refusals since the start, in the order of [`NewcomerRefusal::ALL`].
    pub(crate) fn counts(&self) -> [u64; NewcomerRefusal::COUNT] {
        std::array::from_fn(|at| self.counts[at].load(Relaxed))
    }

    /// Records the refusals that are counted but not yet recorded. For shutdown.
    pub(crate) fn flush(&self, journal: &Journal) {
        let waiting: u32 = self.sums.lock().iter_mut().map(|sum| std::mem::take(&mut sum.since)).sum();
        if waiting > 0 {
            record(journal, None, "not recorded one by one".into(), waiting);
        }
    }
}

fn record(journal: &Journal, address: Option<SocketAddr>, why: String, count: u32) {
    journal.record(NewRecord {
        address,
        outcome: Outcome::Refused(why),
        count,
        ..NewRecord::new(Initiator::Host, ActionKind::Refused, "incoming connection")
    });
}
