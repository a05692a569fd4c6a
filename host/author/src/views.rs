//! Random views with difficult values on purpose: ties, unknown values, thresholds and their neighbours.

use groundskeeper_sdk::column::{address, peer};
use groundskeeper_sdk::rng::Rng;
use groundskeeper_sdk::span::Span;
use serde_json::{Map, Value, json};

/// Maximum number of peers, and of addresses, in one view.
const ROWS: u64 = 60;

/// A random view as a fixture, the same for the same seed. Values near thresholds in `settings` are frequent.
pub fn random(seed: u64, settings: &Value) -> Value {
    let mut rng = Rng::new(seed);
    let mut hints = vec![1, 30];
    thresholds("", settings, &mut hints);
    let mut rows = |columns: &[&str]| -> Vec<Value> {
        // An empty table now and then; few tables are almost empty.
        let rows = if rng.below(32) == 0 { rng.below(4) } else { 8 + rng.below(ROWS - 8) };
        (0..rows).map(|at| row(&mut rng, columns, at, &hints)).collect()
    };
    let (peers, book) = (rows(peer::COLUMNS), rows(address::COLUMNS));
    let least = rng.below(10);
    json!({
        "peers": peers,
        "book": book,
        "totals": { "dialing": rng.below(4), "least": least, "most": ROWS + rng.below(ROWS) },
        "broadcasts": {
            "held": 1 + rng.below(1000), "oldest-s": 2 + rng.below(600), "in-window": rng.below(200),
            "window-s": rng.below(60),
        },
        "tick": {
            "number": 1 + rng.below(100_000), "since-last-s": rng.below(3600), "missed": rng.below(3),
            "late": rng.below(4) == 0, "unix-s": 1_700_000_000 + rng.below(100_000_000),
            "seed": [rng.bits() as u32, rng.bits() as u32],
        },
    })
}

fn row(rng: &mut Rng, columns: &[&str], at: u64, hints: &[u32]) -> Value {
    let mut row = Map::new();
    for column in columns {
        let value = match *column {
            // Each number is used once.
            "conn" => at * 3 + 1,
            // Few groups, so that each has several members.
            "group" => rng.below(5),
            "inbound" | "protected" => rng.below(2),
            "pings-lost" | "failures" => rng.below(5),
            "health" => [0, 10, 29, 30, 31, 50, 99, 100][rng.below(8) as usize],
            // Half of an address book may be dialled.
            "wait-s" if rng.below(2) == 0 => 0,
            _ if rng.below(8) == 0 => {
                row.insert((*column).to_owned(), Value::Null);
                continue;
            }
            _ => near(rng, hints).into(),
        };
        row.insert((*column).to_owned(), value.into());
    }
    row.into()
}

/// A threshold, its neighbours, or a value up to twice as large.
fn near(rng: &mut Rng, hints: &[u32]) -> u32 {
    let hint = hints[rng.below(hints.len() as u64) as usize];
    match rng.below(6) {
        0 => hint,
        1 => hint.saturating_add(1),
        2 => hint.saturating_sub(1),
        3 => 0,
        _ => rng.below(u64::from(hint).saturating_mul(2).saturating_add(1)).min(u32::MAX.into()) as u32,
    }
}

/// Every number in the settings. Times are in seconds and in microseconds, the units of columns. A time is a text like
/// "500ms", or a number with its unit at the end of the key, like `rtt_over_ms`.
fn thresholds(key: &str, settings: &Value, found: &mut Vec<u32>) {
    let mut add = |number: u64| found.extend(u32::try_from(number).ok().filter(|number| *number > 0));
    let mut add_time = |text: &str| {
        if let Ok(span) = text.parse::<Span>() {
            add(span.as_secs().into());
            add(span.as_micros());
        }
    };
    match settings {
        Value::Number(number) => {
            if let Some((_, unit)) = key.rsplit_once(['_', '-']) {
                add_time(&format!("{number}{unit}"));
            }
            number.as_u64().into_iter().for_each(add);
        }
        Value::String(text) => add_time(text),
        Value::Array(values) => values.iter().for_each(|value| thresholds(key, value, found)),
        Value::Object(values) => values.iter().for_each(|(key, value)| thresholds(key, value, found)),
        Value::Null | Value::Bool(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_threshold_in_the_units_of_columns_however_it_is_written() {
        for settings in [json!({ "rtt_over": "500ms" }), json!({ "rtt_over_ms": 500 })] {
            let mut found = Vec::new();
            thresholds("", &settings, &mut found);
            assert!(found.contains(&500_000), "{settings}: {found:?}");
        }
        let mut found = Vec::new();
        thresholds("", &json!({ "settle_s": 120, "keep": 8, "of": { "lost": [2] } }), &mut found);
        found.sort_unstable();
        assert_eq!(found, [2, 8, 120, 120, 120_000_000]);
    }
}
