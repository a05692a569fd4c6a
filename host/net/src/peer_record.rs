//! How one peer has answered, by kind of request: its breakers and answer times. Outlives the connection, so a peer
//! cannot lose its record by reconnecting. Sends nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{Breaker, BreakerSettings, BreakerState, CallEnd, Estimator, TimeoutSettings};
use parking_lot::Mutex;

use super::kinds::RequestKind;

/// Records of disconnected peers that have failures, about 300 bytes each. The oldest makes room.
const REMEMBERED: usize = 4096;

/// One peer's record.
#[derive(Debug, Default)]
pub(crate) struct PeerRecord {
    kinds: Mutex<Vec<KindRecord>>,
    /// Breakers that are not closed. While there is none, [`PeerRecord::would_admit`] takes no lock.
    troubled: AtomicU32,
}

#[derive(Debug)]
struct KindRecord {
    kind: Arc<RequestKind>,
    breaker: Breaker,
    times: Estimator,
}

impl PeerRecord {
    fn with<R>(&self, kind: &Arc<RequestKind>, act: impl FnOnce(&mut KindRecord) -> R) -> R {
        let mut kinds = self.kinds.lock();
        let at = match kinds.iter().position(|known| Arc::ptr_eq(&known.kind, kind)) {
            Some(at) => at,
            None => {
                let (breaker, times) = (Breaker::default(), Estimator::default());
                kinds.push(KindRecord { kind: Arc::clone(kind), breaker, times });
                kinds.len() - 1
            }
        };
        act(&mut kinds[at])
    }

    /// Whether a request of this kind would be admitted. One relaxed load while no breaker is open; calls `now` for the
    /// monotonic time only if one is.
    pub(crate) fn would_admit(&self, kind: &RequestKind, now: impl FnOnce() -> Duration) -> bool {
        self.troubled.load(Relaxed) == 0 || {
            let kinds = self.kinds.lock();
            let known = kinds.iter().find(|known| std::ptr::eq(&*known.kind, kind));
            known.is_none_or(|known| known.breaker.would_admit(now()))
        }
    }

    /// Whether a request may be sent. If true, the caller must report its end with [`PeerRecord::end`].
    pub(crate) fn admit(&self, kind: &Arc<RequestKind>, now: Duration) -> bool {
        self.with(kind, |answers| answers.breaker.admit(now))
    }

    /// Reports how a request ended. Returns the breaker's new state if it changed.
    pub(crate) fn end(
        &self,
        kind: &Arc<RequestKind>,
        how: CallEnd,
        took: Duration,
        now: Duration,
        settings: &BreakerSettings,
    ) -> Option<BreakerState> {
        self.with(kind, |answers| {
            match how {
                CallEnd::Succeeded => answers.times.sample(took),
                CallEnd::Failed => answers.times.missed(),
                CallEnd::Unknown => {}
            }
            let before = answers.breaker.state(now);
            let changed = answers.breaker.end(how, now, settings);
            match changed {
                Some(BreakerState::Open) if before == BreakerState::Closed => {
                    self.troubled.fetch_add(1, Relaxed);
                }
                Some(BreakerState::Closed) => _ = self.troubled.fetch_sub(1, Relaxed),
                _ => {}
            }
            changed
        })
    }

    /// How long to wait for an answer of this kind.
    pub(crate) fn timeout(&self, kind: &Arc<RequestKind>, settings: &TimeoutSettings) -> Duration {
        self.with(kind, |answers| settings.after(&answers.times, &kind.times))
    }

    /// Breakers that are not closed.
    pub(crate) fn breakers(&self, now: Duration) -> Vec<(Arc<str>, BreakerState)> {
        if self.troubled.load(Relaxed) == 0 {
            return Vec::new();
        }
        let kinds = self.kinds.lock();
        let states = kinds.iter().map(|known| (Arc::clone(&known.kind.name), known.breaker.state(now)));
        states.filter(|(_, state)| *state != BreakerState::Closed).collect()
    }

    fn is_spotless(&self) -> bool {
        self.kinds.lock().iter().all(|known| known.breaker.is_spotless())
    }
}

/// The records of disconnected peers.
#[derive(Default)]
pub(crate) struct PeerRecords(Mutex<DepartedPeers>);

#[derive(Default)]
struct DepartedPeers {
    records: HashMap<PeerId, Arc<PeerRecord>>,
    order: VecDeque<PeerId>,
}

impl PeerRecords {
    /// Takes out the record of a peer that has connected, or starts a new one. O(records kept) if there is one.
    pub(crate) fn take(&self, peer: &PeerId) -> Arc<PeerRecord> {
        let mut left = self.0.lock();
        let Some(record) = left.records.remove(peer) else { return Arc::default() };
        left.order.retain(|other| other != peer);
        record
    }

    /// Keeps the record of a disconnected peer, if it has failures.
    pub(crate) fn keep(&self, peer: PeerId, record: &Arc<PeerRecord>) {
        if record.is_spotless() {
            return;
        }
        let mut left = self.0.lock();
        if left.records.insert(peer, Arc::clone(record)).is_none() {
            left.order.push_back(peer);
        }
        if left.order.len() > REMEMBERED
            && let Some(oldest) = left.order.pop_front()
        {
            left.records.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::RequestKinds;

    #[test]
    fn a_record_outlives_the_connection_and_spotless_ones_are_forgotten() {
        let (records, kinds) = (PeerRecords::default(), RequestKinds::default());
        let (kind, peer) = (kinds.of("block"), PeerId::from_bytes([7; 32]));
        let settings = BreakerSettings { failures: 1, ..BreakerSettings::default() };
        let (now, took) = (Duration::from_secs(1), Duration::from_millis(1));

        let record = records.take(&peer);
        records.keep(peer, &record);
        assert!(records.0.lock().records.is_empty());
        assert!(record.admit(&kind, now));
        assert_eq!(record.end(&kind, CallEnd::Failed, took, now, &settings), Some(BreakerState::Open));
        records.keep(peer, &record);
        let again = records.take(&peer);
        assert!(!again.would_admit(&kind, || now) && again.would_admit(&kinds.of("tip"), || now));
        assert_eq!(again.breakers(now), [("block".into(), BreakerState::Open)]);
        assert!(records.0.lock().order.is_empty());
    }

    #[test]
    fn records_are_bounded() {
        let (records, kind) = (PeerRecords::default(), RequestKinds::default().of("block"));
        for n in 0..REMEMBERED + 100 {
            let record = Arc::new(PeerRecord::default());
            record.admit(&kind, Duration::ZERO);
            let settings = BreakerSettings::default();
            record.end(&kind, CallEnd::Failed, Duration::ZERO, Duration::ZERO, &settings);
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            records.keep(PeerId::from_bytes(id), &record);
        }
        let left = records.0.lock();
        assert_eq!((left.records.len(), left.order.len()), (REMEMBERED, REMEMBERED));
    }
}
