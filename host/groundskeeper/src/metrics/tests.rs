use std::collections::BTreeSet;
use std::path::Path;

use prometheus_client::metrics::MetricType;

use super::*;
use crate::book::AddressSource;
use crate::clock::TokioClock;
use crate::cycle::{PhaseRun, Tally};
use crate::disk::DiskHealth;
use crate::flow::{KeyConflict, KindSnapshot, LatencySnapshot, PeerBreaker, TrafficSnapshot};
use crate::journal::{Initiator, NewRecord};
use crate::node::NodeLimits;
use crate::peer::PeerId;
use crate::registry::PhaseMetric;
use crate::reload::ReloadCounts;

fn sources(clock: &Arc<TokioClock>) -> MetricSources {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    MetricSources {
        traffic: Some(Arc::new(Busy)),
        state: NodeState::new(PeerId::from_bytes([1; 32]), NodeLimits::for_connections(16), clock, None),
        phases: Arc::default(),
        pulse: Arc::default(),
        thresholds: Arc::new(parking_lot::Mutex::new(crate::cycle::Thresholds {
            healthy_above: 30,
            least: 5,
            most: 64,
            stale_after: Duration::from_secs(90),
        })),
        started: Duration::ZERO,
        reload: Some(ReloadHandle::without_reloader(ReloadCounts::default())),
        refusals: Some(Arc::default()),
        disk: DiskHealth::default(),
    }
}

/// A network under load.
struct Busy;

impl TrafficReport for Busy {
    fn traffic(&self) -> TrafficSnapshot {
        let mut now = TrafficSnapshot::default();
        (now.queued_bytes, now.shed, now.breakers_opened) = (4096, [0, 0, 5, 7], 2);
        (now.receiving_bytes, now.receiving_pauses, now.receiving_given_up) = (8192, 6, 3);
        now.newcomers_refused[NewcomerRefusal::Shortage as usize] = 11;
        now.key_conflict = Some(KeyConflict { signs: 4, ..KeyConflict::default() });
        now.slot_waits = LatencySnapshot { count: 3, p99_us: 40_000, ..LatencySnapshot::default() };
        now.frame_waits[Priority::Bulk as usize] =
            LatencySnapshot { count: 3, p99_us: 90_000, ..LatencySnapshot::default() };
        now
    }

    fn kinds(&self) -> Vec<KindSnapshot> {
        let latency = LatencySnapshot { count: 9, p99_us: 2_500, ..LatencySnapshot::default() };
        let timeout_us = 750_000;
        vec![KindSnapshot { kind: "block".into(), ends: [9, 0, 4, 0, 0, 0, 0], latency, timeout_us }]
    }

    fn breakers(&self) -> Vec<PeerBreaker> {
        let peer = PeerId::from_bytes([2; 32]);
        vec![PeerBreaker { peer, kind: "block".into(), state: BreakerState::Open }]
    }
}

#[tokio::test(start_paused = true)]
async fn traffic_is_counted_by_priority_and_kind() {
    let text = Arc::new(Metrics::default()).render(&sources(&TokioClock::starting_at(Duration::ZERO)));
    let at = |start| value(&text, start);
    assert_eq!(at("groundskeeper_send_queue_bytes"), 4096.0);
    assert_eq!(at("groundskeeper_receive_bytes"), 8192.0);
    assert_eq!(at("groundskeeper_receive_budget_bytes"), 0.0);
    assert_eq!(at("groundskeeper_receive_pauses_total"), 6.0);
    assert_eq!(at("groundskeeper_receive_given_up_total"), 3.0);
    assert_eq!(at("groundskeeper_frames_total{priority=\"bulk\",fate=\"shed\"}"), 7.0);
    assert_eq!(at("groundskeeper_requests_total{kind=\"block\",result=\"busy\"}"), 4.0);
    assert_eq!(at("groundskeeper_request_latency_seconds{kind=\"block\",quantile=\"0.99\"}"), 0.0025);
    assert_eq!(at("groundskeeper_request_timeout_seconds{kind=\"block\"}"), 0.75);
    assert_eq!(at("groundskeeper_request_slot_wait_seconds{quantile=\"0.99\"}"), 0.04);
    assert_eq!(at("groundskeeper_frame_wait_seconds{priority=\"bulk\",quantile=\"0.99\"}"), 0.09);
    assert_eq!(at("groundskeeper_newcomers_refused_total{reason=\"shortage\"}"), 11.0);
    assert_eq!(at("groundskeeper_key_conflicts_total"), 4.0);
    assert_eq!(at("groundskeeper_breakers{state=\"open\"}"), 1.0);
    assert_eq!(at("groundskeeper_breakers_opened_total"), 2.0);
}

