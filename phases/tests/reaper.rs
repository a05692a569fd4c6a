//! The reaper at its limits: who is pinged, who is dropped, in which order, and who never is.

use groundskeeper_phases::Reaper;
use groundskeeper_sdk::host::Ask;
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::testing::{World, world};
use proptest::prelude::*;

/// Peers with these idle seconds; `None` is not known.
fn idle(seconds: &[Option<u32>]) -> World {
    seconds.iter().fold(world(), |world, idle| {
        world.peer(|p| {
            match idle {
                Some(idle) => p.with(peer::IDLE, Span::secs(u64::from(*idle))),
                None => p.unknown(peer::IDLE),
            };
        })
    })
}

#[test]
fn who_is_pinged_and_who_is_dropped() {
    let ping = "ping-matching idle-s 25..=89\n";
    let table: [(&[Option<u32>], String); 8] = [
        (&[], String::new()),
        (&[Some(0), Some(24), None], String::new()),
        (&[Some(25)], ping.to_owned()),
        (&[Some(89), Some(0)], ping.to_owned()),
        (&[Some(90)], "disconnect-if-silent 0: silent for 90 s (limit 90 s)\n".to_owned()),
        (
            &[Some(90), Some(4000), Some(93), Some(93)],
            "disconnect-if-silent 1: silent for 4000 s (limit 90 s)\n\
             disconnect-if-silent 2: silent for 93 s (limit 90 s)\n\
             disconnect-if-silent 3: silent for 93 s (limit 90 s)\n\
             disconnect-if-silent 0: silent for 90 s (limit 90 s)\n"
                .to_owned(),
        ),
        (&[None, Some(91)], "disconnect-if-silent 1: silent for 91 s (limit 90 s)\n".to_owned()),
        (&[Some(30), Some(91)], format!("disconnect-if-silent 1: silent for 91 s (limit 90 s)\n{ping}")),
    ];
    for (seconds, expected) in table {
        assert_eq!(idle(seconds).run(&Reaper::default()).unwrap(), expected, "{seconds:?}");
    }
}

#[test]
fn a_late_tick_pings_everyone() {
    let world = idle(&[Some(0), Some(1), None]).late();
    assert_eq!(world.run(&Reaper::default()).unwrap(), "ping-matching all\n");
    assert_eq!(idle(&[]).late().run(&Reaper::default()).unwrap(), "");
}

#[test]
fn limits_between_seconds_round_up_and_say_so() {
    let reaper =
        Reaper { stale_after: Span::millis(2_500), ping_after: Span::millis(1_500), ..Reaper::default() };
    let text = idle(&[Some(1), Some(2), Some(3)]).run(&reaper).unwrap();
    assert_eq!(text, "disconnect-if-silent 2: silent for 3 s (limit 3 s)\nping-matching idle-s 2..=2\n");
}

/// A full plan must not end the run: then nobody would ever be dropped.
#[test]
fn more_stale_peers_than_a_plan_holds_are_dropped_over_several_runs() {
    let mut seconds = vec![Some(100); 5_000];
    seconds.push(Some(30));
    let parts = idle(&seconds).plan(&Reaper::default()).unwrap();
    assert_eq!(parts.asks.len(), 4_096);
    assert_eq!(parts.asks.iter().filter(|ask| ask.kind() == "disconnect-if-silent").count(), 4_095);
    assert_eq!(parts.asks.last().map(Ask::kind), Some("ping-matching"));
}

#[test]
fn settings_out_of_range_are_named() {
    let table = [
        ("{}", ""),
        (r#"{"ping_after": "0s"}"#, "ping_after = 0s is out of range: 1s to 1h"),
        (r#"{"ping_after": "2h", "stale_after": "3h"}"#, "ping_after = 2h is out of range: 1s to 1h"),
        (r#"{"stale_after": "2d"}"#, "stale_after = 2d is out of range: 2s to 1d"),
        (r#"{"max_per_run": 0}"#, "max_per_run = 0 is out of range: 1 to 4096"),
        (r#"{"max_per_run": 4097}"#, "max_per_run = 4097 is out of range: 1 to 4096"),
        (
            r#"{"ping_after": "90s"}"#,
            "ping_after = 90s is not below stale_after = 90s: nobody would be pinged before being dropped",
        ),
    ];
    for (json, expected) in table {
        let reaper: Reaper = serde_json::from_str(json).unwrap();
        assert_eq!(Phase::check(&reaper).err().unwrap_or_default(), expected, "{json}");
    }
    assert!(serde_json::from_str::<Reaper>(r#"{"stale": "90s"}"#).is_err(), "unknown settings are refused");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_drops_exactly_the_stale_longest_first(
        seconds in prop::collection::vec(prop::option::of(0u32..200), 0..60),
        stale in 26u32..150,
        max_per_run in 1u32..80,
        late: bool,
    ) {
        let reaper = Reaper { stale_after: Span::secs(stale.into()), max_per_run, ..Reaper::default() };
        let world = idle(&seconds).tick(|tick| tick.late = late);
        let parts = world.plan(&reaper).unwrap();
        let dropped: Vec<u32> = parts.asks.iter().filter_map(|ask| match ask {
            Ask::DisconnectIfSilent { peer, .. } => Some(*peer),
            _ => None,
        }).collect();

        let mut expected: Vec<u32> =
            (0..seconds.len() as u32).filter(|row| seconds[*row as usize].is_some_and(|s| s >= stale)).collect();
        expected.sort_by_key(|row| std::cmp::Reverse(seconds[*row as usize]));
        expected.truncate(max_per_run as usize);
        prop_assert_eq!(dropped, expected);

        let quiet = seconds.iter().flatten().any(|s| (25..stale).contains(s));
        let pings = parts.asks.iter().filter(|ask| ask.kind() == "ping-matching").count();
        prop_assert_eq!(pings, usize::from(if late { !seconds.is_empty() } else { quiet }));
    }
}
