//! A day of ticks, recorded: replayed it is the same, and another phase over it reports what a witness counted.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::*;
use groundskeeper::cycle::BeatReport;
use groundskeeper::engine::PhaseProgram;
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::journal::{ActionKind, Cause};
use groundskeeper::record::{
    AppliedPlan, AskOutcome, Event, RecordedOutcome, Recording, RunInfo, WhatIfPhase, builtin, replay,
    what_if,
};
use groundskeeper::registry::PhaseSpec;
use groundskeeper_sdk::column::{Address, Column, Count, Peer, address, peer};
use groundskeeper_sdk::host::View;
use groundskeeper_sdk::memory::Memory;
use groundskeeper_sdk::phase::{Failure, Tick};
use groundskeeper_sdk::span::Span;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

const DAY: usize = 2880;

/// What a phase keeps: everyone it has met, by id, and how often it ran.
#[derive(Serialize, Deserialize, Default)]
struct Met {
    runs: u32,
    by_id: BTreeMap<String, u32>,
}

impl Memory for Met {}

/// Phases of every sort that a recording has to cope with.
fn phases() -> Vec<PhaseSpec> {
    let mut phases = builtins();
    phases.push(closure("weaken", 2, |now, view, plan| {
        let mut random = now.rng();
        for peer in view.peers().over(peer::RTT, Duration::from_millis(100)).most(peer::RTT).take(4) {
            plan.health(peer, -(random.below(30) as i32), "slow");
        }
        plan.metric_add("weakened", 1);
        plan.metric_set("spread", random.below(1000) as f64 / 7.0);
        Ok(())
    }));
    phases.push(closure("prune", 3, |now, view, plan| {
        let mut random = now.rng();
        let weak = view.peers().under(peer::HEALTH, 50).least(peer::HEALTH).take(2);
        for peer in weak {
            match random.below(8) {
                0 => plan.ban(peer, Span::mins(10), "weak for long"),
                1 => plan.protect(peer, Span::mins(5), "a second chance"),
                _ => plan.disconnect(peer, "weak"),
            }
        }
        for address in view.book().at_least(address::FAILURES, 2).take(2) {
            plan.probe(address);
        }
        if random.below(50) == 0 {
            plan.again_in(1);
        }
        Ok(())
    }));
    phases.push(closure("look", 1, |now, view, plan| {
        plan.metric_add("seen", everything(now, view));
        Ok(())
    }));
    phases.push(closure("meet", 5, |now, view, plan| {
        let mut met: Met = view.memory()?;
        met.runs += 1;
        for name in view.names(&view.peers().take(40)) {
            *met.by_id.entry(name.id + &name.address).or_default() += 1;
        }
        // A memory that is not changed is not written again.
        if (now.number / 5).is_multiple_of(3) {
            plan.remember(&met)?;
        }
        Ok(())
    }));
    phases.push(closure("stumble", 7, |now, view, plan| {
        plan.health(view.peers().take(1).first().copied().ok_or(Failure::transient("nobody"))?, 1, "first");
        match now.seed[0] % 4 {
            0 => Err(Failure::permanent(format!("seed {:x}", now.seed[1]))),
            1 => panic!("seed {:x}", now.seed[1]),
            2 => {
                view.peers().take(20_000);
                Ok(())
            }
            _ => Ok(()),
        }
    }));
    phases
}

/// A number that changes with whatever a phase can see.
fn everything(now: &Tick, view: &View) -> u32 {
    let mut hasher = DefaultHasher::new();
    format!("{now:?} {:?} {:?}", view.totals(), view.broadcasts()).hash(&mut hasher);
    for name in peer::COLUMNS {
        view.column(Column::<Peer, Count>::new(name)).hash(&mut hasher);
    }
    for name in address::COLUMNS {
        view.column(Column::<Address, Count>::new(name)).hash(&mut hasher);
    }
    format!("{:?}", view.names(&view.rows::<Peer>().collect::<Vec<_>>())).hash(&mut hasher);
    format!("{:?}", view.names(&view.rows::<Address>().collect::<Vec<_>>())).hash(&mut hasher);
    hasher.finish() as u32
}

