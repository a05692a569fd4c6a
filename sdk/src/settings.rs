//! The check for a setting with a range. Holds no setting and no default.

use std::fmt::Display;
use std::ops::RangeInclusive;

/// Checks that a setting lies in its range: `within("keep", self.keep, 1..=64)?` in a [`check`](crate::phase::Phase::check).
///
/// # Errors
/// The text names the setting, its value and the range: `keep = 0 is out of range: 1 to 64`.
pub fn within<V: PartialOrd + Display>(name: &str, value: V, range: RangeInclusive<V>) -> Result<(), String> {
    match range.contains(&value) {
        true => Ok(()),
        false => Err(format!("{name} = {value} is out of range: {} to {}", range.start(), range.end())),
    }
}