fn report(result: &'static str) -> BeatReport {
    let took = Duration::from_millis(1);
    BeatReport {
        tick: 1,
        urgent: 0,
        late: false,
        lateness: Duration::from_millis(3),
        skipped: 0,
        connected_before: 0,
        connected: 0,
        took,
        runs: vec![PhaseRun {
            words: None,
            name: "reaper".into(),
            took,
            result,
            tally: Tally::default(),
            fuel: Some(10),
            memory: None,
        }],
        put_off: Vec::new(),
        tally: Tally::default(),
    }
}

/// The value of the line that starts with `start`.
fn value(text: &str, start: &str) -> f64 {
    let rest = text.lines().find_map(|line| line.strip_prefix(start)?.strip_prefix(' '));
    rest.unwrap_or_else(|| panic!("no {start} in\n{text}")).parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_happens_is_counted_once() {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let sources = sources(&clock);
    let metrics = Arc::new(Metrics::default());
    metrics.observe(&report("ok"), &sources);
    metrics.observe(&report("ok"), &sources);
    metrics.observe(&report("panicked"), &sources);
    let address = "192.0.2.1:1".parse().unwrap();
    sources.state.book.learn(address, None, AddressSource::Bootstrap);
    let (_, ticket) = sources.state.book.begin(address, false, Initiator::Host, "test", Vec::new()).unwrap();
    drop(ticket);
    clock.step_wall(-60_000);
    metrics.observe(&report("ok"), &sources);
    sources.state.journal.record(NewRecord {
        inputs: vec![("ticks-skipped".into(), 3), ("slept-s".into(), 90)],
        ..NewRecord::new(Initiator::Host, ActionKind::Late, "late")
    });
    let text = metrics.render(&sources);
    assert_eq!(text, metrics.render(&sources), "reading changes nothing");
    let at = |start| value(&text, start);
    assert_eq!(at("groundskeeper_phase_runs_total{phase=\"reaper\",result=\"ok\"}"), 3.0);
    assert_eq!(at("groundskeeper_phase_runs_total{phase=\"reaper\",result=\"panicked\"}"), 1.0);
    assert_eq!(at("groundskeeper_phase_duration_seconds_count{phase=\"reaper\"}"), 4.0);
    assert_eq!(at("groundskeeper_phase_fuel_total{phase=\"reaper\"}"), 40.0);
    assert_eq!(at("groundskeeper_tick_lateness_seconds_count"), 4.0);
    assert_eq!(at("groundskeeper_dials_total{kind=\"dial\",result=\"failed\"}"), 1.0);
    assert_eq!(at("groundskeeper_clock_jumps_total{kind=\"wall-back\"}"), 1.0);
    assert_eq!(at("groundskeeper_clock_jumps_total{kind=\"suspend\"}"), 1.0);
    assert_eq!(at("groundskeeper_book_addresses"), 1.0);
    assert_eq!(at("groundskeeper_disconnects_total{cause=\"remote-closed\"}"), 0.0);
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test(start_paused = true)]
async fn phases_are_shown_with_state_refusals_and_numbers_of_their_own() {
    let sources = sources(&TokioClock::starting_at(Duration::ZERO));
    let own = |shadow, added, value| PhaseMetric { name: "speed".into(), shadow, added, value };
    let phase = PhaseStatus {
        name: "slow-peers".into(),
        kind: "wasm".into(),
        state: PhaseState::Quarantined,
        put_off: 3,
        refused: [("disconnect".to_owned(), 8)].into(),
        memory_peak_bytes: Some(65_536),
        metrics: vec![own(false, Some(4), None), own(true, None, Some(0.5))],
        ..PhaseStatus::default()
    };
    // Another file with the same name.
    let rejected = PhaseStatus { state: PhaseState::Rejected, ..phase.clone() };
    sources.phases.write(vec![phase, rejected], 0);
    let text = Arc::new(Metrics::default()).render(&sources);
    for (start, expected) in [
        ("phase_state{phase=\"slow-peers\",state=\"quarantined\"}", 1.0),
        ("phase_state{phase=\"slow-peers\",state=\"rejected\"}", 0.0),
        ("phase_put_off_total{phase=\"slow-peers\"}", 3.0),
        ("phase_refused_total{phase=\"slow-peers\",grant=\"disconnect\"}", 8.0),
        ("phase_memory_peak_bytes{phase=\"slow-peers\"}", 65_536.0),
        ("phase_metric_added_total{phase=\"slow-peers\",name=\"speed\",mode=\"enforce\"}", 4.0),
        ("phase_metric{phase=\"slow-peers\",name=\"speed\",mode=\"shadow\"}", 0.5),
    ] {
        assert_eq!(value(&text, &format!("groundskeeper_{start}")), expected);
    }
    let series =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| line.rsplit_once(' ').unwrap().0);
    let series: Vec<&str> = series.collect();
    assert_eq!(series.iter().collect::<BTreeSet<_>>().len(), series.len(), "each series once");
}

