//! The four built-in phases in configs and in manifests: their schedules and the checks of their settings.

use groundskeeper_engine::schedule::Schedule;
use groundskeeper_engine::{BUILTINS, BuiltInPhases, Settings};
use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use serde_json::Value;

use super::document::Document;

/// The schedules of the built-in phases, in the order in which the phases run.
pub(super) fn schedules(of: &BuiltInPhases) -> [&Schedule; BUILTINS.len()] {
    [
        &of.reaper.schedule,
        &of.reconnect.schedule,
        &of.broadcast_cleanup.schedule,
        &of.exchange_cleanup.schedule,
    ]
}

/// Checks the table `settings` in a manifest of the built-in phase `name`.
pub(super) fn check_file(document: &mut Document<'_>, name: &str) {
    match name {
        "reaper" => read_and_check::<Reaper>(document),
        "reconnect" => read_and_check::<Reconnect>(document),
        "broadcast-cleanup" => read_and_check::<BroadcastCleanup>(document),
        "exchange-cleanup" => read_and_check::<ExchangeCleanup>(document),
        _ => {}
    }
}

fn read_and_check<S: Settings>(document: &mut Document<'_>) {
    let settings: S = document.read("settings", &[]);
    check(document, "settings", &settings);
}

/// Reports every mistake in the settings at `table`. A phase's own check reports only one mistake at a time, so each
/// wrong key is reset to its default until the rest passes.
pub(super) fn check<S: Settings>(document: &mut Document<'_>, table: &str, settings: &S) {
    let usual = serde_json::to_value(S::default()).expect("settings are plain data");
    let mut tried = serde_json::to_value(settings).expect("settings are plain data");
    while let Err(message) = checked::<S>(&tried) {
        let culprit = keys(&usual).find_map(|key| {
            let mut repaired = tried.clone();
            repaired[&key] = usual[&key].clone();
            let cured = repaired != tried && checked::<S>(&repaired).err().as_ref() != Some(&message);
            cured.then_some((key, repaired))
        });
        match culprit {
            Some((key, repaired)) => {
                document.report_at(&format!("{table}.{key}"), message, None);
                tried = repaired;
            }
            None => {
                document.report_at(table, message, None);
                break;
            }
        }
    }
}

fn checked<S: Settings>(settings: &Value) -> Result<(), String> {
    serde_json::from_value::<S>(settings.clone()).map_err(|error| error.to_string())?.check()
}

fn keys(of: &Value) -> impl Iterator<Item = String> + '_ {
    of.as_object().into_iter().flatten().map(|(key, _)| key.clone())
}
