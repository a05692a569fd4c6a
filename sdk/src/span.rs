//! Spans of time as people write them: "30s", "1h30m". Reads no clock, and rounds only on request.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use crate::column::MOST;

/// A length of time in whole milliseconds, written like `250ms`, `30s`, `5m`, `1h`, `7d` or `1h30m`.
///
/// Parts go from the largest unit to the smallest, each unit once, without blanks or fractions. `Display` prints the
/// shorter of two exact forms, one unit or all units: `90s`, `7d`, `1d1ms`. Parsing accepts both.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Span {
    millis: u64,
}

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Span {
    /// Zero.
    pub const ZERO: Span = Span::millis(0);

    /// This many milliseconds.
    pub const fn millis(n: u64) -> Span {
        Span { millis: n }
    }

    /// This many seconds. Saturates, as do the larger units.
    pub const fn secs(n: u64) -> Span {
        Span { millis: n.saturating_mul(1_000) }
    }

    /// This many minutes.
    pub const fn mins(n: u64) -> Span {
        Span { millis: n.saturating_mul(60_000) }
    }

    /// This many hours.
    pub const fn hours(n: u64) -> Span {
        Span { millis: n.saturating_mul(3_600_000) }
    }

    /// This many days.
    pub const fn days(n: u64) -> Span {
        Span { millis: n.saturating_mul(86_400_000) }
    }

    /// Whole milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// Microseconds; saturates.
    pub const fn as_micros(self) -> u64 {
        self.millis.saturating_mul(1_000)
    }

    /// Whole seconds, rounded down. Saturates one below [`UNKNOWN`](crate::column::UNKNOWN), so that a long span
    /// is never read as "not known".
    pub const fn as_secs(self) -> u32 {
        let secs = self.millis / 1_000;
        if secs > MOST as u64 { MOST } else { secs as u32 }
    }

    /// Whole seconds, rounded up; saturates like [`as_secs`](Span::as_secs).
    pub const fn as_secs_up(self) -> u32 {
        let secs = self.millis.div_ceil(1_000);
        if secs > MOST as u64 { MOST } else { secs as u32 }
    }

    /// True for [`Span::ZERO`].
    pub const fn is_zero(self) -> bool {
        self.millis == 0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Duration {
        Duration::from_millis(span.millis)
    }
}

/// Drops fractions of a millisecond; saturates.
impl From<Duration> for Span {
    fn from(duration: Duration) -> Span {
        Span { millis: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.millis == 0 {
            return f.pad("0s");
        }
        let (unit, size) = UNITS
            .iter()
            .find(|(_, size)| self.millis.is_multiple_of(*size))
            .expect("every number is a multiple of 1");
        let one = format!("{}{unit}", self.millis / size);
        let mut all = String::new();
        let mut rest = self.millis;
        for (unit, size) in UNITS {
            if rest / size > 0 {
                all.push_str(&format!("{}{unit}", rest / size));
                rest %= size;
            }
        }
        f.pad(if all.len() < one.len() { &all } else { &one })
    }
}

/// Why a text is not a [`Span`], with examples of valid ones.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpanError {
    text: String,
    problem: &'static str,
}

impl fmt::Display for SpanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: String = self.text.chars().take(40).collect();
        write!(
            f,
            "span {shown:?}: {}; write it like \"250ms\", \"30s\", \"5m\", \"1h30m\" or \"7d\"",
            self.problem
        )
    }
}

impl std::error::Error for SpanError {}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Span, SpanError> {
        let fail = |problem| SpanError { text: text.to_owned(), problem };
        if text.is_empty() {
            return Err(fail("is empty"));
        }
        let (mut rest, mut millis, mut next_unit) = (text, 0u64, 0);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let letters = rest.bytes().skip(digits).take_while(u8::is_ascii_alphabetic).count();
            let (number, unit) = (&rest[..digits], &rest[digits..digits + letters]);
            rest = &rest[digits + letters..];
            if number.is_empty() && unit.is_empty() {
                return Err(fail(match rest.as_bytes()[0] {
                    b'.' | b',' => "has a fraction; use a smaller unit",
                    b'-' => "is negative",
                    _ => "has a character that is neither a digit nor a unit",
                }));
            }
            if number.is_empty() {
                return Err(fail("has a unit without a number"));
            }
            if unit.is_empty() {
                return Err(fail(match rest.bytes().next() {
                    Some(b'.' | b',') => "has a fraction; use a smaller unit",
                    Some(b' ') => "has a blank in it",
                    _ => "has a number without a unit",
                }));
            }
            let at = UNITS
                .iter()
                .position(|(name, _)| *name == unit)
                .ok_or_else(|| fail("has an unknown unit"))?;
            if at < next_unit {
                return Err(fail("has its units out of order or twice"));
            }
            next_unit = at + 1;
            millis = number
                .parse::<u64>()
                .ok()
                .and_then(|n| n.checked_mul(UNITS[at].1))
                .and_then(|n| n.checked_add(millis))
                .ok_or_else(|| fail("is too long to count in milliseconds"))?;
        }
        Ok(Span { millis })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Span;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span of time with its unit, like \"30s\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}
