//! Journal records of connections that never became live. The first of a kind is recorded at once and later ones in
//! sums, so that an attack cannot flood the journal. Refuses no connection itself.

use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_pool::NodeState;
use groundskeeper_pool::journal::{ActionKind, Initiator, Journal, NewRecord, Outcome};
use parking_lot::Mutex;

/// The time in which each kind gets at most one record.
const WINDOW: Duration = Duration::from_secs(10);

/// Why a connection did not become live. Each kind has its own sum, so that one cannot hide another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refusal {
    /// A limit of the pool, before any work was done.
    Limit,
    /// The handshake was not done in time.
    TimedOut,
    /// It does not speak TLS, or not ours.
    Garbage,
    /// It showed no key, or not a proper one.
    Key,
    OtherNetwork,
    /// No common version, or no proper hello.
    Hello,
    /// It hung up during the handshake.
    Closed,
    /// A ban, a duplicate, or this node itself.
    Denied,
}

const KINDS: usize = 8;

#[derive(Clone, Copy, Default)]
struct RefusalSum {
    recorded: Option<CoarseInstant>,
    since: u32,
}

#[derive(Default)]
pub(crate) struct Refusals(Mutex<[RefusalSum; KINDS]>);

impl Refusals {
    /// Counts one refusal. Writes at most one record per kind and window; its count is the number of refusals it
    /// covers.
    pub(crate) fn note(
        &self,
        state: &NodeState,
        kind: Refusal,
        address: SocketAddr,
        why: impl FnOnce() -> String,
    ) {
        let now = state.clock.coarse();
        let mut sums = self.0.lock();
        let sum = &mut sums[kind as usize];
        sum.since += 1;
        if sum.recorded.is_some_and(|at| now.since(at) < WINDOW) {
            return;
        }
        let count = std::mem::take(&mut sum.since);
        sum.recorded = Some(now);
        drop(sums);
        record(&state.journal, Some(address), why(), count);
    }

    /// Records the refusals that are counted but not yet recorded. For shutdown.
    pub(crate) fn flush(&self, journal: &Journal) {
        let waiting: u32 = self.0.lock().iter_mut().map(|sum| std::mem::take(&mut sum.since)).sum();
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
