//! Checks which keys of `[performance]` contradict each other, and the tables of request kinds.

use groundskeeper_base::units::span;
use groundskeeper_flow::{Performance, TimeoutSettings};

use super::bounds;

/// Maximum number of request kinds with their own table.
const MOST_KINDS: usize = 64;

/// Maximum bytes of a request kind's name.
const MOST_NAME: usize = 64;

/// Calls `wrong` with the key and a message for each problem of the section, except ranges that are checked elsewhere.
pub(super) fn check(written: &Performance, mut wrong: impl FnMut(&str, String)) {
    if !written.enable_lock_free {
        let words = "must be true: marking peers, choosing peers for requests and counting never take a lock; leave the key out";
        wrong("performance.enable_lock_free", words.to_owned());
    }
    let (first_wait, longest_wait) = (span(written.retry.first_wait), span(written.retry.longest_wait));
    if first_wait > longest_wait {
        let words = format!("first_wait = {first_wait} is above longest_wait = {longest_wait}");
        wrong("performance.retry.first_wait", words);
    }
    if written.timeouts.len() > MOST_KINDS {
        let words =
            format!("{} kinds have their own time-outs; at most {MOST_KINDS} may", written.timeouts.len());
        wrong("performance.timeouts", words);
    }
    for (kind, timeout) in &written.timeouts {
        let table = format!("performance.timeouts.{kind}");
        let (base_timeout, max_timeout) = (span(timeout.base), span(timeout.most));
        if kind.is_empty() || kind.len() > MOST_NAME {
            wrong(&table, format!("request kind {kind:?} is not 1 to {MOST_NAME} bytes long"));
        }
        if base_timeout > max_timeout {
            let words = format!("base_timeout = {base_timeout} is above max_timeout = {max_timeout}");
            wrong(&format!("{table}.base_timeout"), words);
        }
        if let Some(least) = timeout.least.map(span).filter(|least| *least > base_timeout) {
            let words = format!("min_timeout = {least} is above base_timeout = {base_timeout}");
            wrong(&format!("{table}.min_timeout"), words);
        }
        if kind != Performance::ALL_KINDS {
            let values = serde_json::to_value(timeout).expect("settings are plain data");
            for (key, value, bound) in bounds::outside(&TimeoutSettings::BOUNDS, &values) {
                wrong(&format!("{table}.{key}"), format!("{value} is out of range: {bound}"));
            }
        }
    }
}
