//! Both cleanups at their thresholds, and the defaults of all four phases.

use std::fmt::Debug;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::host::BroadcastTotals;
use groundskeeper_sdk::prelude::*;
use groundskeeper_sdk::serde::de::DeserializeOwned;
use groundskeeper_sdk::testing::world;

#[test]
fn broadcasts_are_forgotten_when_the_oldest_is_too_old() {
    for (held, oldest_s, expected) in [
        (0, 0, ""),
        (0, 301, ""),
        (9, 0, ""),
        (9, 300, ""),
        (9, 301, "forget-broadcasts 5m\n"),
        (1, u32::MAX, "forget-broadcasts 5m\n"),
    ] {
        let world = world().broadcasts(BroadcastTotals { held, oldest_s, ..BroadcastTotals::default() });
        assert_eq!(world.run(&BroadcastCleanup::default()).unwrap(), expected, "{held} held, {oldest_s} s");
    }
}

#[test]
fn addresses_are_forgotten_when_one_is_too_old() {
    let week = 7 * 86_400;
    for (heard, expected) in [
        (vec![], ""),
        (vec![Some(0), Some(week)], ""),
        (vec![None], ""),
        (vec![Some(0), Some(week + 1)], "forget-addresses 7d\n"),
        (vec![Some(week + 1), Some(week + 9), None], "forget-addresses 7d\n"),
    ] {
        let world = heard.iter().fold(world(), |world, heard| {
            world.address(|a| {
                match heard {
                    Some(heard) => a.with(address::HEARD, Span::secs(*heard)),
                    None => a.unknown(address::HEARD),
                };
            })
        });
        assert_eq!(world.run(&ExchangeCleanup::default()).unwrap(), expected, "{heard:?}");
    }
}

#[test]
fn the_last_good_addresses_are_not_asked_for() {
    let week = 7 * 86_400;
    // Addresses that were reached, and whether an old one was never reached.
    for (good, stranger, expected) in [
        (1, false, ""),
        (64, false, ""),
        (65, false, "forget-addresses 7d\n"),
        (3, true, "forget-addresses 7d\n"),
    ] {
        let mut world = (0..good).fold(world(), |world, n| {
            world.address(|a| {
                _ = a.with(address::HEARD, Span::secs(week + 9)).with(address::REACHED, Span::secs(week + n))
            })
        });
        if stranger {
            world =
                world.address(|a| _ = a.with(address::HEARD, Span::secs(week + 9)).unknown(address::REACHED));
        }
        assert_eq!(world.run(&ExchangeCleanup::default()).unwrap(), expected, "{good} good, {stranger}");
    }
}

#[test]
fn settings_out_of_range_are_named() {
    let broadcasts: BroadcastCleanup = serde_json::from_str(r#"{"forget_after": "500ms"}"#).unwrap();
    assert_eq!(Phase::check(&broadcasts).unwrap_err(), "forget_after = 500ms is out of range: 1s to 1d");
    let exchange: ExchangeCleanup = serde_json::from_str(r#"{"forget_after": "366d"}"#).unwrap();
    assert_eq!(Phase::check(&exchange).unwrap_err(), "forget_after = 366d is out of range: 1s to 365d");
}

/// A change of a default is a change for every operator.
#[test]
fn defaults_are_valid_read_back_and_stay() {
    fn json<P: Phase + Default + Serialize + DeserializeOwned + PartialEq + Debug>() -> String {
        let phase = P::default();
        phase.check().unwrap();
        assert_eq!(serde_json::from_str::<P>("{}").unwrap(), phase, "an empty table is the default");
        let json = serde_json::to_string(&phase).unwrap();
        assert_eq!(serde_json::from_str::<P>(&json).unwrap(), phase);
        json
    }
    assert_eq!(json::<Reaper>(), r#"{"ping_after":"25s","stale_after":"90s","max_per_run":4096}"#);
    assert_eq!(json::<Reconnect>(), r#"{"target":8,"max_dials":8}"#);
    assert_eq!(json::<BroadcastCleanup>(), r#"{"forget_after":"5m"}"#);
    assert_eq!(json::<ExchangeCleanup>(), r#"{"forget_after":"7d"}"#);
}
