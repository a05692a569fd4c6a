//! All metrics, rendered for Prometheus. Counts only what no other part counts. Never uses a peer as a label.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::lock::LockWaits;
use groundskeeper_pool::NodeState;
use parking_lot::Mutex;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeMetric, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::sync::broadcast;

use crate::admin::{ApiRefusals, Door, Turned};
use crate::clock::{Clock, CoarseInstant};
use crate::cycle::{BeatReport, Thresholds};
use crate::disk::{DiskHealth, DiskUser};
use crate::flow::{AttemptEnd, BreakerState, LatencySnapshot, NewcomerRefusal, Priority, TrafficReport};
use crate::journal::{ActionKind, Cause, Journal, Outcome};
use crate::registry::{PhaseState, PhaseStatus, PhaseStatuses};
use crate::reload::{PhaseChange, ReloadHandle};
use crate::ticker::TickerStats;

mod list;
use list::MetricSpec;
#[cfg(test)]
mod tests;

/// The format of [`Metrics::render`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// 1 ms to 16 s: from a healthy timer to an overloaded machine.
const LATENESS: [f64; 8] = [0.001, 0.004, 0.016, 0.064, 0.256, 1.0, 4.0, 16.0];
/// 100 us to 2 s, the budget of a beat.
const BEAT: [f64; 8] = [0.0001, 0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 2.0];
/// 10 us to 250 ms, the default time limit of a guest.
const PHASE: [f64; 8] = [0.00001, 0.00005, 0.0002, 0.001, 0.005, 0.02, 0.05, 0.25];

/// Wall time that moves against boot time by more than this between two beats has jumped. Slewing moves it by 500 us/s.
const LEAST_WALL_JUMP: Duration = Duration::from_secs(2);

/// The sources of values that are read on request.
#[derive(Clone)]
pub struct MetricSources {
    pub state: NodeState,
    pub phases: Arc<PhaseStatuses>,
    pub pulse: Arc<TickerStats>,
    pub thresholds: Arc<Mutex<Thresholds>>,
    /// Monotonic time at which the node started.
    pub started: Duration,
    /// Present if there is a drop-in folder.
    pub reload: Option<ReloadHandle>,
    /// Figures of the network, if the node has one.
    pub traffic: Option<Arc<dyn TrafficReport>>,
    /// What the node waits for on its disks.
    pub disk: DiskHealth,
    /// Clients of the local API that were turned away, if it is served.
    pub refusals: Option<Arc<ApiRefusals>>,
}

/// Files that do not run and still have series of their own. Enough to see which; `groundskeeper phases` lists all.
const MOST_UNUSED: usize = 16;

/// Names of phases whose runs are counted. Above it, those that have gone are forgotten.
const MOST_COUNTED: usize = 512;

fn is_there(state: PhaseState) -> bool {
    !matches!(state, PhaseState::Rejected | PhaseState::Pending)
}