#[tokio::test(start_paused = true)]
async fn thousands_of_refused_files_make_a_bounded_number_of_series() {
    let sources = sources(&TokioClock::starting_at(Duration::ZERO));
    let file = |n: u32, state| PhaseStatus {
        name: format!("file-{n:04}").into(),
        kind: "wasm".into(),
        state,
        ..PhaseStatus::default()
    };
    let series = |statuses| {
        sources.phases.write(statuses, 0);
        let text = Arc::new(Metrics::default()).render(&sources);
        (text.lines().filter(|line| line.starts_with("groundskeeper_phase_state{")).count(), text)
    };
    let running = |n| file(n, PhaseState::Active);
    let (few, _) = series((0..100).map(running).collect());
    assert_eq!(few, 100 * PhaseState::ALL.len(), "each phase that runs has its series");
    let refused = (100..3100).map(|n| file(n, PhaseState::Rejected));
    let pending = (3100..3150).map(|n| file(n, PhaseState::Pending));
    let (many, text) = series((0..100).map(running).chain(refused).chain(pending).collect());
    assert!(many <= few + 16 * PhaseState::ALL.len(), "{many}");
    assert!(text.contains("phase=\"file-0100\",state=\"rejected\"} 1"), "the first are named");
    assert_eq!(value(&text, "groundskeeper_phase_files_unused{state=\"rejected\"}"), 3000.0);
    assert_eq!(value(&text, "groundskeeper_phase_files_unused{state=\"pending\"}"), 50.0);
    assert!(text.len() < 200_000, "{}", text.len());
}

#[tokio::test(start_paused = true)]
async fn phases_that_have_gone_do_not_stay_in_the_metrics_for_ever() {
    let sources = sources(&TokioClock::starting_at(Duration::ZERO));
    let metrics = Arc::new(Metrics::default());
    for n in 0..2000 {
        let mut report = report("ok");
        report.runs[0].name = format!("phase-{n}").into();
        sources
            .phases
            .write(vec![PhaseStatus { name: format!("phase-{n}").into(), ..PhaseStatus::default() }], 0);
        metrics.observe(&report, &sources);
    }
    let text = metrics.render(&sources);
    let counted = text.lines().filter(|line| line.starts_with("groundskeeper_phase_runs_total{")).count();
    assert!(counted <= 600, "{counted}");
    assert!(text.contains("groundskeeper_phase_runs_total{phase=\"phase-1999\",result=\"ok\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn every_metric_of_the_list_is_rendered_and_no_other() {
    let sources = sources(&TokioClock::starting_at(Duration::ZERO));
    let text = Arc::new(Metrics::default()).render(&sources);
    let rendered: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let families: Vec<String> = list::ALL
        .iter()
        .map(|metric| metric.full_name().trim_end_matches("_total").trim_end_matches("_info").to_owned())
        .collect();
    assert_eq!(families.len(), rendered.len());
    assert!(families.iter().all(|name| rendered.contains(name.as_str())), "{families:?}\n{rendered:?}");
}

#[test]
fn the_page_of_metrics_is_the_list() {
    let kind = |kind| match kind {
        MetricType::Counter => "counter",
        MetricType::Histogram => "histogram",
        MetricType::Info => "info",
        _ => "gauge",
    };
    let mut page = String::from(
        "# Metrics\n\nServed at `/metrics` of the listener that `[telemetry] listen` switches on, as OpenMetrics text.\n\
         Labels come from closed sets, so the number of series does not grow with the number of peers.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in list::ALL {
        let (name, kind, help) = (metric.full_name(), kind(metric.kind), metric.help);
        page += &format!("| `{name}` | {kind} | {} | {help} |\n", metric.labels.join(", "));
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        stored == page,
        "docs/metrics.md is old: run this test with UPDATE_GOLDEN=1 and look at the diff"
    );
}
