//! The ranges of all keys, collected from the sections. The check, the JSON schema and a test of the comments in the
//! example config use them. Phases check their own settings.

use groundskeeper_base::bounds::Bound;
use groundskeeper_engine::BUILTINS;
use groundskeeper_engine::policy::HostOnFailure;
use groundskeeper_engine::schedule::MOST_TICKS;
use groundskeeper_flow::{
    Backpressure, BreakerSettings, NetSettings, Performance, RetrySettings, TimeoutSettings,
};
use groundskeeper_pool::book::BookLimits;
use groundskeeper_pool::broadcasts::BroadcastLimits;
use groundskeeper_pool::settings::{JournalSettings, PoolSettings};
use serde_json::Value;

use super::{GuestSettings, NodeSettings, ShutdownSettings};

/// Every key of the config that has a range, with its range.
pub(super) fn all() -> Vec<(String, Bound)> {
    let timeouts = format!("performance.timeouts.{}", Performance::ALL_KINDS);
    let sections: [(&str, &[(&str, Bound)]); 12] = [
        ("node", &NodeSettings::BOUNDS),
        ("pool", &PoolSettings::BOUNDS),
        ("net", &NetSettings::BOUNDS),
        ("book", &BookLimits::BOUNDS),
        ("broadcasts", &BroadcastLimits::BOUNDS),
        ("journal", &JournalSettings::BOUNDS),
        ("performance.backpressure", &Backpressure::BOUNDS),
        ("performance.circuit_breaker", &BreakerSettings::BOUNDS),
        ("performance.retry", &RetrySettings::BOUNDS),
        (&timeouts, &TimeoutSettings::BOUNDS),
        ("guests", &GuestSettings::BOUNDS),
        ("shutdown", &ShutdownSettings::BOUNDS),
    ];
    let of_sections = sections.iter().flat_map(|(section, bounds)| {
        bounds.iter().map(move |(key, bound)| (format!("{section}.{key}"), *bound))
    });
    let offset = |name| (format!("phases.{name}.schedule.offset"), Bound::Count(0, MOST_TICKS));
    let breaker =
        |name| HostOnFailure::BOUNDS.map(|(key, bound)| (format!("phases.{name}.on_failure.{key}"), bound));
    of_sections.chain(BUILTINS.map(offset)).chain(BUILTINS.into_iter().flat_map(breaker)).collect()
}

/// Whether a value, as written, is in the range. True for values of another type, which are reported elsewhere.
fn holds(bound: Bound, value: &Value) -> bool {
    match bound {
        Bound::Count(least, most) => value.as_u64().is_none_or(|n| (least..=most).contains(&n)),
        Bound::Time(least, most) => inside(value, least, most),
        Bound::Size(least, most) => inside(value, least, most),
        Bound::Fraction(least, most) => value.as_f64().is_none_or(|part| (least..=most).contains(&part)),
    }
}

fn inside<T: PartialOrd + std::str::FromStr>(value: &Value, least: T, most: T) -> bool {
    value.as_str().and_then(|text| text.parse().ok()).is_none_or(|value| least <= value && value <= most)
}

/// Every key of `written` (a whole table as JSON) with a value out of range: key, value and range.
pub(super) fn outside<'a, K: AsRef<str>>(
    bounds: &'a [(K, Bound)],
    written: &'a Value,
) -> impl Iterator<Item = (&'a str, String, Bound)> + 'a {
    bounds.iter().filter_map(move |(key, bound)| {
        let key = key.as_ref();
        let value = key.split('.').try_fold(written, |value, name| value.get(name))?;
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (!holds(*bound, value)).then_some((key, shown, *bound))
    })
}
