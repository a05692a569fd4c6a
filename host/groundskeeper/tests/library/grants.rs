//! Grants over the plan, one by one: what is applied, what is refused, and what the journal says of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use crate::support::guests::*;
use crate::support::*;
use groundskeeper::book::AddressSource;
use groundskeeper::clock::{Clock, TokioClock};
use groundskeeper::cycle::BeatReport;
use groundskeeper::engine::Executor;
use groundskeeper::engine::policy::GuestCeilings;
use groundskeeper::engine::policy::{
    BanGrant, DialGrant, DisconnectGrant, ForgetGrant, Grants, HealthGrant, MemoryGrant, PingGrant,
    ProtectGrant,
};
use groundskeeper::journal::{ActionKind, Outcome};
use groundskeeper::node::Options;
use groundskeeper::record::{
    AppliedPlan, AskOutcome, Event, RecordedOutcome, Recorder, RecorderOptions, Recording, WhatIfPhase,
    what_if,
};
use groundskeeper::registry::{KeptPhase, LastRuns, PhaseSpec, Standing};
use groundskeeper_sdk::column::peer;
use groundskeeper_sdk::memory::Memory;
use groundskeeper_sdk::plan::Plan;
use groundskeeper_sdk::span::Span;

fn disconnects(max_per_tick: u32, max_per_hour: u32, min_connections_left: u32) -> Option<DisconnectGrant> {
    Some(DisconnectGrant { max_per_tick, max_per_hour, min_connections_left })
}

/// Asks to end every connection.
fn drops_everyone(name: &str, disconnect: Option<DisconnectGrant>) -> PhaseSpec {
    guest(name, Grants { peers: true, disconnect, ..Grants::default() }, |_, view, plan| {
        view.peers().take(4096).into_iter().for_each(|peer| plan.disconnect(peer, "no reason"));
        Ok(())
    })
}

#[tokio::test(start_paused = true)]
async fn ten_disconnects_asked_two_granted_two_happen_and_eight_are_in_the_journal() {
    let mut rig = rig(vec![drops_everyone("greedy", disconnects(2, 100, 0))], no_rules());
    let peers: Vec<_> = (1..=10).map(|n| rig.peer(n)).collect();
    let report = rig.tick().await;
    let tally = report.tally;
    assert_eq!((tally.asked, tally.disconnected, tally.refused, tally.void), (10, 2, 8, 0));
    let closed: Vec<bool> = peers.iter().map(|peer| peer.is_closed()).collect();
    assert_eq!(closed, [[true; 2].as_slice(), &[false; 8]].concat(), "in the order of asking");
    let refused = asked(&rig, "greedy", ActionKind::Disconnect);
    let refused: Vec<_> = refused.iter().filter(|record| record.outcome != Outcome::Applied).collect();
    assert_eq!(refused.len(), 8);
    for (record, n) in refused.iter().zip(3..) {
        assert_eq!(record.outcome, Outcome::Refused("disconnect.max_per_tick = 2 is used up".into()));
        assert_eq!((record.peer, record.reason.as_str()), (Some(id(n)), "no reason"));
    }
    let status = &rig.phases()[0];
    assert_eq!(status.refused, [("disconnect".to_owned(), 8)].into());
}