fn lookup(info: &RunInfo) -> Option<Arc<dyn PhaseProgram>> {
    let ours = || phases().into_iter().find(|spec| spec.name == info.name).map(|spec| spec.body);
    builtin(info).or_else(ours)
}

/// What happens between two ticks: peers come, speak, fall silent and leave; stalls, suspends, hours without a network.
struct Weather {
    random: StdRng,
    next_peer: u32,
}

impl Weather {
    fn new() -> Self {
        Self { random: StdRng::seed_from_u64(7), next_peer: 100 }
    }

    async fn change(&mut self, rig: &mut Rig, tick: usize) {
        let random = &mut self.random;
        let everyone: Vec<Arc<FakePeer>> = rig.network.peers.lock().iter().map(Arc::clone).collect();
        for peer in everyone.iter().rev().take(60).filter(|peer| !peer.is_closed()) {
            match random.random_range(0..100) {
                0 => peer.leave(),
                1 => peer.answers.store(false, Relaxed),
                2..40 => {
                    peer.kib_in.fetch_add(random.random_range(0..900), Relaxed);
                    peer.pong(Duration::from_millis(random.random_range(10..300)));
                }
                _ => {}
            }
        }
        if rig.pool.live() < 40 && random.random_bool(0.3) && rig.network.reachable.load(Relaxed) {
            self.next_peer += 1;
            rig.peer(self.next_peer);
        }
        if random.random_bool(0.2) {
            rig.know(random.random_range(1..90));
        }
        // Ten minutes alone, now and then.
        if tick % 700 == 300 {
            rig.network.reachable.store(false, Relaxed);
            everyone.iter().for_each(|peer| peer.leave());
        }
        if tick % 700 == 320 {
            rig.network.reachable.store(true, Relaxed);
        }
        match tick % 911 {
            500 => tokio::time::advance(INTERVAL * 5).await,
            800 => rig.clock.suspend(Duration::from_secs(3600)),
            _ => {}
        }
    }
}

/// Runs a day and gives the reports of all beats.
async fn a_day(phases: Vec<PhaseSpec>, path: &Path) -> (Rig, Vec<Arc<BeatReport>>) {
    let mut rig = Rig::recording(phases, recorder(path));
    (1..=12).for_each(|n| _ = rig.peer(n));
    (20..60).for_each(|n| rig.know(n));
    let mut weather = Weather::new();
    let mut reports = Vec::new();
    let mut tick = 0;
    while tick < DAY {
        let report = rig.beat().await;
        if report.urgent == 0 {
            tick += 1;
            weather.change(&mut rig, tick).await;
        }
        reports.push(report);
    }
    (rig, reports)
}

