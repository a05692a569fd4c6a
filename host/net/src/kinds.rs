//! Statistics of each kind of request over all peers: how long answers take and how requests end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use groundskeeper_flow::{AttemptEnd, Estimator, KindSnapshot, Latency, MOST_NAMES, OTHER, TimeoutSettings};
use parking_lot::RwLock;

/// One kind of request.
#[derive(Default, Debug)]
pub(crate) struct RequestKind {
    pub(crate) name: Arc<str>,
    pub(crate) times: Estimator,
    latency: Latency,
    ends: [AtomicU64; AttemptEnd::COUNT],
    /// The 95th percentile of answer times, updated every [`LOOKED_UP`] answers; 0: none yet.
    p95_us: AtomicU64,
}

/// Answers between two updates of the 95th percentile: an update copies 4 KiB.
const LOOKED_UP: u64 = 64;

impl RequestKind {
    pub(crate) fn count(&self, end: AttemptEnd) {
        self.ends[end as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn answered(&self, took: Duration, now: Duration) {
        self.times.sample(took);
        self.latency.record(took, now);
        let before = self.ends[AttemptEnd::Answered as usize].fetch_add(1, Relaxed);
        if before % LOOKED_UP == LOOKED_UP - 1 {
            self.p95_us.store(self.latency.snapshot(now).p95_us.max(1), Relaxed);
        }
    }

    /// The time within which 95 % of answers have come. None before the first [`LOOKED_UP`] of them.
    pub(crate) fn p95(&self) -> Option<Duration> {
        let us = self.p95_us.load(Relaxed);
        (us > 0).then(|| Duration::from_micros(us))
    }

    fn snapshot(&self, timeouts: TimeoutSettings, now: Duration) -> KindSnapshot {
        let ends = std::array::from_fn(|end| self.ends[end].load(Relaxed));
        let timeout = timeouts.after(&Estimator::default(), &self.times);
        let timeout_us = u64::try_from(timeout.as_micros()).unwrap_or(u64::MAX);
        KindSnapshot { kind: Arc::clone(&self.name), ends, latency: self.latency.snapshot(now), timeout_us }
    }
}

/// All kinds that were requested, by name.
#[derive(Default)]
pub(crate) struct RequestKinds(RwLock<BTreeMap<Arc<str>, Arc<RequestKind>>>);

impl RequestKinds {
    /// The statistics of `name`. Beyond [`MOST_NAMES`] kinds, all new ones share one entry.
    pub(crate) fn of(&self, name: &str) -> Arc<RequestKind> {
        if let Some(kind) = self.0.read().get(name) {
            return Arc::clone(kind);
        }
        let mut kinds = self.0.write();
        let name = if kinds.len() < MOST_NAMES { name } else { OTHER };
        let kind = kinds
            .entry(name.into())
            .or_insert_with(|| Arc::new(RequestKind { name: name.into(), ..RequestKind::default() }));
        Arc::clone(kind)
    }

    /// All kinds, with the time-outs that `timeouts_of` gives for their names.
    pub(crate) fn snapshot(
        &self,
        now: Duration,
        timeouts_of: impl Fn(&str) -> TimeoutSettings,
    ) -> Vec<KindSnapshot> {
        self.0.read().values().map(|kind| kind.snapshot(timeouts_of(&kind.name), now)).collect()
    }
}