#[tokio::test(start_paused = true)]
async fn each_ceiling_of_disconnects_is_named_when_it_holds() {
    let node = |change: fn(&mut GuestCeilings)| {
        let mut guests = no_rules();
        change(&mut guests);
        guests
    };
    let table: [(_, _, u32, &str); 7] = [
        (disconnects(3, 100, 0), no_rules(), 3, "disconnect.max_per_tick = 3 is used up"),
        (disconnects(100, 4, 0), no_rules(), 4, "disconnect.max_per_hour = 4 is used up"),
        (disconnects(100, 100, 7), no_rules(), 3, "disconnect.min_connections_left = 7: 7 are live"),
        (disconnects(100, 100, 0), node(|all| all.floor = 5), 5, "guests.floor = 5: 5 connections are live"),
        (
            disconnects(100, 100, 0),
            node(|all| all.disconnects_per_tick = 1),
            1,
            "guests.disconnects_per_tick = 1 is used up by all guests together",
        ),
        (
            disconnects(100, 100, 0),
            node(|all| all.disconnects_per_hour = 2),
            2,
            "guests.disconnects_per_hour = 2 is used up by all guests together",
        ),
        (
            None,
            no_rules(),
            0,
            "disconnect is not granted; add `disconnect = true` below [grants] in its manifest",
        ),
    ];
    for (grant, guests, granted, words) in table {
        let mut rig = rig(vec![drops_everyone("greedy", grant)], guests);
        (1..=10).for_each(|n| _ = rig.peer(n));
        let report = rig.tick().await;
        assert_eq!((report.tally.disconnected, report.tally.refused), (granted, 10 - granted), "{words}");
        assert!(refusals(&rig, "greedy", ActionKind::Disconnect).iter().all(|told| told == words), "{words}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_hour_is_any_hour_and_an_ask_without_effect_counts_for_nothing() {
    let mut rig = rig(vec![drops_everyone("greedy", disconnects(1, 3, 0))], no_rules());
    let mut next = 1..;
    let mut closed = Vec::new();
    for tick in 1..=260 {
        while rig.pool.live() < 5 {
            rig.peer(next.next().unwrap());
        }
        closed.extend((rig.tick().await.tally.disconnected == 1).then_some(tick));
    }
    // An hour and at most a minute after each of the first three.
    assert_eq!(closed, [1, 2, 3, 122, 124, 125, 244, 246, 247]);
    // Twice the same peer is one disconnect.
    let twice =
        guest("twice", Grants { disconnect: disconnects(9, 3, 0), ..Grants::default() }, |_, view, plan| {
            for peer in view.peers().take(2) {
                plan.disconnect(peer, "once");
                plan.disconnect(peer, "and again");
            }
            Ok(())
        });
    let mut rig = crate::support::guests::rig(vec![twice], no_rules());
    (1..=9).for_each(|n| _ = rig.peer(n));
    let reports = rig.ticks(2).await;
    assert_eq!(reports.iter().map(|report| report.tally.disconnected).collect::<Vec<_>>(), [2, 1]);
    assert_eq!(reports[0].tally.void, 2);
}

#[tokio::test(start_paused = true)]
async fn two_guests_within_their_ceilings_share_the_nodes() {
    let guests = GuestCeilings { disconnects_per_tick: 5, floor: 4, ..no_rules() };
    let specs = ["a", "b"].map(|name| drops_everyone(name, disconnects(4, 100, 0)));
    let mut rig = rig(specs.into(), guests);
    (1..=12).for_each(|n| _ = rig.peer(n));
    let reports = rig.ticks(3).await;
    let by = |report: &groundskeeper::cycle::BeatReport| {
        report.runs.iter().map(|run| run.tally.disconnected).collect::<Vec<_>>()
    };
    assert_eq!(reports.iter().map(|report| by(report)).collect::<Vec<_>>(), [[4, 1], [3, 0], [0, 0]]);
    assert_eq!(rig.pool.live(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_ban_is_a_disconnect_too_and_is_cut_down_in_time() {
    let grants = Grants {
        disconnect: disconnects(3, 100, 0),
        ban: Some(BanGrant { max_active: 2, max_duration: Duration::from_secs(60) }),
        ..Grants::default()
    };
    let bouncer = guest("bouncer", grants, |_, view, plan| {
        for peer in view.peers().take(9) {
            plan.ban(peer, Duration::from_secs(7200), "out");
        }
        Ok(())
    });
    let mut rig = rig(
        vec![bouncer, drops_everyone("z", disconnects(9, 1, 0))],
        GuestCeilings { disconnects_per_tick: 3, ..no_rules() },
    );
    (1..=6).for_each(|n| _ = rig.peer(n));
    let report = rig.tick().await;
    assert_eq!((report.tally.banned, report.tally.disconnected, rig.pool.bans()), (2, 3, 2));
    let bans = asked(&rig, "bouncer", ActionKind::Ban);
    assert_eq!(bans[0].reason, "out (for 60 s, cut down from 7200 s by ban.max_duration)");
    assert_eq!(refusals(&rig, "bouncer", ActionKind::Ban), vec!["ban.max_active = 2 is used up"; 4]);
    // When they are over there is room for others.
    let reports = rig.ticks(3).await;
    assert_eq!(reports.iter().map(|report| report.tally.banned).collect::<Vec<_>>(), [0, 2, 0]);
}

#[tokio::test(start_paused = true)]
async fn health_is_moved_within_its_points_and_its_floor() {
    for (floor, healthy_floor, steps) in [
        // 50 an hour: 40 and then 10 more, whatever is asked for.
        (None, 0, vec![(100, 60), (60, 50)]),
        (Some(80), 0, vec![(100, 80)]),
    ] {
        let health = Some(HealthGrant { max_delta_per_peer_per_hour: 50, floor });
        let strict = guest("strict", Grants { health, ..Grants::default() }, |_, view, plan| {
            view.peers().take(1).into_iter().for_each(|peer| plan.health(peer, -40, "bad"));
            Ok(())
        });
        let mut rig = rig(vec![strict], GuestCeilings { floor: healthy_floor, ..no_rules() });
        rig.peer(1);
        rig.ticks(4).await;
        let applied = asked(&rig, "strict", ActionKind::Health);
        let value = |inputs: &[(std::borrow::Cow<'static, str>, u32)], name: &str| {
            inputs.iter().find(|(known, _)| known == name).map(|(_, value)| *value).unwrap()
        };
        let moved: Vec<(u32, u32)> = applied
            .iter()
            .filter(|record| record.outcome == Outcome::Applied)
            .map(|record| (value(&record.inputs, "health-before"), value(&record.inputs, "health-after")))
            .collect();
        assert_eq!(moved, steps);
        let words = refusals(&rig, "strict", ActionKind::Health);
        let expected = if floor.is_some() {
            "health.floor = 80: it is 80"
        } else {
            "health.max_delta_per_peer_per_hour = 50 is used up"
        };
        assert!(words.iter().all(|told| told == expected) && !words.is_empty(), "{words:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_falls_ill_by_a_guest_unless_told_so_and_never_too_many() {
    let health = |floor| Some(HealthGrant { max_delta_per_peer_per_hour: 10_000, floor });
    let poison = |floor| {
        guest("poison", Grants { health: health(floor), ..Grants::default() }, |_, view, plan| {
            view.peers().take(64).into_iter().for_each(|peer| plan.health(peer, -100, "ill"));
            Ok(())
        })
    };
    for (floor, healthy, lowest) in [(None, 10, 31), (Some(0), 5, 0)] {
        let mut rig = rig(vec![poison(floor)], GuestCeilings { floor: 5, ..no_rules() });
        (1..=10).for_each(|n| _ = rig.peer(n));
        rig.ticks(5).await;
        let rows = rig.pool.freeze();
        assert_eq!(rig.pool.stats(30, Duration::from_secs(90)).healthy, healthy);
        assert_eq!(rows.words().iter().map(|word| word.health()).min(), Some(lowest));
    }
}

#[tokio::test(start_paused = true)]
async fn healthy_connections_are_kept_when_there_are_few_of_them() {
    let sick = closure("sick", 1, |_, view, plan| {
        view.peers().take(5).into_iter().for_each(|peer| plan.health(peer, -100, "ill"));
        Ok(())
    });
    let mut rig = rig(
        vec![sick, drops_everyone("z", disconnects(64, 64, 0))],
        GuestCeilings { floor: 4, ..no_rules() },
    );
    let peers: Vec<_> = (1..=9).map(|n| rig.peer(n)).collect();
    let report = rig.tick().await;
    // The five that are ill may go; of the healthy four none.
    assert_eq!(report.tally.disconnected, 5);
    assert!(
        peers[..5].iter().all(|peer| peer.is_closed()) && !peers[5..].iter().any(|peer| peer.is_closed())
    );
}

#[tokio::test(start_paused = true)]
async fn protected_and_untouchable_peers_are_left_alone() {
    let grants = Grants {
        disconnect: disconnects(64, 64, 0),
        ban: Some(BanGrant { max_active: 64, ..BanGrant::default() }),
        health: Some(HealthGrant { max_delta_per_peer_per_hour: 10_000, floor: Some(0) }),
        protect: Some(ProtectGrant::default()),
        ..Grants::default()
    };
    let attacker = guest("attacker", grants, |tick, view, plan| {
        for peer in view.peers().take(64) {
            match tick.number % 4 {
                0 => plan.disconnect(peer, "out"),
                1 => plan.health(peer, -50, "bad"),
                2 => plan.ban(peer, Duration::from_secs(60), "out"),
                // It tries to take the operator's protection away by a shorter one.
                _ => {
                    plan.protect(peer, Duration::from_secs(1), "mine");
                    plan.disconnect_if_silent(peer, "silent");
                }
            }
        }
        Ok(())
    });
    let guardian = closure("guardian", 1000, |_, view, plan| {
        view.peers()
            .take(1)
            .into_iter()
            .for_each(|peer| plan.protect(peer, Duration::from_secs(3600), "mine"));
        Ok(())
    });
    let guardian = PhaseSpec {
        schedule: groundskeeper::engine::schedule::Schedule { run_on_start: true, ..guardian.schedule },
        ..guardian
    };
    let mut rig = rig(vec![guardian, attacker], GuestCeilings { untouchable: vec![id(2)], ..no_rules() });
    let (kept, named, other) = (rig.peer(1), rig.peer(2), rig.peer(3));
    rig.ticks(12).await;
    assert!(!kept.is_closed() && !named.is_closed() && other.is_closed());
    let rows = rig.pool.freeze();
    assert!(rows.words().iter().all(|word| word.health() == 100));
    let words: Vec<String> = [ActionKind::Disconnect, ActionKind::Ban, ActionKind::Health]
        .map(|what| refusals(&rig, "attacker", what))
        .concat();
    assert!(words.contains(&"the peer is protected".to_owned()));
    assert!(words.contains(&"guests.untouchable names this peer".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn guests_protect_few_and_not_for_long() {
    let grant = |max_active| Grants {
        protect: Some(ProtectGrant { max_active, max_duration: Duration::from_secs(60) }),
        ..Grants::default()
    };
    let keeper = |name: &str, max_active| {
        guest(name, grant(max_active), |_, view, plan| {
            view.peers()
                .take(64)
                .into_iter()
                .for_each(|peer| plan.protect(peer, Duration::from_secs(9999), "mine"));
            Ok(())
        })
    };
    let protected = |rig: &Rig| rig.pool.freeze().words().iter().filter(|word| word.protected()).count();
    let mut own = rig(vec![keeper("keeper", 3)], no_rules());
    (1..=20).for_each(|n| _ = own.peer(n));
    own.ticks(5).await;
    assert_eq!(protected(&own), 3, "those it has already may be asked for again");
    assert!(
        asked(&own, "keeper", ActionKind::Protect)[0]
            .reason
            .ends_with("cut down from 9999 s by protect.max_duration)")
    );

    let mut all = rig(vec![keeper("a", 30), keeper("b", 30)], GuestCeilings { protected: 7, ..no_rules() });
    (1..=20).for_each(|n| _ = all.peer(n));
    all.ticks(3).await;
    assert_eq!(protected(&all), 7);
    assert!(
        refusals(&all, "b", ActionKind::Protect)[0]
            .contains("guests.protected = 7 is used up by all guests together")
    );

    let mut half = rig(vec![keeper("a", 30)], no_rules());
    (1..=20).for_each(|n| _ = half.peer(n));
    half.ticks(3).await;
    assert_eq!(protected(&half), 10, "the operator's own phases must have somebody to disconnect");
    assert!(refusals(&half, "a", ActionKind::Protect)[0].contains("half of the 20 live connections"));
}

#[tokio::test(start_paused = true)]
async fn pings_are_cut_by_peers_not_by_asks() {
    let ping = Some(PingGrant { max_per_tick: 12 });
    let pinger = guest("pinger", Grants { ping, ..Grants::default() }, |_, view, plan| {
        plan.ping(&view.peers().take(8));
        plan.ping_matching(view.peers().at_most(peer::HEALTH, 100));
        Ok(())
    });
    let mut rig = rig(vec![pinger], no_rules());
    let peers: Vec<_> = (1..=10).map(|n| rig.peer(n)).collect();
    let report = rig.tick().await;
    assert_eq!((report.tally.pinged, report.tally.refused), (12, 1));
    let records = asked(&rig, "pinger", ActionKind::Ping);
    let counts: Vec<_> =
        records.iter().map(|record| (record.count, record.outcome == Outcome::Applied)).collect();
    assert_eq!(counts, [(8, true), (6, false), (4, true)]);
    assert_eq!(peers.iter().map(|peer| peer.pings.load(Relaxed)).sum::<u32>(), 12);
    assert_eq!(rig.tick().await.tally.pinged, 12, "the next tick has its own");
}

/// The outcomes that one tick of `spec` leaves in a recording, and what its asks of `action` are said to have done.
async fn recorded(spec: PhaseSpec, action: &str, fill: impl Fn(&mut Rig)) -> (Vec<AskOutcome>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("asks.gkr");
    // Time stands still for the writer, so it may take what it needs.
    let options = RecorderOptions { patience: Duration::from_secs(60), ..RecorderOptions::default() };
    let candidate = WhatIfPhase {
        name: spec.name.clone(),
        body: Arc::clone(&spec.body),
        schedule: spec.schedule.clone(),
    };
    let mut rig = Rig::recording(vec![spec], Recorder::start(&path, options).unwrap());
    fill(&mut rig);
    rig.tick().await;
    rig.stop().await;
    let recording = Recording::open(&path).unwrap();
    let Some(Event::Beat(beat)) = recording.events().next() else { panic!("nothing was recorded") };
    let RecordedOutcome::Planned(AppliedPlan { ask_outcomes, .. }) = beat.runs[0].outcome.clone() else {
        panic!("{beat:?}")
    };
    let report = what_if(&recording, &candidate, 1);
    let did_apply = report.actions.iter().find(|known| known.action == action).unwrap().did_apply;
    (ask_outcomes, did_apply)
}

#[tokio::test(start_paused = true)]
async fn a_ping_of_ten_with_four_granted_is_not_recorded_as_refused() {
    let pinger = |name: &str| {
        let ping = Some(PingGrant { max_per_tick: 4 });
        guest(name, Grants { ping, ..Grants::default() }, |_, view, plan| {
            plan.ping(&view.peers().take(10));
            plan.ping(&view.peers().take(1));
            Ok(())
        })
    };
    let peers = |rig: &mut Rig| (1..=10).for_each(|n| _ = rig.peer(n));
    let (ask_outcomes, did_apply) = recorded(pinger("pinger"), "ping", peers).await;
    assert_eq!(ask_outcomes, [AskOutcome::Partial { granted: 4 }, AskOutcome::Refused]);
    assert_eq!(did_apply, 4, "what-if counts the peers that were pinged");
    let (ask_outcomes, did_apply) = recorded(in_shadow(pinger("shadow")), "ping", peers).await;
    assert_eq!((ask_outcomes[0], did_apply), (AskOutcome::Shadow, 0), "nothing of it was done");
}

#[tokio::test(start_paused = true)]
async fn a_forget_that_is_granted_in_part_is_not_recorded_as_refused() {
    let forget = Some(ForgetGrant { max_per_tick: 4, min_left: 0 });
    let forgetful = guest("forgetful", Grants { forget, ..Grants::default() }, |_, _, plan| {
        plan.forget_addresses(Duration::ZERO);
        plan.forget_broadcasts(Duration::ZERO);
        Ok(())
    });
    let (ask_outcomes, did_apply) = recorded(forgetful, "forget-addresses", |rig| {
        // Only a connected node hears, so only then do addresses grow older.
        rig.peer(50);
        rig.book.note_hearing(true, Duration::from_secs(60));
        (1..=10).for_each(|n| rig.know(n));
        rig.broadcasts.first_seen([1; 16], rig.clock.coarse());
    })
    .await;
    assert_eq!(ask_outcomes, [AskOutcome::Partial { granted: 4 }, AskOutcome::Refused]);
    assert_eq!(did_apply, 1);
}

#[tokio::test(start_paused = true)]
async fn no_phase_can_forget_a_good_address() {
    let grants = Grants { forget: Some(ForgetGrant { max_per_tick: 64, min_left: 0 }), ..Grants::default() };
    let of_a_guest = guest("forgetful", grants, |_, _, plan| {
        plan.forget_addresses(Duration::ZERO);
        Ok(())
    });
    let of_the_host = closure("forgetful", 1, |_, _, plan| {
        plan.forget_addresses(Duration::ZERO);
        Ok(())
    });
    for spec in [of_a_guest, of_the_host] {
        let mut rig = rig(vec![spec], no_rules());
        rig.peer(50);
        rig.book.note_hearing(true, Duration::from_secs(60));
        (1..=3).for_each(|n| rig.know(n));
        drop(rig.book.connected_guard(address(1)));
        rig.book.learn(address(4), None, AddressSource::Bootstrap);
        assert_eq!(rig.tick().await.tally.addresses_forgotten, 2);
        let second = rig.tick().await.tally;
        assert_eq!((second.addresses_forgotten, second.refused, rig.book.len()), (0, 1, 2));
        let words = refusals(&rig, "forgetful", ActionKind::ForgetAddresses);
        assert_eq!(words, ["every address of that age is among the last 64 good ones, which stay"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_restart_gives_a_guest_no_further_disconnects_within_the_hour() {
    let phases = || vec![drops_everyone("greedy", disconnects(2, 3, 0))];
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let start = |kept: &Kept| {
        let options = Options { executor: Executor::Inline, guests: no_rules(), ..Options::default() };
        let rig = Rig::with(Arc::clone(&clock), phases(), INTERVAL, kept, options);
        (1..=10).for_each(|n| _ = rig.peer(n));
        rig
    };
    let dropped =
        |reports: &[Arc<BeatReport>]| -> u32 { reports.iter().map(|report| report.tally.disconnected).sum() };
    let mut rig = start(&Kept::default());
    assert_eq!(dropped(&rig.ticks(4).await), 3);
    let kept = rig.stop().await;
    // Neither does a clock that says that an hour has passed, nor one that went back.
    for step_ms in [3_600_000 * 5, -3_600_000 * 50] {
        clock.step_wall(step_ms);
        let mut rig = start(&kept);
        assert_eq!(dropped(&rig.ticks(20).await), 0);
        assert!(refusals(&rig, "greedy", ActionKind::Disconnect)[0].contains("max_per_hour = 3"));
    }
}

fn explorer(dial: Option<DialGrant>) -> PhaseSpec {
    guest("explorer", Grants { book: true, dial, ..Grants::default() }, |_, view, plan| {
        for address in view.book().take(64) {
            plan.dial(address, "explore");
        }
        Ok(())
    })
}

#[tokio::test(start_paused = true)]
async fn dials_are_cut_by_tick_by_room_and_by_back_off() {
    let dial = Some(DialGrant { max_per_tick: 3, ..DialGrant::default() });
    let mut by_tick = rig(vec![explorer(dial)], no_rules());
    (1..=9).for_each(|n| by_tick.know(n));
    assert_eq!(by_tick.tick().await.tally.dialed, 3);
    assert_eq!(refusals(&by_tick, "explorer", ActionKind::Dial), vec!["dial.max_per_tick = 3 is used up"; 6]);

    let dial = Some(DialGrant { max_per_tick: 64, ..DialGrant::default() });
    let thresholds = groundskeeper::cycle::Thresholds { most: 6, ..Default::default() };
    let mut by_room =
        rig_with(vec![explorer(dial)], Options { guests: no_rules(), thresholds, ..Options::default() });
    (1..=4).for_each(|n| _ = by_room.peer(n));
    (11..=19).for_each(|n| by_room.know(n));
    assert_eq!(by_room.tick().await.tally.dialed, 2);
    assert_eq!(by_room.pool.live(), 6);
    assert!(refusals(&by_room, "explorer", ActionKind::Dial)[0].starts_with("pool.most = 6: 6 are live"));

    let mut waiting = rig(vec![explorer(dial)], no_rules());
    waiting.peer(1);
    waiting.network.reachable.store(false, Relaxed);
    waiting.know(20);
    let reports = waiting.ticks(40).await;
    let dials: u32 = reports.iter().map(|report| report.tally.dialed).sum();
    assert!((2..20).contains(&dials), "{dials} dials: back-offs hold for guests");
    assert!(refusals(&waiting, "explorer", ActionKind::Dial)[0].contains("waits for another"));
}

#[tokio::test(start_paused = true)]
async fn what_is_forgotten_is_the_oldest_part_and_leaves_enough() {
    let forgetful = |grant| {
        guest("forgetful", Grants { forget: Some(grant), ..Grants::default() }, |_, _, plan| {
            plan.forget_addresses(Duration::ZERO);
            plan.forget_broadcasts(Duration::ZERO);
            Ok(())
        })
    };
    let grant = ForgetGrant { max_per_tick: 30, min_left: 50 };
    let mut rig = rig(vec![forgetful(grant)], no_rules());
    rig.peer(200);
    rig.book.note_hearing(true, Duration::from_secs(60));
    for n in 0..100 {
        if n % 10 == 0 {
            tokio::time::advance(Duration::from_millis(1500)).await;
        }
        rig.know(n);
        rig.broadcasts.first_seen([n as u8; 16], rig.clock.coarse());
    }
    let tallies: Vec<_> = rig.ticks(4).await.iter().map(|report| report.tally).collect();
    let forgotten: Vec<_> =
        tallies.iter().map(|tally| (tally.addresses_forgotten, tally.broadcasts_forgotten)).collect();
    assert_eq!(forgotten, [(30, 0), (20, 10), (0, 30), (0, 10)], "addresses were asked for first");
    assert_eq!(rig.book.len(), 50);
    assert_eq!(rig.broadcasts.totals(rig.clock.coarse()).held, 50);
    assert!((50..100).all(|n| rig.book.learn(address(n), None, AddressSource::Itself)
        == groundskeeper::book::LearnOutcome::Known));
    let words = refusals(&rig, "forgetful", ActionKind::ForgetAddresses);
    assert!(words.iter().any(|told| told == "forget.max_per_tick = 30 is used up"), "{words:?}");
    assert!(words.iter().any(|told| told == "forget.min_left = 50: the table holds 50"), "{words:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_granted_is_refused_with_the_line_to_add() {
    let everything =
        |_: &groundskeeper_sdk::phase::Tick, view: &groundskeeper_sdk::host::View, plan: &mut Plan| {
            let peer = view.peers().take(1)[0];
            plan.disconnect(peer, "x");
            plan.health(peer, -1, "x");
            plan.ping(&[peer]);
            plan.dial(view.book().take(1)[0], "x");
            plan.protect(peer, Duration::from_secs(1), "x");
            plan.ban(peer, Duration::from_secs(1), "x");
            plan.forget_broadcasts(Duration::from_secs(1));
            plan.again_in(1);
            plan.remember(&Runs(7))?;
            plan.metric_set("speed", 1.0);
            Ok(())
        };
    let mut rig = rig(vec![guest("native", Grants::default(), everything)], no_rules());
    let peer = rig.peer(1);
    rig.know(9);
    rig.broadcasts.first_seen([1; 16], rig.clock.coarse());
    tokio::time::advance(Duration::from_secs(5)).await;
    rig.tick().await;
    let refused = rig.journal.select(usize::MAX, |record| matches!(record.outcome, Outcome::Refused(_)));
    let words: Vec<String> = refused.iter().map(|record| record.outcome.to_string()).collect();
    for grant in
        ["disconnect", "health", "ping", "dial", "protect", "ban", "forget", "cadence", "memory", "metrics"]
    {
        let expected =
            format!("refused: {grant} is not granted; add `{grant} = true` below [grants] in its manifest");
        assert_eq!(words.iter().filter(|told| **told == expected).count(), 1, "{grant}: {words:#?}");
    }
    assert!(!peer.is_closed() && rig.pool.bans() == 0);
    let status = &rig.phases()[0];
    assert_eq!((status.refused.len(), status.metrics.len(), status.runs), (10, 0, 1));
    assert!(rig.stop().await.phases["native"].memory.is_none());
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Runs(u32);

impl Memory for Runs {}

/// A counter in memory, and one number: `runs` goes up by one with each accepted run.
fn counting(name: &str, memory: Option<MemoryGrant>) -> PhaseSpec {
    let grants = Grants { memory, metrics: true, cadence: true, ..Grants::default() };
    guest(name, grants, |_, view, plan| {
        let Runs(runs) = view.memory::<Runs>()?;
        let runs = runs + 1;
        plan.remember(&Runs(runs))?;
        plan.metric_set("runs", runs.into());
        plan.metric_add("total", 1);
        Ok(())
    })
}

#[tokio::test(start_paused = true)]
async fn memory_outlives_a_restart_and_its_cap_is_a_rule() {
    let large = MemoryGrant { max_bytes: 100 };
    let mut first = rig(vec![counting("counter", Some(large))], no_rules());
    first.ticks(3).await;
    let clock = Arc::clone(&first.clock);
    let kept = first.stop().await;
    let options = || Options {
        executor: groundskeeper::engine::Executor::Inline,
        guests: no_rules(),
        ..Options::default()
    };
    let mut second =
        Rig::with(Arc::clone(&clock), vec![counting("counter", Some(large))], INTERVAL, &kept, options());
    second.ticks(2).await;
    let status = &second.phases()[0];
    let runs = status.metrics.iter().find(|metric| metric.name == "runs").unwrap();
    assert_eq!((runs.value, status.runs), (Some(5.0), 2));
    let kept = second.stop().await;

    let tiny = MemoryGrant { max_bytes: 0 };
    let mut third = Rig::with(clock, vec![counting("counter", Some(tiny))], INTERVAL, &kept, options());
    let report = third.tick().await;
    assert_eq!(report.runs[0].result, "rule");
    let status = &third.phases()[0];
    assert!(status.last_error.as_ref().unwrap().contains("memory.store: 1 bytes, at most 0 are allowed"));
    assert_eq!(third.stop().await.phases, kept.phases, "what was there stays");
}

#[tokio::test(start_paused = true)]
async fn in_shadow_everything_is_checked_and_told_and_nothing_is_done() {
    let grants = || Grants {
        disconnect: disconnects(2, 100, 5),
        health: Some(HealthGrant::default()),
        ping: Some(PingGrant::default()),
        dial: Some(DialGrant::default()),
        protect: Some(ProtectGrant::default()),
        ban: Some(BanGrant::default()),
        forget: Some(ForgetGrant { max_per_tick: 64, min_left: 0 }),
        cadence: true,
        memory: Some(MemoryGrant::default()),
        metrics: true,
        ..Grants::default()
    };
    let seen = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&seen);
    let shadow = in_shadow(guest("shadow", grants(), move |_, view, plan| {
        let peers = view.peers().take(64);
        peers[..3].iter().for_each(|peer| plan.disconnect(*peer, "slow"));
        plan.disconnect(peers[0], "twice");
        plan.health(peers[4], -10, "bad");
        plan.ping_matching(view.peers());
        plan.dial(view.book().take(1)[0], "explore");
        plan.protect(peers[5], Duration::from_secs(60), "good");
        plan.forget_broadcasts(Duration::ZERO);
        let runs = view.memory::<Runs>()?.0 + 1;
        counter.store(runs, Relaxed);
        plan.remember(&Runs(runs))?;
        plan.metric_add("runs", 1);
        Ok(())
    }));
    let after = closure("z-after", 1, |_, view, _| {
        assert_eq!(
            (view.totals().connected, view.totals().healthy),
            (9, 9),
            "nobody sees what a shadow would do"
        );
        Ok(())
    });
    // A guest that may do the same is not held back by what the shadow would have done.
    let enforced = drops_everyone("zz", disconnects(1, 100, 5));
    let mut rig = rig(vec![shadow, after, enforced], GuestCeilings { disconnects_per_tick: 2, ..no_rules() });
    let peers: Vec<_> = (1..=9).map(|n| rig.peer(n)).collect();
    rig.know(30);
    rig.broadcasts.first_seen([1; 16], rig.clock.coarse());
    let report = rig.tick().await;
    let run = |name: &str| report.runs.iter().find(|run| &*run.name == name).unwrap();
    let tally = run("shadow").tally;
    assert_eq!((tally.asked, tally.shadow, tally.refused, tally.void), (9, 7, 1, 1));
    assert_eq!((tally.disconnected, tally.pinged, tally.dialed, tally.health_changed), (0, 0, 0, 0));
    assert_eq!((run("z-after").result, run("zz").tally.disconnected), ("ok", 1));
    assert_eq!(peers.iter().filter(|peer| peer.is_closed()).count(), 1);
    assert_eq!(peers.iter().map(|peer| peer.pings.load(Relaxed)).sum::<u32>(), 0);
    assert_eq!((rig.network.dials.lock().len(), rig.broadcasts.totals(rig.clock.coarse()).held), (0, 1));
    let told = asked(&rig, "shadow", ActionKind::Disconnect);
    let outcomes: Vec<String> = told.iter().map(|record| record.outcome.to_string()).collect();
    assert_eq!(
        outcomes,
        [
            "shadow: would have been applied",
            "shadow: would have been applied",
            "refused: disconnect.max_per_tick = 2 is used up",
            "void: the connection had ended already",
        ]
    );
    rig.ticks(2).await;
    let status = rig.phases().iter().find(|phase| &*phase.name == "shadow").cloned().unwrap();
    assert!(status.metrics.iter().all(|metric| metric.shadow && metric.added == Some(3)));
    assert_eq!(seen.load(Relaxed), 3);
    let kept = rig.stop().await.phases;
    assert!(kept["shadow"].memory.is_none() && kept["shadow"].shadow_memory.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_futile_asks_is_told_by_its_number_and_pushes_nothing_out() {
    let flood = guest("flood", Grants::default(), |_, view, plan| {
        let peers = view.peers().take(60);
        (0..4000).for_each(|n| plan.disconnect(peers[n % peers.len()], "flood"));
        Ok(())
    });
    let mut rig = rig(vec![flood], no_rules());
    (1..=60).for_each(|n| _ = rig.peer(n));
    let (notable, chatter) = rig.journal.held();
    let report = rig.tick().await;
    assert_eq!(report.tally.refused, 4000);
    assert_eq!(rig.journal.held(), (notable, chatter + 65));
    let last = asked(&rig, "flood", ActionKind::Disconnect).pop().unwrap();
    assert_eq!((last.count, last.peer), (4000 - 64, None));
}

#[tokio::test(start_paused = true)]
async fn what_is_in_force_above_a_lowered_ceiling_ends() {
    let with = |protect: u32, ban: u32| {
        let grants = Grants {
            peers: true,
            protect: Some(ProtectGrant { max_active: protect, max_duration: Duration::from_secs(86_400) }),
            disconnect: disconnects(100, 100, 0),
            ban: Some(BanGrant { max_active: ban, max_duration: Duration::from_secs(86_400) }),
            ..Grants::default()
        };
        let mut spec = guest("keeper", grants, |tick, view, plan| {
            let peers = view.peers().take(8);
            if tick.number == 1 {
                for (n, peer) in peers.into_iter().enumerate() {
                    let time = Span::hours(1 + n as u64);
                    if n < 4 { plan.protect(peer, time, "mine") } else { plan.ban(peer, time, "not mine") }
                }
            }
            Ok(())
        });
        spec.digest = Some([protect as u8; 32]);
        spec
    };
    let mut rig = rig(vec![with(8, 8)], no_rules());
    let peers: Vec<_> = (1..=8).map(|n| rig.peer(n)).collect();
    rig.tick().await;
    let in_force = |rig: &Rig| {
        let rows = rig.pool.freeze();
        (rows.words().iter().filter(|word| word.protected()).count(), rig.pool.bans())
    };
    assert_eq!(in_force(&rig), (4, 4));
    let put = |spec: PhaseSpec| {
        let handle = rig.handle.clone();
        async move {
            let put = handle.with_cycle(move |cycle| {
                cycle.put(spec, KeptPhase::default(), LastRuns::default(), Standing::Proven)
            });
            put.await.expect("the ticker runs").expect("a good phase");
        }
    };
    put(with(2, 1)).await;
    assert_eq!(in_force(&rig), (2, 1), "what would have lasted longest ends first");
    assert!(rig.pool.freeze().words()[0].protected() && rig.pool.freeze().words()[1].protected());
    let lowered = rig.handle.with_cycle(|cycle| {
        let thresholds = cycle.world().thresholds;
        cycle.set_world(thresholds, GuestCeilings { protected: 1, bans: 0, ..no_rules() });
    });
    lowered.await.expect("the ticker runs");
    assert_eq!(in_force(&rig), (1, 0));
    assert!(rig.handle.with_cycle(|cycle| cycle.take_out("keeper").is_some()).await.unwrap());
    assert_eq!(in_force(&rig), (0, 0));
    let told =
        rig.journal.select(99, |record| record.what == ActionKind::Reload && !record.inputs.is_empty());
    assert_eq!(told.len(), 3, "{told:?}");
    drop(peers);
}
