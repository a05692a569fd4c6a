//! The heartbeat on a paused clock: hours of ticks, stalls, suspends, restarts and isolation, in milliseconds.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::support::*;
use groundskeeper::clock::{Clock, TokioClock};
use groundskeeper::config::Config;
use groundskeeper::cycle::Thresholds;
use groundskeeper::engine::Executor;
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::journal::{ActionKind, Cause, Initiator, Outcome};
use groundskeeper::registry::{KeptPhase, LastRun, LastRuns, PhaseSpec, Standing};
use groundskeeper_sdk::column::peer;
use groundskeeper_sdk::phase::Tick;
use groundskeeper_sdk::span::Span;
use parking_lot::Mutex;

#[tokio::test(start_paused = true)]
async fn a_day_of_ticks_runs_each_phase_as_often_as_it_should() {
    let mut rig = Rig::start(builtins());
    (1..=9).for_each(|n| _ = rig.peer(n));
    let reports = rig.ticks(2880).await;
    assert_eq!(reports.iter().map(|report| report.tick).collect::<Vec<_>>(), (1..=2880).collect::<Vec<_>>());
    assert_eq!(ran_in(&reports, "reaper").len(), 2880);
    assert_eq!(ran_in(&reports, "reconnect").len(), 720);
    assert_eq!(ran_in(&reports, "broadcast-cleanup").len(), 1440);
    assert_eq!(ran_in(&reports, "exchange-cleanup").len(), 24);
    assert_eq!((rig.pool.live(), rig.journal.disconnects()), (9, 0));
    assert_eq!(rig.clock.mono(), Duration::from_secs(2880 * 30));
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_310_seconds_is_one_late_tick_and_the_grid_is_kept() {
    let mut rig = Rig::start(builtins());
    rig.peer(1);
    assert_eq!(rig.tick().await.tick, 1);
    tokio::time::advance(Duration::from_secs(310)).await;
    let late = rig.tick().await;
    assert_eq!((late.tick, late.skipped, late.late), (11, 9, true));
    assert_eq!(rig.tick().await.tick, 12);
    assert_eq!(rig.clock.mono(), Duration::from_secs(360));
    assert_eq!(rig.pool.live(), 1, "nobody is reaped for the node's own stall");
    assert_eq!((rig.handle.stats().skipped(), rig.handle.stats().late()), (9, 1));
    let missed: Vec<_> = rig.phases().iter().map(|phase| (phase.name.to_string(), phase.missed)).collect();
    assert_eq!(missed[0], ("reaper".to_owned(), 9));
    assert_eq!(missed[3], ("exchange-cleanup".to_owned(), 0), "it has never run yet");
}

#[tokio::test(start_paused = true)]
async fn missed_ticks_119_to_122_do_not_cost_the_hourly_phase_its_run() {
    let mut rig = Rig::start(builtins());
    let mut reports = rig.ticks(118).await;
    tokio::time::advance(INTERVAL * 5).await;
    reports.extend(rig.ticks(250).await);
    let runs = ran_in(&reports, "exchange-cleanup");
    let ticks: Vec<u32> = reports.iter().map(|report| report.tick).collect();
    assert!(!ticks.contains(&119) && !ticks.contains(&122) && ticks.contains(&123));
    assert_eq!(runs.len(), 3, "{runs:?}");
    assert!(runs.windows(2).all(|pair| pair[1] - pair[0] == 120), "{runs:?}");
}

#[tokio::test(start_paused = true)]
async fn an_hourly_run_that_falls_into_missed_ticks_happens_at_the_next_one() {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    // As if it had run when the node started: due at tick 120.
    let phases = [("exchange-cleanup".to_owned(), LastRun::accepted(0))].into();
    let kept = Kept { last_runs: LastRuns { taken_unix_s: 1_700_000_000, phases }, ..Kept::default() };
    let mut rig = Rig::resume(clock, builtins(), INTERVAL, &kept, Executor::Inline);
    rig.ticks(118).await;
    tokio::time::advance(INTERVAL * 5).await;
    let reports = rig.ticks(250).await;
    assert_eq!(ran_in(&reports, "exchange-cleanup"), [123, 243, 363]);
}

#[tokio::test(start_paused = true)]
async fn changing_the_interval_loses_and_doubles_no_run() {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let ten = Duration::from_secs(10);
    let mut rig = Rig::resume(clock, builtins(), ten, &Kept::default(), Executor::Inline);
    let mut reports = rig.ticks(10).await;
    rig.handle.set_interval(Duration::from_secs(30)).await;
    reports.extend(rig.ticks(10).await);
    rig.handle.set_interval(ten).await;
    reports.extend(rig.ticks(300).await);
    assert_eq!(reports.iter().map(|report| report.tick).collect::<Vec<_>>(), (1..=320).collect::<Vec<_>>());
    assert!(reports.iter().all(|report| !report.late));
    let cleanups = ran_in(&reports, "broadcast-cleanup");
    assert!(cleanups.windows(2).all(|pair| pair[1] - pair[0] == 2), "{cleanups:?}");
    assert_eq!(rig.clock.mono(), ten * 310 + Duration::from_secs(300));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_restarts_each_50_minutes_still_does_its_hourly_work() {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let mut kept = Kept::default();
    let mut runs = 0;
    for _process in 0..12 {
        let mut rig = Rig::resume(Arc::clone(&clock), builtins(), INTERVAL, &kept, Executor::Inline);
        let reports = rig.ticks(100).await;
        runs += ran_in(&reports, "exchange-cleanup").len();
        kept = rig.stop().await;
    }
    assert!((9..=10).contains(&runs), "{runs} runs in ten hours");
}

/// What a phase was told at each run.
fn listener(every: u32, ticks: &Arc<Mutex<Vec<Tick>>>) -> PhaseSpec {
    let ticks = Arc::clone(ticks);
    closure("listener", every, move |tick, _, _| {
        ticks.lock().push(*tick);
        Ok(())
    })
}

#[tokio::test(start_paused = true)]
async fn a_phase_knows_its_last_run_across_restarts_whatever_the_wall_clock_does() {
    let hour = 3_600_000_i64;
    // By how much the wall clock moves while the node is off, and what the phase is told.
    for (moves_ms, since_s) in
        [(0, 30), (2 * hour, 30 + 7200), (-10 * 8766 * hour, 30), (10 * 8766 * hour, 30 + 366 * 86_400)]
    {
        let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
        let told = Arc::new(Mutex::default());
        let phases = || vec![listener(1, &told)];
        let mut rig = Rig::resume(Arc::clone(&clock), phases(), INTERVAL, &Kept::default(), Executor::Inline);
        rig.ticks(3).await;
        let kept = rig.stop().await;
        clock.step_wall(moves_ms);
        let mut rig = Rig::resume(Arc::clone(&clock), phases(), INTERVAL, &kept, Executor::Inline);
        rig.ticks(2).await;
        let told: Vec<_> = told.lock().iter().map(|tick: &Tick| (tick.since_last_s, tick.missed)).collect();
        let expected = [(None, 0), (Some(30), 0), (Some(30), 0), (Some(since_s), 0), (Some(30), 0)];
        assert_eq!(told, expected, "a step of {moves_ms} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_goes_back_at_each_restart_does_not_keep_the_hourly_phase_from_running() {
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let told = Arc::new(Mutex::default());
    let mut kept = Kept::default();
    for _process in 0..12 {
        let phases = vec![listener(120, &told)];
        let mut rig = Rig::resume(Arc::clone(&clock), phases, INTERVAL, &kept, Executor::Inline);
        rig.ticks(100).await;
        kept = rig.stop().await;
        clock.step_wall(-86_400_000);
    }
    let runs = told.lock().len();
    assert!((9..=10).contains(&runs), "{runs} runs in ten hours");
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_of_8_hours_everyone_is_probed_the_dead_go_and_the_living_stay() {
    let mut rig = Rig::start(builtins());
    let peers: Vec<_> = (1..=6).map(|n| rig.peer(n)).collect();
    rig.ticks(3).await;
    peers[..3].iter().for_each(|peer| peer.answers.store(false, Relaxed));
    let pings = |at: usize| peers[at].pings.load(Relaxed);
    let before: Vec<u32> = (0..6).map(pings).collect();
    rig.clock.suspend(Duration::from_secs(8 * 3600));
    let first = rig.tick().await;
    assert_eq!((first.late, first.skipped, first.tally.disconnected, first.tally.pinged), (true, 0, 0, 6));
    assert!((0..6).all(|at| pings(at) == before[at] + 1), "each is probed once");
    rig.ticks(4).await;
    assert_eq!(
        peers.iter().map(|peer| peer.is_closed()).collect::<Vec<_>>(),
        [true, true, true, false, false, false]
    );
    assert_eq!(rig.journal.disconnects_by(Cause::Phase), 3);
    let late = rig.journal.select(1, |record| record.what == ActionKind::Late);
    assert_eq!(late[0].inputs[1], ("slept-s".into(), 8 * 3600));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_late_at_every_tick_still_reaps_the_dead_and_keeps_the_living() {
    for stall in [40, 65, 310, 1000] {
        let mut rig = Rig::start(builtins());
        let (dead, living) = (rig.peer(1), rig.peer(2));
        dead.answers.store(false, Relaxed);
        for _tick in 0..40 {
            tokio::time::advance(Duration::from_secs(stall)).await;
            living.speak();
            rig.tick().await;
        }
        assert!(dead.is_closed(), "stalls of {stall} s");
        assert!(!living.is_closed(), "stalls of {stall} s");
    }
}

/// What a reload does that sets the reaper's limits.
async fn limit_silence(rig: &Rig, ping_after: Duration, stale_after: Duration) {
    let mut phases = Config::default().phases;
    phases.reaper.settings.ping_after = Span::secs(ping_after.as_secs());
    phases.reaper.settings.stale_after = Span::secs(stale_after.as_secs());
    let reaper = groundskeeper::node::builtins(&phases).swap_remove(0);
    let put = rig.handle.with_cycle(move |cycle| {
        cycle.put(reaper, KeptPhase::default(), LastRuns::default(), Standing::Proven).expect("a good phase");
        cycle.set_world(Thresholds { stale_after, ..Thresholds::default() }, GuestCeilings::default());
    });
    put.await.expect("the ticker runs");
}

#[tokio::test(start_paused = true)]
async fn a_tightened_limit_drops_no_peer_for_its_silence_before_the_change() {
    let seconds = Duration::from_secs;
    let clock = TokioClock::starting_at(seconds(1_700_000_000));
    let mut rig = Rig::resume(clock, builtins(), seconds(5), &Kept::default(), Executor::Inline);
    let peers: Vec<_> = (1..=8).map(|n| rig.peer(n)).collect();
    peers[7].answers.store(false, Relaxed);
    // 20 s of silence: nobody has been pinged yet.
    rig.ticks(4).await;
    assert_eq!(peers.iter().map(|peer| peer.pings.load(Relaxed)).sum::<u32>(), 0);
    limit_silence(&rig, seconds(4), seconds(12)).await;
    let reports = rig.ticks(20).await;
    assert_eq!(reports[0].tally.disconnected, 0, "silence before the change is no offence");
    let closed: Vec<u32> = peers.iter().filter(|peer| peer.is_closed()).map(|peer| peer.n).collect();
    assert_eq!(closed, [8], "only the peer that answers no ping is dropped");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_tightened_again_and_again_keeps_no_silent_peer() {
    let seconds = Duration::from_secs;
    let clock = TokioClock::starting_at(seconds(1_700_000_000));
    let mut rig = Rig::resume(clock, builtins(), seconds(5), &Kept::default(), Executor::Inline);
    let (dead, living) = (rig.peer(1), rig.peer(2));
    dead.answers.store(false, Relaxed);
    for _change in 0..10 {
        rig.ticks(1).await;
        limit_silence(&rig, seconds(4), seconds(12)).await;
        rig.ticks(1).await;
        limit_silence(&rig, seconds(25), seconds(90)).await;
    }
    assert!(dead.is_closed(), "the longer limit of 90 s still holds");
    assert!(!living.is_closed());
}

#[tokio::test(start_paused = true)]
async fn the_silent_are_pinged_then_reaped_with_their_reason_and_inputs() {
    let mut rig = Rig::start(builtins());
    let (dead, living) = (rig.peer(1), rig.peer(2));
    dead.answers.store(false, Relaxed);
    let reports = rig.ticks(4).await;
    assert!(dead.is_closed() && !living.is_closed());
    assert_eq!(reports.iter().map(|report| report.tally.disconnected).collect::<Vec<_>>(), [0, 0, 1, 0]);
    assert_eq!(dead.pings.load(Relaxed), 2);
    let record =
        rig.journal.explain(&id(1)).into_iter().find(|record| record.what == ActionKind::Disconnect).unwrap();
    assert_eq!((record.tick, record.beat, record.cause), (3, 0, Some(Cause::Phase)));
    assert!(
        matches!(&record.by, Initiator::Phase { name, version } if &**name == "reaper" && &**version == "0.1.0")
    );
    assert!(record.reason.contains("90 s"), "{}", record.reason);
    assert!(record.inputs.contains(&("idle-s".into(), 90)), "{:?}", record.inputs);
    assert_eq!(dead.goodbye.lock().as_ref().unwrap().text, record.reason);
}

#[tokio::test(start_paused = true)]
async fn reconnect_sees_the_count_after_reaping_though_dead_tasks_are_stuck() {
    let mut rig = Rig::start(builtins());
    let peers: Vec<_> = (1..=8).map(|n| rig.peer(n)).collect();
    for dead in &peers[..6] {
        dead.answers.store(false, Relaxed);
        dead.obeys.store(false, Relaxed);
    }
    (20..40).for_each(|n| rig.know(n));
    let reports = rig.ticks(3).await;
    let last = reports.last().unwrap();
    assert_eq!((last.tick, last.tally.disconnected, last.tally.dialed), (3, 6, 6));
    assert_eq!(
        (rig.pool.live(), rig.pool.closing()),
        (8, 6),
        "six dead still hold their slots, six new are live"
    );
    let dial =
        rig.journal.select(1, |record| record.what == ActionKind::Dial && record.outcome == Outcome::Started);
    assert!(dial[0].reason.contains("2 connected"), "{}", dial[0].reason);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_alone_comes_back_within_5_seconds_of_a_peer_being_there() {
    // Waits are drawn by lot.
    for _ in 0..200 {
        let mut rig = Rig::start(builtins());
        let begun = rig.clock.mono();
        rig.network.reachable.store(false, Relaxed);
        (1..=3).for_each(|n| rig.know(n));
        while rig.network.dials.lock().len() < 3 {
            rig.beat().await;
        }
        rig.network.reachable.store(true, Relaxed);
        let there = rig.clock.mono();
        let report = loop {
            let report = rig.beat().await;
            if report.connected > 0 {
                break report;
            }
        };
        let took = rig.clock.mono() - there;
        assert!(took <= Duration::from_secs(5), "took {took:?}");
        assert_eq!(report.tick, 0, "urgent beats do not move the tick");
        assert!(report.urgent > 0);
        assert!(rig.network.dials.lock().iter().all(|(_, to)| (1..=3).any(|n| address(n) == *to)));
        // The regular tick comes when it would have come.
        let tick = rig.tick().await;
        assert_eq!((tick.tick, rig.clock.mono() - begun), (1, INTERVAL));
    }
}

#[tokio::test(start_paused = true)]
async fn losing_the_last_peer_wakes_only_reconnect_and_leaves_its_cadence_alone() {
    let mut rig = Rig::start(builtins());
    let only = rig.peer(1);
    (2..=40).for_each(|n| rig.know(n));
    rig.network.reachable.store(false, Relaxed);
    rig.ticks(2).await;
    only.leave();
    let started = rig.clock.mono();
    let urgent = rig.beat().await;
    assert_eq!((urgent.tick, urgent.urgent), (2, 1));
    assert_eq!(urgent.runs.iter().map(|run| &*run.name).collect::<Vec<_>>(), ["reconnect"]);
    assert!(urgent.tally.dialed <= 8 && rig.clock.mono() - started <= Duration::from_millis(500));
    let status = rig.journal.select(9, |record| record.what == ActionKind::Disconnect);
    assert_eq!(status[0].cause, Some(Cause::OwnerDropped));
    let tick = rig.tick().await;
    assert_eq!((tick.tick, ran_in(&[tick], "reconnect")), (3, vec![3]));
}

#[tokio::test(start_paused = true)]
async fn fewer_than_5_connections_redial_at_each_tick_and_8_at_every_4th() {
    let mut rig = Rig::start(builtins());
    rig.network.reachable.store(false, Relaxed);
    (1..=4).for_each(|n| _ = rig.peer(n));
    let few = rig.ticks(4).await;
    assert_eq!(ran_in(&few, "reconnect"), [1, 2, 3, 4]);
    (5..=6).for_each(|n| _ = rig.peer(n));
    let some = rig.ticks(6).await;
    assert_eq!(ran_in(&some, "reconnect"), [6, 8, 10]);
    (7..=8).for_each(|n| _ = rig.peer(n));
    let enough = rig.ticks(8).await;
    assert_eq!(ran_in(&enough, "reconnect"), [14, 18]);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_speaks_between_view_and_apply_stays_only_if_silence_was_the_reason() {
    for (if_silent, stays) in [(true, true), (false, false)] {
        let speaker: Arc<parking_lot::Mutex<Option<Arc<FakePeer>>>> = Arc::default();
        let inside = Arc::clone(&speaker);
        let mut rig = Rig::start(vec![closure("dropper", 1, move |_, view, plan| {
            let silent = view.peers().at_least(peer::IDLE, Duration::from_secs(30)).take(8);
            if let Some(peer) = &*inside.lock() {
                peer.speak();
            }
            for peer in silent {
                if if_silent {
                    plan.disconnect_if_silent(peer, "silent");
                } else {
                    plan.disconnect(peer, "slow");
                }
            }
            Ok(())
        })]);
        let peer = rig.peer(1);
        *speaker.lock() = Some(Arc::clone(&peer));
        let report = rig.tick().await;
        assert_eq!(peer.is_closed(), !stays);
        assert_eq!((report.tally.void, report.tally.disconnected), (u32::from(stays), u32::from(!stays)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_phase_that_panics_fails_or_breaks_a_rule_applies_nothing_and_stops_nobody() {
    let mut rig = Rig::start(vec![
        closure("panics", 1, |_, view, plan| {
            view.peers().take(8).into_iter().for_each(|peer| plan.disconnect(peer, "never applied"));
            panic!("on purpose")
        }),
        closure("fails", 1, |_, view, plan| {
            view.peers().take(8).into_iter().for_each(|peer| plan.disconnect(peer, "never applied"));
            Err(groundskeeper_sdk::phase::Failure::transient("no luck"))
        }),
        closure("breaks-a-rule", 1, |_, view, plan| {
            view.peers().take(8).into_iter().for_each(|peer| plan.disconnect(peer, ""));
            Ok(())
        }),
        closure("works", 1, |_, view, plan| {
            view.peers().take(1).into_iter().for_each(|peer| plan.health(peer, -5, "works"));
            Ok(())
        }),
    ]);
    rig.peer(1);
    let reports = rig.ticks(12).await;
    assert_eq!(ran_in(&reports, "works").len(), 12);
    // Three failures open the breaker; then every second, then every third of the due runs ... is tried.
    assert_eq!(ran_in(&reports, "panics"), [1, 2, 3, 5, 8]);
    assert_eq!(rig.pool.live(), 1);
    let failures = rig.journal.select(99, |record| record.what == ActionKind::PhaseFailed);
    assert!(
        failures
            .iter()
            .any(|record| matches!(&record.outcome, Outcome::Failed(why) if why.contains("on purpose")))
    );
    assert!(
        failures
            .iter()
            .any(|record| matches!(&record.outcome, Outcome::Failed(why) if why.contains("reason")))
    );
}

#[tokio::test(start_paused = true)]
async fn later_phases_see_what_earlier_plans_changed() {
    type Seen = Arc<parking_lot::Mutex<Vec<(u32, u32, Vec<u32>)>>>;
    let seen = Seen::default();
    let record = Arc::clone(&seen);
    let mut rig = Rig::start(vec![
        closure("first", 1, |_, view, plan| {
            let peers = view.peers().take(8);
            plan.disconnect(peers[1], "gone");
            plan.health(peers[2], -60, "weak");
            plan.health(peers[2], -20, "weaker");
            Ok(())
        }),
        closure("second", 1, move |_, view, _| {
            let totals = view.totals();
            record.lock().push((totals.connected, totals.healthy, view.column(peer::HEALTH).to_vec()));
            Ok(())
        }),
    ]);
    (1..=4).for_each(|n| _ = rig.peer(n));
    rig.tick().await;
    assert_eq!(seen.lock()[0], (3, 2, vec![100, 20, 100]));
}
