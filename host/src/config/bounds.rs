//! The range of every key that has one; phases check their own settings. The check, the JSON schema and a test of the
//! shipped file's comments read it here.

use std::fmt;

use groundskeeper_sdk::span::Span;
use serde_json::Value;

use super::bytes::Bytes;

/// What a key's value may be, both ends included.
#[derive(Clone, Copy, Debug)]
pub(super) enum Bound {
    Time(Span, Span),
    Size(Bytes, Bytes),
    Count(u64, u64),
    Fraction(f64, f64),
}

use Bound::{Count, Fraction, Size, Time};

/// A connection that is worth a slot costs about 10 KiB: a million is where one machine ends.
pub(super) const MOST_CONNECTIONS: u64 = 1_000_000;

pub(super) const BOUNDS: [(&str, Bound); 50] = [
    ("node.interval", Time(Span::millis(100), Span::hours(1))),
    ("pool.max_connections", Count(1, MOST_CONNECTIONS)),
    ("pool.max_inbound", Count(0, MOST_CONNECTIONS)),
    ("pool.max_outbound", Count(1, MOST_CONNECTIONS)),
    ("pool.max_per_group", Count(1, MOST_CONNECTIONS)),
    ("pool.max_handshakes", Count(1, 100_000)),
    ("pool.least", Count(0, MOST_CONNECTIONS)),
    ("pool.most", Count(1, MOST_CONNECTIONS)),
    ("pool.healthy_above", Count(0, 99)),
    ("net.handshake_timeout", Time(Span::millis(500), Span::mins(1))),
    ("net.request_timeout", Time(Span::millis(100), Span::mins(5))),
    ("net.bytes_per_second_per_peer", Size(Bytes::kib(16), Bytes::gib(16))),
    ("net.queue_bytes", Size(Bytes::kib(64), Bytes::gib(1))),
    ("net.max_frame", Size(Bytes::kib(4), Bytes::mib(64))),
    ("book.capacity", Count(16, 1_000_000)),
    ("book.per_source_group", Count(1, 1_000_000)),
    ("book.backoff_first", Time(Span::millis(100), Span::hours(1))),
    ("book.backoff_most", Time(Span::secs(1), Span::days(7))),
    ("book.min_life", Time(Span::ZERO, Span::days(1))),
    ("broadcasts.held", Count(1, 16_777_216)),
    ("broadcasts.per_window", Count(1, 1_000_000)),
    ("broadcasts.window", Time(Span::secs(1), Span::hours(1))),
    ("journal.notable", Count(16, 1_000_000)),
    ("journal.chatter", Count(16, 1_000_000)),
    ("journal.file_max", Size(Bytes::kib(64), Bytes::gib(1024))),
    ("performance.backpressure.max_pending", Count(1, 1_000_000)),
    ("performance.backpressure.memory_pressure_threshold", Fraction(0.1, 1.0)),
    ("performance.backpressure.queue_budget", Size(Bytes::mib(1), Bytes::gib(64))),
    ("performance.circuit_breaker.failure_threshold", Count(1, 1000)),
    ("performance.circuit_breaker.timeout", Time(Span::millis(100), Span::hours(1))),
    ("performance.circuit_breaker.success_threshold", Count(1, 100)),
    ("performance.circuit_breaker.error_rate", Fraction(0.01, 1.0)),
    ("performance.circuit_breaker.window", Time(Span::secs(1), Span::hours(1))),
    ("performance.retry.max_retries", Count(0, 10)),
    ("performance.retry.first_wait", Time(Span::millis(1), Span::mins(1))),
    ("performance.retry.longest_wait", Time(Span::millis(1), Span::mins(10))),
    ("performance.retry.budget", Fraction(0.0, 1.0)),
    ("performance.timeouts.default.base_timeout", Time(Span::millis(1), Span::mins(5))),
    ("performance.timeouts.default.min_timeout", Time(Span::millis(1), Span::mins(5))),
    ("performance.timeouts.default.max_timeout", Time(Span::millis(1), Span::mins(10))),
    ("guests.disconnects_per_tick", Count(0, 4096)),
    ("guests.disconnects_per_hour", Count(0, MOST_CONNECTIONS)),
    ("guests.floor", Count(0, MOST_CONNECTIONS)),
    ("guests.protected", Count(0, 512)),
    ("guests.bans", Count(0, 1024)),
    ("shutdown.deadline", Time(Span::secs(1), Span::mins(5))),
    ("phases.reaper.schedule.offset", Count(0, MOST_TICKS)),
    ("phases.reconnect.schedule.offset", Count(0, MOST_TICKS)),
    ("phases.broadcast-cleanup.schedule.offset", Count(0, MOST_TICKS)),
    ("phases.exchange-cleanup.schedule.offset", Count(0, MOST_TICKS)),
];

/// A year of ticks of 30 s: rarer than that is `enabled = false`.
pub(super) const MOST_TICKS: u64 = 1_051_200;

impl Bound {
    /// Whether a value as it was written lies inside. Other types than the bound's own are somebody else's finding.
    fn holds(self, value: &Value) -> bool {
        match self {
            Count(least, most) => value.as_u64().is_none_or(|n| (least..=most).contains(&n)),
            Time(least, most) => inside(value, least, most),
            Size(least, most) => inside(value, least, most),
            Fraction(least, most) => value.as_f64().is_none_or(|part| (least..=most).contains(&part)),
        }
    }

    /// Whole numbers only: what JSON schema can say about a range.
    pub fn as_counts(self) -> Option<(u64, u64)> {
        if let Count(least, most) = self { Some((least, most)) } else { None }
    }
}

fn inside<T: PartialOrd + std::str::FromStr>(value: &Value, least: T, most: T) -> bool {
    value.as_str().and_then(|text| text.parse().ok()).is_none_or(|value| least <= value && value <= most)
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Count(least, most) => write!(f, "{least} to {most}"),
            Time(least, most) => write!(f, "{least} to {most}"),
            Size(least, most) => write!(f, "{least} to {most}"),
            Fraction(least, most) => write!(f, "{least} to {most}"),
        }
    }
}

/// Every key of `raw` (a whole file as JSON) whose value is out of its range: key, value and range.
pub(super) fn outside<'a>(
    bounds: &'a [(&'static str, Bound)],
    raw: &'a Value,
) -> impl Iterator<Item = (&'static str, String, Bound)> + 'a {
    bounds.iter().filter_map(move |(key, bound)| {
        let value = key.split('.').try_fold(raw, |value, name| value.get(name))?;
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        (!bound.holds(value)).then_some((*key, shown, *bound))
    })
}