#[tokio::test(start_paused = true)]
async fn a_recorded_day_replayed_is_the_same_day() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.gkr");
    let (rig, reports) = a_day(phases(), &path).await;
    let journal = Arc::clone(&rig.journal);
    rig.stop().await;

    let recording = Recording::open(&path).unwrap();
    let report = replay(&recording, &lookup);
    assert!(report.differences.is_empty(), "{:#?}", report.differences);
    assert!(report.extent.is_complete(), "{:?}", report.extent);
    let ran: Vec<&BeatReport> =
        reports.iter().map(|report| &**report).filter(|report| !report.runs.is_empty()).collect();
    let urgent = ran.iter().filter(|report| report.urgent > 0).count() as u64;
    assert_eq!((report.extent.beats, report.extent.urgent), (ran.len() as u64, urgent));
    assert!(urgent > 100 && ran.iter().any(|report| report.late), "{urgent} urgent beats");
    for phase in &report.phases {
        let runs =
            ran.iter().flat_map(|report| &report.runs).filter(|run| *run.name == *phase.name).count() as u64;
        assert_eq!((phase.runs, phase.identical, phase.skipped), (runs, runs, 0), "{phase:?}");
    }
    assert_eq!(report.phases.len(), 9);

    // What became of the asks is what the beats counted.
    let (mut asked, mut void, mut refused, mut failed) = (0, 0, 0, 0);
    let mut kinds = std::collections::BTreeSet::new();
    for event in recording.events() {
        let Event::Beat(beat) = event else { panic!("{event:?}") };
        for run in &beat.runs {
            match &run.outcome {
                RecordedOutcome::Planned(AppliedPlan { asks, ask_outcomes, .. }) => {
                    assert_eq!(asks.len(), ask_outcomes.len());
                    kinds.extend(asks.iter().map(|ask| ask.kind()));
                    asked += asks.len() as u32;
                    void += ask_outcomes.iter().filter(|fate| **fate == AskOutcome::Void).count() as u32;
                    let is_refused =
                        |fate: &&AskOutcome| matches!(fate, AskOutcome::Refused | AskOutcome::Partial { .. });
                    refused += ask_outcomes.iter().filter(is_refused).count() as u32;
                }
                RecordedOutcome::Failed { .. } => failed += 1,
            }
        }
    }
    let sum = |count: fn(&BeatReport) -> u32| ran.iter().map(|report| count(report)).sum::<u32>();
    assert_eq!(asked, sum(|report| report.tally.asked));
    assert_eq!((void, refused), (sum(|report| report.tally.void), sum(|report| report.tally.refused)));
    assert_eq!(failed, journal.select(usize::MAX, |record| record.what == ActionKind::PhaseFailed).len());
    let all = [
        "again-in",
        "ban",
        "dial",
        "disconnect",
        "disconnect-if-silent",
        "health",
        "ping-matching",
        "probe",
        "protect",
    ];
    assert!(all.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let size = std::fs::metadata(&path).unwrap().len();
    println!("{} beats, {asked} asks, {failed} failures in {size} bytes", report.extent.beats);
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_decides_otherwise_is_found_out_with_its_asks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hour.gkr");
    let mut rig = Rig::recording(phases(), recorder(&path));
    let peers: Vec<_> = (1..=3).map(|n| rig.peer(n)).collect();
    peers[1].answers.store(false, Relaxed);
    rig.ticks(8).await;
    rig.stop().await;

    let recording = Recording::open(&path).unwrap();
    let other = |info: &RunInfo| {
        let settings = info.settings.as_ref().map(|settings| settings.replace("\"90s\"", "\"1m\""));
        builtin(&RunInfo { settings, ..info.clone() })
    };
    let report = replay(&recording, &other);
    // It pings others at every tick; at the second it gives one up.
    assert_eq!((report.different(), report.differences.len()), (8, 8), "{report:#?}");
    let difference = &report.differences[1];
    assert_eq!((difference.tick, difference.phase.as_str()), (2, "reaper"));
    let short = id(2).short();
    assert!(difference.lines[0].starts_with("- ping-matching idle-s 25..=89"), "{:?}", difference.lines);
    assert!(
        difference.lines[1].starts_with("+ disconnect-if-silent 1: silent for 60 s (limit 60 s)  [")
            && difference.lines[1].contains(&short),
        "{:?}",
        difference.lines
    );
    let skipped = report.phases.iter().find(|phase| phase.name == "weaken").unwrap();
    assert_eq!((skipped.skipped, skipped.identical), (skipped.runs, 0));
    assert!(skipped.why.as_ref().unwrap().contains("recorded without its settings"), "{skipped:?}");
}

/// Drops whoever has been silent for a minute.
fn dropper() -> PhaseSpec {
    closure("dropper", 3, |_, view, plan| {
        for peer in view.peers().at_least(peer::IDLE, Span::mins(1)).take(64) {
            plan.disconnect(peer, "silent for a minute");
        }
        Ok(())
    })
}