impl MetricSources {
    /// How long users of the node's locks have waited, by lock.
    pub fn lock_waits(&self) -> [(&'static str, LockWaits); 3] {
        let NodeState { pool, book, journal, .. } = &self.state;
        [("pool", pool.lock_waits()), ("book", book.lock_waits()), ("journal", journal.lock_waits())]
    }
}

#[derive(Default)]
struct Counts {
    runs: BTreeMap<(Arc<str>, &'static str), u64>,
    durations: BTreeMap<Arc<str>, Histogram>,
    fuel: BTreeMap<Arc<str>, u64>,
    dials: BTreeMap<(&'static str, &'static str), u64>,
    jumps: BTreeMap<&'static str, u64>,
    /// The last journal record that was counted.
    seq: u64,
    /// Wall time minus boot time at the last beat, in milliseconds.
    wall_ahead_ms: Option<i128>,
}

impl Counts {
    fn forget_all_but(&mut self, phases: &[PhaseStatus]) {
        let there: BTreeSet<&str> = phases.iter().map(|phase| &*phase.name).collect();
        self.runs.retain(|(name, _), _| there.contains(&**name));
        self.durations.retain(|name, _| there.contains(&**name));
        self.fuel.retain(|name, _| there.contains(&**name));
    }
}

/// Counts that are updated as events happen.
pub struct Metrics {
    counts: Mutex<Counts>,
    lateness: Histogram,
    beats: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { counts: Mutex::default(), lateness: Histogram::new(LATENESS), beats: Histogram::new(BEAT) }
    }
}

impl Metrics {
    /// Counts every beat until the ticker ends.
    pub async fn follow(&self, mut reports: broadcast::Receiver<Arc<BeatReport>>, sources: &MetricSources) {
        loop {
            match reports.recv().await {
                Ok(report) => self.observe(&report, sources),
                // The gap stays visible: the ticker counts ticks, this counts runs.
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    /// Counts one beat, and the journal's records since the last one. O(records held).
    pub fn observe(&self, report: &BeatReport, sources: &MetricSources) {
        self.beats.observe(report.took.as_secs_f64());
        if report.urgent == 0 {
            self.lateness.observe(report.lateness.as_secs_f64());
        }
        {
            let mut counts = self.counts.lock();
            for run in &report.runs {
                *counts.runs.entry((Arc::clone(&run.name), run.result)).or_default() += 1;
                *counts.fuel.entry(Arc::clone(&run.name)).or_default() += run.fuel.unwrap_or(0);
                let durations = counts.durations.entry(Arc::clone(&run.name));
                durations.or_insert_with(|| Histogram::new(PHASE)).observe(run.took.as_secs_f64());
            }
            if counts.durations.len() > MOST_COUNTED {
                counts.forget_all_but(&sources.phases.read());
            }
        }
        self.read_journal(&sources.state.journal);
        self.compare_clocks(&*sources.state.clock);
    }

    fn read_journal(&self, journal: &Journal) {
        let mut counts = self.counts.lock();
        let counted = counts.seq;
        let wanted = |what| matches!(what, ActionKind::Dial | ActionKind::Probe | ActionKind::Late);
        for record in journal.select_after(counted, usize::MAX, |record| wanted(record.what)) {
            counts.seq = record.seq;
            if record.what == ActionKind::Late {
                if record.inputs.iter().any(|(name, value)| name == "slept-s" && *value > 0) {
                    *counts.jumps.entry("suspend").or_default() += 1;
                }
                continue;
            }
            let kind = if record.what == ActionKind::Dial { "dial" } else { "probe" };
            let result = match record.outcome {
                // The end has its own record, or shadow mode prevented the dial.
                Outcome::Started | Outcome::Shadow => continue,
                Outcome::Applied => "connected",
                Outcome::Failed(_) => "failed",
                Outcome::Refused(_) => "refused",
                Outcome::Void(_) => "void",
            };
            *counts.dials.entry((kind, result)).or_default() += 1;
        }
    }

    fn compare_clocks(&self, clock: &dyn Clock) {
        let ahead = clock.unix().as_millis() as i128 - clock.boot().as_millis() as i128;
        let mut counts = self.counts.lock();
        if let Some(before) = counts.wall_ahead_ms.replace(ahead)
            && (ahead - before).unsigned_abs() > LEAST_WALL_JUMP.as_millis()
        {
            let kind = if ahead > before { "wall-forward" } else { "wall-back" };
            *counts.jumps.entry(kind).or_default() += 1;
        }
    }

    /// All metrics as OpenMetrics text. O(slots ever used + new records).
    pub fn render(self: &Arc<Self>, sources: &MetricSources) -> String {
        self.read_journal(&sources.state.journal);
        let mut registry = Registry::with_prefix("groundskeeper");
        registry.register_collector(Box::new(Scrape { metrics: Arc::clone(self), from: sources.clone() }));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("a string takes any text");
        text
    }
}

/// One scrape.
struct Scrape {
    metrics: Arc<Metrics>,
    from: MetricSources,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = MetricWriter(&mut encoder);
        self.ticks(&mut out)?;
        self.phases(&mut out)?;
        self.reloads(&mut out)?;
        self.disks(&mut out)?;
        self.connections(&mut out)?;
        self.traffic(&mut out)?;
        self.memories(&mut out)?;
        self.locks(&mut out)?;
        self.local_api(&mut out)
    }
}

impl Scrape {
    fn ticks(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let MetricSources { pulse, state, started, .. } = &self.from;
        out.begin(&list::BUILD)?.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        out.gauge(&list::UPTIME, state.clock.mono().saturating_sub(*started).as_secs_f64())?;
        out.counter(&list::TICKS, pulse.finished())?;
        out.counter(&list::TICKS_SKIPPED, pulse.skipped())?;
        out.counter(&list::TICKS_LATE, pulse.late())?;
        out.counter(&list::URGENT_BEATS, pulse.urgent())?;
        out.gauge(&list::TICK, pulse.tick().into())?;
        out.gauge(&list::INTERVAL, pulse.interval().as_secs_f64())?;
        self.metrics.lateness.encode(out.begin(&list::TICK_LATENESS)?)?;
        self.metrics.beats.encode(out.begin(&list::TICK_DURATION)?)
    }

    fn phases(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let board = self.from.phases.read();
        let counts = self.metrics.counts.lock();
        let runs = counts.runs.iter().map(|((phase, result), n)| ([&**phase, *result], *n));
        out.counters(&list::PHASE_RUNS, runs)?;
        let mut durations = out.begin(&list::PHASE_DURATION)?;
        for (phase, histogram) in &counts.durations {
            histogram.encode(durations.encode_family(&[("phase", &**phase)])?)?;
        }
        let fuel = counts.fuel.iter().filter(|(_, fuel)| **fuel > 0).map(|(phase, fuel)| ([&**phase], *fuel));
        out.counters(&list::PHASE_FUEL, fuel)?;
        drop(counts);
        // A rejected phase may have the name of a running one.
        let mut names = BTreeSet::new();
        let mut unnamed_left = MOST_UNUSED;
        let known = board.iter().filter(|phase| {
            if is_there(phase.state) {
                return names.insert(&phase.name);
            }
            // Strangers may fill the folder with names.
            let is_new = unnamed_left > 0 && names.insert(&phase.name);
            unnamed_left -= usize::from(is_new);
            is_new
        });
        let known: Vec<&PhaseStatus> = known.collect();
        let states = known.iter().flat_map(|phase| {
            let is = |state| f64::from(u8::from(phase.state == state));
            PhaseState::ALL.map(|state| ([&*phase.name, state.as_str()], is(state)))
        });
        out.gauges(&list::PHASE_STATE, states)?;
        let unused = [PhaseState::Rejected, PhaseState::Pending].map(|state| {
            let files = board.iter().filter(|phase| phase.state == state).count();
            ([state.as_str()], files as f64)
        });
        out.gauges(&list::PHASE_FILES_UNUSED, unused)?;
        let there = || known.iter().filter(|phase| is_there(phase.state));
        out.counters(&list::PHASE_MISSED, there().map(|phase| ([&*phase.name], phase.missed)))?;
        out.counters(&list::PHASE_SKIPPED, there().map(|phase| ([&*phase.name], phase.skipped)))?;
        out.counters(&list::PHASE_LOG_DROPPED, there().map(|phase| ([&*phase.name], phase.log_dropped)))?;
        out.counters(&list::PHASE_PUT_OFF, there().map(|phase| ([&*phase.name], phase.put_off)))?;
        let refused = there().flat_map(|phase| {
            phase.refused.iter().map(|(grant, refused)| ([&*phase.name, grant.as_str()], *refused))
        });
        out.counters(&list::PHASE_REFUSED, refused)?;
        let peaks = there().filter_map(|phase| Some(([&*phase.name], phase.memory_peak_bytes? as f64)));
        out.gauges(&list::PHASE_MEMORY, peaks)?;
        let failures = there().map(|phase| ([&*phase.name], phase.failures_in_row.into()));
        out.gauges(&list::PHASE_FAILURES_IN_ROW, failures)?;
        let successes = there().filter_map(|phase| Some(([&*phase.name], phase.last_success_unix_s?.into())));
        out.gauges(&list::PHASE_LAST_SUCCESS, successes)?;
        let own = || {
            there().flat_map(|phase| {
                phase.metrics.iter().map(move |metric| {
                    let mode = if metric.shadow { "shadow" } else { "enforce" };
                    ([&*phase.name, metric.name.as_str(), mode], metric)
                })
            })
        };
        let set = own().filter_map(|(labels, metric)| Some((labels, metric.value?)));
        out.gauges(&list::PHASE_METRIC, set)?;
        let added = own().filter_map(|(labels, metric)| Some((labels, metric.added?)));
        out.counters(&list::PHASE_METRIC_ADDED, added)
    }

    fn reloads(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let Some(reload) = &self.from.reload else { return Ok(()) };
        let counts = reload.counts();
        out.counters(&list::RELOADS, PhaseChange::ALL.map(|change| ([change.as_str()], counts.of(change))))?;
        out.gauge(&list::RELOAD_SUCCESSFUL, u8::from(counts.last_successful).into())?;
        out.gauge(&list::RELOAD_SUCCESS, counts.last_successful_unix_s.into())?;
        out.gauge(&list::GENERATIONS, counts.generations as f64)?;
        out.gauge(&list::LIBRARIES, counts.libraries as f64)?;
        out.counter(&list::RELOAD_LOOKS, counts.looks)?;
        out.counter(&list::RELOAD_DIGESTS, counts.digests)
    }

    fn disks(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let troubles = self.from.disk.troubles();
        let longest = DiskUser::ALL.map(|user| {
            let of_user = troubles.iter().filter(|trouble| trouble.user == user);
            ([user.as_str()], of_user.map(|trouble| trouble.for_s).max().unwrap_or(0) as f64)
        });
        out.gauges(&list::DISK_TROUBLE, longest)?;
        let saves = self.from.disk.saves();
        let results = [("saved", saves.saved), ("failed", saves.failed), ("abandoned", saves.abandoned)];
        out.counters(&list::SAVES, results.map(|(result, n)| ([result], n)))
    }

    fn connections(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let NodeState { pool, journal, book, .. } = &self.from.state;
        let Thresholds { healthy_above, stale_after, .. } = *self.from.thresholds.lock();
        let stats = pool.stats(healthy_above, stale_after);
        let states = [("live", stats.total), ("handshaking", stats.handshaking), ("closing", stats.closing)];
        out.gauges(&list::POOL_CONNECTIONS, states.map(|(state, n)| ([state], n.into())))?;
        let directions = [("inbound", stats.inbound), ("outbound", stats.outbound)];
        out.gauges(&list::POOL_DIRECTION, directions.map(|(direction, n)| ([direction], n.into())))?;
        out.gauge(&list::POOL_HEALTHY, stats.healthy.into())?;
        out.gauge(&list::POOL_STALE, stats.stale.into())?;
        out.gauge(&list::POOL_CAPACITY, pool.capacity().into())?;
        out.counter(&list::POOL_ABORTED, pool.aborted())?;
        out.gauge(&list::BANS, pool.bans() as f64)?;
        out.counters(
            &list::DISCONNECTS,
            Cause::ALL.map(|cause| ([cause.as_str()], journal.disconnects_by(cause))),
        )?;
        let counts = self.metrics.counts.lock();
        out.counters(&list::DIALS, counts.dials.iter().map(|((kind, result), n)| ([*kind, *result], *n)))?;
        drop(counts);
        out.gauge(&list::BOOK_ADDRESSES, book.len() as f64)?;
        out.gauge(&list::BOOK_DIALING, book.dialing().into())
    }

    fn traffic(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let Some(report) = &self.from.traffic else { return Ok(()) };
        let (now, kinds, breakers) = (report.traffic(), report.kinds(), report.breakers());
        let refused = NewcomerRefusal::ALL.map(|why| ([why.as_str()], now.newcomers_refused[why as usize]));
        out.counters(&list::NEWCOMERS_REFUSED, refused)?;
        out.counter(&list::KEY_CONFLICTS, now.key_conflict.map_or(0, |conflict| conflict.signs))?;
        out.gauge(&list::QUEUED, now.queued_bytes as f64)?;
        out.gauge(&list::QUEUE_BUDGET, now.budget_bytes as f64)?;
        out.gauge(&list::RECEIVING, now.receiving_bytes as f64)?;
        out.gauge(&list::RECEIVE_BUDGET, now.receiving_budget_bytes as f64)?;
        out.counter(&list::RECEIVE_PAUSES, now.receiving_pauses)?;
        out.counter(&list::RECEIVE_GIVEN_UP, now.receiving_given_up)?;
        let fates = [("sent", now.sent), ("full", now.full), ("refused", now.refused), ("shed", now.shed)];
        let frames = fates.into_iter().flat_map(|(fate, counts)| {
            Priority::ALL.map(|priority| ([priority.as_str(), fate], counts[priority as usize]))
        });
        out.counters(&list::FRAMES, frames)?;
        out.counter(&list::FRAMES_EXPIRED, now.expired)?;
        out.gauge(&list::REQUESTS_OPEN, now.pending as f64)?;
        let ends = kinds.iter().flat_map(|kind| {
            AttemptEnd::ALL.map(|end| ([&*kind.kind, end.as_str()], kind.ends[end as usize]))
        });
        out.counters(&list::REQUESTS, ends)?;
        let latencies = kinds.iter().flat_map(|kind| {
            quantiles(&kind.latency).map(|(quantile, seconds)| ([&*kind.kind, quantile], seconds))
        });
        out.gauges(&list::REQUEST_LATENCY, latencies)?;
        let timeouts = kinds.iter().map(|kind| ([&*kind.kind], kind.timeout_us as f64 / 1e6));
        out.gauges(&list::REQUEST_TIMEOUT, timeouts)?;
        let slots = quantiles(&now.slot_waits).map(|(quantile, seconds)| ([quantile], seconds));
        out.gauges(&list::REQUEST_SLOT_WAIT, slots)?;
        let frames = Priority::ALL.into_iter().flat_map(|priority| {
            let waits = quantiles(&now.frame_waits[priority as usize]);
            waits.map(move |(quantile, seconds)| ([priority.as_str(), quantile], seconds))
        });
        out.gauges(&list::FRAME_WAIT, frames)?;
        out.counter(&list::REQUESTS_RETRIED, now.retried)?;
        out.counter(&list::REQUESTS_HEDGED, now.hedged)?;
        out.counter(&list::ANSWERS_BAD, now.misbehaved)?;
        let [number, time] = now.deliveries_dropped;
        out.counters(&list::DELIVERIES_DROPPED, [(["number"], number), (["time"], time)])?;
        let not_closed = [BreakerState::Open, BreakerState::HalfOpen].map(|state| {
            ([state.as_str()], breakers.iter().filter(|breaker| breaker.state == state).count() as f64)
        });
        out.gauges(&list::BREAKERS, not_closed)?;
        out.counter(&list::BREAKERS_OPENED, now.breakers_opened)
    }

    fn memories(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let NodeState { broadcasts, journal, clock, .. } = &self.from.state;
        let now = CoarseInstant::from_duration(clock.mono());
        out.gauge(&list::BROADCASTS_HELD, broadcasts.totals(now).held.into())?;
        let (notable, chatter) = journal.held();
        let rings = [("notable", notable), ("chatter", chatter)];
        out.gauges(&list::JOURNAL_RECORDS, rings.map(|(ring, n)| ([ring], n as f64)))?;
        let overwritten = journal.rooms().into_iter().map(|room| ([room.name], room.overwritten));
        out.counters(&list::JOURNAL_OVERWRITTEN, overwritten)?;
        out.counter(&list::JOURNAL_LINES_LOST, journal.lines_lost())?;
        let counts = self.metrics.counts.lock();
        let jumps = ["suspend", "wall-forward", "wall-back"];
        let jumps = jumps.map(|kind| ([kind], counts.jumps.get(kind).copied().unwrap_or(0)));
        out.counters(&list::CLOCK_JUMPS, jumps)
    }

    fn locks(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let waits = self.from.lock_waits();
        out.counters(&list::LOCK_CONTENDED, waits.map(|(lock, waits)| ([lock], waits.contended)))?;
        out.counters(&list::LOCK_WAIT, waits.map(|(lock, waits)| ([lock], waits.waited_us as f64 / 1e6)))?;
        let longest = waits.map(|(lock, waits)| ([lock], waits.longest_us as f64 / 1e6));
        out.gauges(&list::LOCK_WAIT_LONGEST, longest)
    }

    fn local_api(&self, out: &mut MetricWriter<'_, '_>) -> fmt::Result {
        let refused = self.from.refusals.iter().flat_map(|refusals| {
            Door::ALL.into_iter().flat_map(|door| {
                Turned::ALL.map(|why| ([door.as_str(), why.as_str()], refusals.count(door, why)))
            })
        });
        out.counters(&list::LOCAL_API_REFUSED, refused)
    }
}

/// Writes metrics as the list describes them.
struct MetricWriter<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl MetricWriter<'_, '_> {
    fn begin<'s>(&'s mut self, metric: &'s MetricSpec) -> Result<MetricEncoder<'s>, fmt::Error> {
        self.0.encode_descriptor(metric.name, metric.help, metric.unit(), metric.kind)
    }

    fn gauge(&mut self, metric: &MetricSpec, value: f64) -> fmt::Result {
        self.begin(metric)?.encode_gauge(&value)
    }

    fn counter(&mut self, metric: &MetricSpec, value: u64) -> fmt::Result {
        self.begin(metric)?.encode_counter::<NoLabelSet, _, f64>(&value, None)
    }

    fn gauges<'v, const N: usize>(
        &mut self,
        metric: &MetricSpec,
        values: impl IntoIterator<Item = ([&'v str; N], f64)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(metric)?;
        for (labels, value) in values {
            encoder.encode_family(&labelled(metric, labels))?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<'v, V: EncodeCounterValue, const N: usize>(
        &mut self,
        metric: &MetricSpec,
        values: impl IntoIterator<Item = ([&'v str; N], V)>,
    ) -> fmt::Result {
        let mut encoder = self.begin(metric)?;
        for (labels, value) in values {
            let labels = labelled(metric, labels);
            encoder.encode_family(&labels)?.encode_counter::<NoLabelSet, V, f64>(&value, None)?;
        }
        Ok(())
    }
}

/// Some quantiles of what has been measured, in seconds. Empty before the first measurement.
fn quantiles(of: &LatencySnapshot) -> impl Iterator<Item = (&'static str, f64)> + use<> {
    let all = [("0.5", of.p50_us), ("0.95", of.p95_us), ("0.99", of.p99_us), ("0.999", of.p999_us)];
    let is_measured = of.count > 0;
    all.into_iter().filter(move |_| is_measured).map(|(quantile, us)| (quantile, us as f64 / 1e6))
}

fn labelled<'v, const N: usize>(metric: &MetricSpec, values: [&'v str; N]) -> [(&'static str, &'v str); N] {
    debug_assert_eq!(metric.labels.len(), N, "{}", metric.name);
    std::array::from_fn(|at| (metric.labels[at], values[at]))
}
