//! Owns how a setting out of range is told. Holds no setting and no default.

use std::fmt::Display;

/// Checks that `value` lies within `least..=most`.
///
/// # Errors
/// Names the setting, its value and the range.
pub(crate) fn within<V: PartialOrd + Display>(name: &str, value: V, least: V, most: V) -> Result<(), String> {
    if least <= value && value <= most {
        Ok(())
    } else {
        Err(format!("{name} = {value} is out of range: {least} to {most}"))
    }
}
