//! The rules about asking, remembering and measuring, at their edges; and how a breach ends a run.

use groundskeeper_sdk::column::Column;
use groundskeeper_sdk::host::{
    AnyPhase, Ask, BroadcastTotals, Frozen, Metric, MetricChange, Name, NativeExit, RuleBroken, Saved, Table,
    clean, guard,
};
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::testing::{NoPlan, RowMut, World, world};

/// A phase made of a function, for tests.
struct Does(Act);

type Act = fn(&Tick, &View, &mut Plan) -> Result;

fn nothing() -> Act {
    |_, _, _| Ok(())
}

impl Phase for Does {
    const SUMMARY: &'static str = "does as told";

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        (self.0)(now, view, plan)
    }
}

fn same(_: &mut RowMut<'_, Peer>) {}

fn two_peers_one_address() -> World {
    world().peer(same).peer(same).address(|_| {})
}

fn broken(act: Act) -> String {
    match two_peers_one_address().run(&Does(act)) {
        Err(NoPlan::Broke(broken)) => broken.to_string(),
        other => panic!("expected a broken rule, got {other:?}"),
    }
}

#[test]
fn every_ask_is_one_line() {
    let text = two_peers_one_address().run(&Does(|_, view, plan| {
        let peers = view.peers().take(9);
        let [a, b] = peers[..] else { panic!("two peers") };
        let first = view.book().take(1)[0];
        plan.disconnect(a, "slow");
        plan.disconnect_if_silent(b, "silent for 93 s");
        plan.health(a, -10, "late");
        plan.ping(&[a, b]);
        plan.ping(&[]);
        plan.ping_matching(
            view.peers().at_least(peer::IDLE, Span::secs(25)).under(peer::IDLE, Span::secs(90)),
        );
        plan.ping_matching(view.peers().over(peer::RTT, Span::secs(1)).is(peer::INBOUND, true));
        plan.ping_matching(view.peers());
        plan.dial(first, "3 connected, want 8");
        plan.probe(first);
        plan.protect(b, Span::millis(59_001), "old friend");
        plan.ban(a, std::time::Duration::from_secs(3600), "rude\nvery");
        plan.forget_broadcasts(Span::mins(5));
        plan.forget_addresses(Span::days(7));
        plan.again_in(2);
        Ok(())
    }));
    let expected = "\
disconnect 0: slow
disconnect-if-silent 1: silent for 93 s
health 0 -10: late
ping 0 1
ping-matching idle-s 25..=89
ping-matching rtt-us 1000001.., inbound 1..=1
ping-matching all
dial 0: 3 connected, want 8
probe 0
protect 1 for 1m: old friend
ban 0 for 1h: rude very
forget-broadcasts 5m
forget-addresses 7d
again-in 2
";
    assert_eq!(text.unwrap(), expected);
}

#[test]
fn rules_of_asking_name_the_call_and_the_rule() {
    let reason = broken(|_, view, plan| {
        plan.disconnect(view.peers().take(1)[0], "");
        Ok(())
    });
    assert_eq!(reason, "disconnect.ask: a reason of 0 bytes is not within 1 to 200");
    let reason = broken(|_, view, plan| {
        plan.disconnect_if_silent(view.peers().take(1)[0], "é".repeat(100));
        plan.disconnect_if_silent(view.peers().take(1)[0], "é".repeat(100) + "x");
        Ok(())
    });
    assert_eq!(reason, "disconnect.ask-if-silent: a reason of 201 bytes is not within 1 to 200");
    let zero = broken(|_, _, plan| {
        plan.again_in(0);
        Ok(())
    });
    assert_eq!(zero, "cadence.again-in: 0 ticks; again-in takes 1 or more");
    let full = broken(|_, view, plan| {
        let first = view.book().take(1)[0];
        (0..4_097).for_each(|_| plan.probe(first));
        Ok(())
    });
    assert_eq!(full, "dial.probe: one ask more than 4096");
    let column = broken(|_, view, plan| {
        const NEWER: Column<Peer, groundskeeper_sdk::column::Count> = Column::new("newer");
        assert!(!view.knows(NEWER));
        plan.ping_matching(view.peers().known(NEWER));
        Ok(())
    });
    assert!(
        column.starts_with("ping.matching: no column \"newer\"; this host knows conn, idle-s"),
        "{column}"
    );
    let limit = broken(|_, view, _| {
        view.peers().take(16_385);
        Ok(())
    });
    assert_eq!(limit, "peers.select: limit 16385 is not within 1 to 16384");
}

#[test]
fn a_row_of_another_run_is_refused() {
    let mut plan = groundskeeper_sdk::host::Plan::within(2, 1);
    let refused = |result: Result<(), RuleBroken>| result.unwrap_err().rule;
    let rule = |row: u32, rows: u32| format!("row {row} of {rows}; keep no row beyond its run");
    assert_eq!(refused(plan.push(Ask::Disconnect { peer: 2, reason: "x".into() })), rule(2, 2));
    assert_eq!(refused(plan.push(Ask::Ping { peers: vec![0, 7] })), rule(7, 2));
    assert_eq!(refused(plan.push(Ask::Probe { address: 1 })), rule(1, 1));
    assert_eq!(
        refused(plan.push(Ask::Ping { peers: vec![0; 16_385] })),
        "16385 rows in one run are more than 16384; use ping_matching"
    );
    assert!(plan.push(Ask::Ping { peers: vec![1; 16_000] }).is_ok());
    assert!(plan.push(Ask::Ping { peers: vec![1; 384] }).is_ok());
    assert_eq!(
        refused(plan.push(Ask::Ping { peers: vec![0] })),
        "16385 rows in one run are more than 16384; use ping_matching"
    );
    assert_eq!(plan.asks().len(), 2, "a refused ask leaves the plan as it was");

    let far = two_peers_one_address().view().peers().take(2)[1];
    let alone = world().peer(same).view();
    for (call, outcome) in [
        ("peers.facts", guard(|| alone.fact(far, peer::RTT).is_some())),
        ("peers.names", guard(|| alone.names(&[far]).is_empty())),
    ] {
        match outcome {
            Err(NativeExit::Rule(broken)) => assert_eq!((broken.call, broken.rule), (call, rule(1, 1))),
            other => panic!("expected a broken rule, got {other:?}"),
        }
    }
}

#[test]
fn metrics_sum_replace_and_stay_few() {
    let parts = world()
        .plan(&Does(|_, _, plan| {
            plan.metric_add("seen", 2);
            plan.metric_add("seen", u32::MAX);
            plan.metric_set("share_2", 0.5);
            plan.metric_set("share_2", 0.25);
            Ok(())
        }))
        .unwrap();
    let expected = [
        Metric { name: "seen".into(), change: MetricChange::Add(u32::MAX) },
        Metric { name: "share_2".into(), change: MetricChange::Set(0.25) },
    ];
    assert_eq!(parts.metrics, expected);

    let mut plan = groundskeeper_sdk::host::Plan::new();
    let long = "a".repeat(41);
    for name in ["", "Upper", "a-b", "é", &long] {
        assert!(
            plan.metric(name, MetricChange::Add(1)).unwrap_err().rule.contains("1 to 40 of a-z 0-9 _"),
            "{name}"
        );
    }
    for n in 0..16 {
        plan.metric(&format!("m{n}"), MetricChange::Add(1)).unwrap();
    }
    assert_eq!(
        plan.metric("m16", MetricChange::Set(1.0)).unwrap_err().to_string(),
        "metrics.set: \"m16\" is one name more than 16"
    );
    assert_eq!(
        plan.metric("m0", MetricChange::Set(1.0)).unwrap_err().rule,
        "\"m0\" is both added to and set"
    );
}

#[derive(Serialize, Deserialize, Default, PartialEq, Debug)]
#[serde(crate = "groundskeeper_sdk::serde")]
struct Seen {
    runs: u32,
}

impl Memory for Seen {
    const VERSION: u32 = 2;

    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self> {
        match (version, bytes) {
            (1, &[runs]) => Ok(Seen { runs: runs.into() }),
            _ => Err(Failure::permanent("from the future")),
        }
    }
}

const COUNTS: Act = |_, view, plan| {
    let seen: Seen = view.memory()?;
    plan.remember(&Seen { runs: seen.runs + 1 })
};

#[test]
fn memory_goes_round_and_is_upgraded() {
    let runs = |world: World| world.plan(&Does(COUNTS)).map(|parts| parts.memory.unwrap());
    let first = runs(world()).unwrap();
    assert_eq!(first, Saved { version: 2, bytes: b"{\"runs\":1}".to_vec() });
    assert_eq!(runs(world().saved(first)).unwrap().bytes, b"{\"runs\":2}");
    assert_eq!(runs(world().memory(&Seen { runs: 8 })).unwrap().bytes, b"{\"runs\":9}");
    assert_eq!(runs(world().saved(Saved { version: 1, bytes: vec![41] })).unwrap().bytes, b"{\"runs\":42}");
    let newer = runs(world().saved(Saved { version: 3, bytes: vec![] })).unwrap_err();
    assert_eq!(newer, NoPlan::Failed(Failure::permanent("from the future")));
    let torn = runs(world().saved(Saved { version: 2, bytes: b"{\"ru".to_vec() })).unwrap_err();
    assert!(
        matches!(&torn, NoPlan::Failed(Failure::Permanent(text)) if text.starts_with("memory: version 2 does not read"))
    );
}

#[derive(Serialize, Deserialize, Default, Debug)]
#[serde(crate = "groundskeeper_sdk::serde")]
struct Plain;

impl Memory for Plain {}

#[test]
fn without_an_upgrade_both_versions_are_named() {
    let world = world().saved(Saved { version: 7, bytes: vec![] });
    let text = world.view().memory::<Plain>().unwrap_err().to_string();
    assert!(
        text.contains("version 7") && text.contains("reads version 1") && text.contains("upgrade"),
        "{text}"
    );
}

#[test]
fn errors_become_transient_with_their_sources() {
    let failed = world().run(&Does(|_, _, _| {
        "x".parse::<u32>()?;
        Ok(())
    }));
    assert_eq!(failed.unwrap_err(), NoPlan::Failed(Failure::transient("invalid digit found in string")));
}

#[test]
fn a_guard_tells_a_panic_from_a_breach() {
    let old = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let outcome = guard(|| panic!("boom {}", 1));
    std::panic::set_hook(old);
    assert!(matches!(outcome, Err(NativeExit::Panic(text)) if text == "boom 1"));
    assert!(matches!(guard(|| 5), Ok(5)));
}

#[test]
fn text_is_cleaned_and_never_grows() {
    assert_eq!(clean("a\u{1b}[31m\r\nb\u{202e}c\u{85}d"), "a [31m  b c d");
    assert!(matches!(clean("plain – text"), std::borrow::Cow::Borrowed(_)));
    let parts = world().plan(&Does(|_, _, plan| {
        plan.log(Level::Info, "one\ntwo");
        Ok(())
    }));
    assert_eq!(parts.unwrap().log[0].text, "one two");
}

#[test]
fn a_view_reads_what_the_world_says() {
    let world = two_peers_one_address()
        .peer(|p| {
            p.with(peer::INBOUND, true).with(peer::HEALTH, 30).unknown(peer::RTT);
            p.named(Name { id: "k".into(), address: "[::1]:1".into(), agent: String::new() });
        })
        .totals(|totals| totals.dialing = 4)
        .broadcasts(BroadcastTotals { held: 3, oldest_s: 9, in_window: 1, window_s: 2 });
    let view = world.view();
    let totals = view.totals();
    assert_eq!((totals.connected, totals.inbound, totals.dialing, totals.healthy), (3, 1, 4, 2));
    assert_eq!((totals.least, totals.most), (5, 64));
    assert_eq!(view.broadcasts().oldest_s, 9);
    let all: Vec<_> = view.rows::<Peer>().collect();
    assert_eq!(all, view.peers().take(9));
    assert_eq!(view.facts(&all, (peer::HEALTH, peer::RTT))[1..], [[100, 50_000], [30, UNKNOWN]]);
    assert_eq!(view.facts(&all[..1], [peer::IDLE, peer::AGE]), [[0, 3_600]]);
    assert_eq!((view.fact(all[2], peer::RTT), view.fact(all[2], peer::HEALTH)), (None, Some(30)));
    assert_eq!(view.names(&all)[2].address, "[::1]:1");
    assert_eq!(view.column(peer::INBOUND).as_ref(), [0, 0, 1]);
    assert_eq!(view.peers().most(peer::RTT).take(0), []);
    assert_eq!(world.columns(Table::Book), groundskeeper_sdk::column::address::COLUMNS);
}

#[test]
fn phases_of_all_kinds_fit_one_list() {
    let phases: Vec<Box<dyn AnyPhase>> = vec![Box::new(Does(nothing()))];
    let mut plan = groundskeeper_sdk::host::Plan::new();
    assert_eq!(phases[0].summary(), "does as told");
    phases[0].check().unwrap();
    phases[0].run(&Tick::default(), &world().view(), &mut plan).unwrap();
    assert!(plan.into_parts().asks.is_empty());
}