#[tokio::test(start_paused = true)]
async fn another_phase_over_the_day_reports_what_a_witness_counted() {
    type Seen = Arc<parking_lot::Mutex<Vec<(u32, Vec<u32>)>>>;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("day.gkr");
    let seen = Seen::default();
    let notes = Arc::clone(&seen);
    let mut phases = phases();
    phases.push(closure("witness", 1, move |now, view, _| {
        let (conns, idle) = (view.column(peer::CONN), view.column(peer::IDLE));
        let silent = conns.iter().zip(&*idle).filter(|(_, idle)| **idle >= 60).map(|(conn, _)| *conn);
        notes.lock().push((now.number, silent.collect()));
        Ok(())
    }));
    let (rig, _) = a_day(phases, &path).await;
    let journal = Arc::clone(&rig.journal);
    rig.stop().await;

    let PhaseSpec { name, body, schedule, .. } = dropper();
    let within = 4;
    let recording = Recording::open(&path).unwrap();
    let report = what_if(&recording, &WhatIfPhase { name, body, schedule }, within);

    // By hand: the first tick, then every third or the next one after that.
    let mut runs = 0;
    let mut due = 0;
    let mut times: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    for (tick, silent) in &*seen.lock() {
        if *tick < due {
            continue;
        }
        runs += 1;
        due = tick + 3;
        for conn in silent {
            times.entry(*conn).or_insert((0, *tick)).0 += 1;
        }
    }
    let dropped: BTreeMap<u32, u32> = journal
        .select(usize::MAX, |record| matches!(record.cause, Some(Cause::Phase | Cause::Banned)))
        .into_iter()
        .map(|record| (record.conn.unwrap(), record.tick))
        .collect();
    let count = |passes: &dyn Fn(u32, Option<u32>) -> bool| {
        times.iter().filter(|(conn, (_, first))| passes(*first, dropped.get(conn).copied())).count() as u64
    };
    assert_eq!((report.runs, report.failed), (runs, 0));
    assert_eq!(report.would_drop.len(), times.len());
    assert!(times.len() > 20, "{}", times.len());
    for one in &report.would_drop {
        assert_eq!(times[&one.conn], (one.times, one.first_tick), "{one:?}");
        assert_eq!(one.dropped_at_tick, dropped.get(&one.conn).copied());
    }
    let disconnects = report.actions.iter().find(|action| action.action == "disconnect").unwrap();
    assert_eq!(disconnects.would_ask, times.values().map(|(times, _)| u64::from(*times)).sum::<u64>());
    assert_eq!(
        report.agreement.soon,
        count(&|first, dropped| dropped.is_some_and(|at| at <= first + within))
    );
    assert_eq!(
        report.agreement.later,
        count(&|first, dropped| dropped.is_some_and(|at| at > first + within))
    );
    assert_eq!(report.agreement.never, count(&|_, dropped| dropped.is_none()));
    assert!(report.agreement.soon > 0 && report.agreement.never > 0, "{:?}", report.agreement);
    // Beside what did happen.
    assert_eq!(report.did_drop.len(), dropped.len());
    assert!(report.did_drop.iter().all(|one| dropped[&one.conn] == one.first_tick));
    let did: u64 = report
        .actions
        .iter()
        .filter(|action| action.action.starts_with("disconnect"))
        .map(|action| action.did_apply)
        .sum();
    let bans = report.actions.iter().find(|action| action.action == "ban").unwrap().did_apply;
    assert_eq!(did + bans, dropped.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_phase_tried_in_its_own_place_would_have_done_what_it_did() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hours.gkr");
    let mut rig = Rig::recording(phases(), recorder(&path));
    (1..=12).for_each(|n| _ = rig.peer(n));
    let mut weather = Weather::new();
    for tick in 1..=240 {
        rig.tick().await;
        weather.change(&mut rig, tick).await;
    }
    rig.stop().await;
    let recording = Recording::open(&path).unwrap();
    for name in ["reaper", "prune"] {
        let spec = phases().into_iter().find(|spec| spec.name == name).unwrap();
        let PhaseSpec { name, body, schedule, .. } = spec;
        let report = what_if(&recording, &WhatIfPhase { name, body, schedule }, 10);
        assert!(report.in_place_of_its_namesake && report.runs > 70, "{report:?}");
        let its_own: Vec<_> = report.did_drop.iter().filter(|one| one.by == report.phase).collect();
        assert!(!its_own.is_empty());
        // A first run that the node's own spread puts later is the only freedom there is.
        for did in its_own {
            let would = report.would_drop.iter().find(|one| one.conn == did.conn);
            let would = would.unwrap_or_else(|| panic!("{did:?}"));
            assert!(would.first_tick <= did.first_tick && would.reason.len() > 3);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn recording_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let day = |mut rig: Rig| async move {
        (1..=12).for_each(|n| _ = rig.peer(n));
        let mut weather = Weather::new();
        let mut did = Vec::new();
        for tick in 1..=200 {
            let report = rig.tick().await;
            did.push((report.tick, report.connected, report.tally));
            weather.change(&mut rig, tick).await;
        }
        did
    };
    let with = day(Rig::recording(phases(), recorder(&folder.path().join("day.gkr")))).await;
    let without = day(Rig::start(phases())).await;
    assert_eq!(with, without);
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_fails_or_remembers_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hour.gkr");
    let mut rig = Rig::recording(builtins(), recorder(&path));
    (1..=3).for_each(|n| _ = rig.peer(n));
    rig.ticks(12).await;
    rig.stop().await;
    let recording = Recording::open(&path).unwrap();
    let spec = closure("counts", 2, |now, view, plan| {
        let mut met: Met = view.memory()?;
        met.runs += 1;
        plan.remember(&met)?;
        let expected = (met.runs > 1).then_some(60);
        if now.since_last_s != expected || now.missed > 0 {
            return Err(Failure::transient(format!("{now:?}")));
        }
        if met.runs == 4 { Err(Failure::transient("the fourth")) } else { Ok(()) }
    });
    let body = Arc::clone(&spec.body);
    let candidate = WhatIfPhase { name: spec.name, body, schedule: Schedule::every(2) };
    let report = what_if(&recording, &candidate, 10);
    // Ticks 1, 3, 5 go well; at 7 it fails, and so its memory stays as it was.
    assert_eq!((report.runs, report.failed), (6, 3), "{report:?}");
    let failed = report.first_failure.unwrap();
    assert_eq!((failed.tick, failed.text.as_str()), (7, "the fourth"));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_a_phase_runs_keeps_its_name() {
    type Leaving = Arc<parking_lot::Mutex<Option<Arc<FakePeer>>>>;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hour.gkr");
    let leaving = Leaving::default();
    let namer = |leaving: Leaving| {
        closure("namer", 1, move |_, view, plan| {
            if let Some(peer) = leaving.lock().take() {
                peer.leave();
            }
            let peers = view.peers().take(8);
            for (peer, name) in peers.iter().zip(view.names(&peers)) {
                plan.health(*peer, -1, format!("{} at {}", name.id, name.address));
            }
            Ok(())
        })
    };
    let mut rig = Rig::recording(vec![namer(Arc::clone(&leaving))], recorder(&path));
    let first = rig.peer(1);
    rig.peer(2);
    *leaving.lock() = Some(first);
    rig.ticks(3).await;
    rig.stop().await;
    let calm = |_: &RunInfo| Some(namer(Leaving::default()).body);
    let report = replay(&Recording::open(&path).unwrap(), &calm);
    assert_eq!((report.phases[0].runs, report.phases[0].identical), (3, 3), "{:#?}", report.differences);
}
