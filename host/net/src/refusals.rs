//! Journal records of connections that never became live. The first of a kind is recorded at once and later ones in
//! sums, so that an attack cannot flood the journal. A peer that has proven its key has a separate sum, so that
//! strangers cannot hide it. Refuses no connection itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::NewcomerRefusal;
use groundskeeper_pool::NodeState;
use groundskeeper_pool::journal::{ActionKind, Initiator, Journal, NewRecord, Outcome};
use parking_lot::Mutex;

/// The time in which each kind gets at most one record.
const WINDOW: Duration = Duration::from_secs(10);

/// Peers with a separate sum. Keys cost a stranger nothing: beyond this number they are summed by reason.
const NAMED: usize = 64;

#[derive(Clone, Copy, Default)]
struct RefusalSum {
    recorded: Option<CoarseInstant>,
    since: u32,
}

impl RefusalSum {
    /// Counts one refusal. Returns how many the record covers that is due now.
    fn add(&mut self, now: CoarseInstant) -> Option<u32> {
        self.since += 1;
        if self.is_recent(now) {
            return None;
        }
        self.recorded = Some(now);
        Some(std::mem::take(&mut self.since))
    }

    fn is_recent(&self, now: CoarseInstant) -> bool {
        self.recorded.is_some_and(|at| now.since(at) < WINDOW)
    }
}

#[derive(Default)]
struct RefusalSums {
    /// Each reason has its own sum, so that one cannot hide another.
    reasons: [RefusalSum; NewcomerRefusal::COUNT],
    peers: HashMap<PeerId, RefusalSum>,
}

#[derive(Default)]
pub(crate) struct Refusals {
    sums: Mutex<RefusalSums>,
    /// Since the start.
    counts: [AtomicU64; NewcomerRefusal::COUNT],
}

impl Refusals {
    /// Counts one refusal of `peer`, if it has proven its key. Writes at most one record per reason and window, and one for
    /// each of up to 64 peers; its count is the number of refusals it covers. Returns that number if it wrote one.
    pub(crate) fn note(
        &self,
        state: &NodeState,
        reason: NewcomerRefusal,
        peer: Option<PeerId>,
        address: Option<SocketAddr>,
        why: impl FnOnce() -> String,
    ) -> Option<u32> {
        self.counts[reason as usize].fetch_add(1, Relaxed);
        let now = state.clock.coarse();
        let mut sums = self.sums.lock();
        let RefusalSums { reasons, peers } = &mut *sums;
        let mut over = Vec::new();
        if peers.len() >= NAMED {
            over = peers.extract_if(|_, sum| !sum.is_recent(now)).filter(|(_, sum)| sum.since > 0).collect();
        }
        let own = peer.filter(|peer| peers.len() < NAMED || peers.contains_key(peer));
        let sum = own.map_or(&mut reasons[reason as usize], |peer| peers.entry(peer).or_default());
        let due = sum.add(now);
        drop(sums);
        for (peer, RefusalSum { since, .. }) in over {
            record(&state.journal, Some(peer), None, NOT_ONE_BY_ONE.into(), since);
        }
        let count = due?;
        record(&state.journal, peer, address, why(), count);
        Some(count)
    }

    /// Refusals since the start, in the order of [`NewcomerRefusal::ALL`].
    pub(crate) fn counts(&self) -> [u64; NewcomerRefusal::COUNT] {
        std::array::from_fn(|at| self.counts[at].load(Relaxed))
    }

    /// Records the refusals that are counted but not yet recorded. For shutdown.
    pub(crate) fn flush(&self, journal: &Journal) {
        let RefusalSums { reasons, peers } = std::mem::take(&mut *self.sums.lock());
        let waiting: u32 = reasons.iter().map(|sum| sum.since).sum();
        if waiting > 0 {
            record(journal, None, None, NOT_ONE_BY_ONE.into(), waiting);
        }
        for (peer, RefusalSum { since, .. }) in peers.into_iter().filter(|(_, sum)| sum.since > 0) {
            record(journal, Some(peer), None, NOT_ONE_BY_ONE.into(), since);
        }
    }
}

const NOT_ONE_BY_ONE: &str = "not recorded one by one";

fn record(journal: &Journal, peer: Option<PeerId>, address: Option<SocketAddr>, why: String, count: u32) {
    journal.record(NewRecord {
        peer,
        address,
        outcome: Outcome::Refused(why),
        count,
        ..NewRecord::new(Initiator::Host, ActionKind::Refused, "incoming connection")
    });
}

#[cfg(test)]
mod tests {
    use groundskeeper_base::clock::TokioClock;
    use groundskeeper_pool::NodeLimits;

    use super::*;

    fn id(n: u8) -> PeerId {
        PeerId::from_bytes([n; 32])
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_cannot_hide_who_was_refused_and_every_refusal_is_counted() {
        let clock = TokioClock::starting_at(Duration::ZERO);
        let state = NodeState::new(id(0), NodeLimits::for_connections(1), clock, None);
        let refusals = Refusals::default();
        let note = |peer: Option<u8>| {
            let at = "192.0.2.1:7420".parse().unwrap();
            refusals.note(&state, NewcomerRefusal::Denied, peer.map(id), Some(at), || "banned".into());
        };
        (0..1_000).for_each(|_| note(None));
        (0..5).for_each(|_| note(Some(1)));
        assert_eq!(state.journal.explain(&id(1)).len(), 1, "one at once, four in the next sum");
        (2..200).for_each(|n| note(Some(n)));
        let records = || state.journal.select(usize::MAX, |_| true);
        assert!(records().len() <= 1 + NAMED);
        // A window later others can be named, and what was summed for the first ones is written.
        tokio::time::advance(WINDOW).await;
        note(Some(250));
        assert_eq!(state.journal.explain(&id(250)).len(), 1);
        assert_eq!(state.journal.explain(&id(1)).iter().map(|record| record.count).sum::<u32>(), 5);
        refusals.flush(&state.journal);
        let counted: u32 = records().iter().map(|record| record.count).sum();
        assert_eq!(counted, 1_000 + 5 + 198 + 1);
    }
}
