//! The exports of a component, for any phase. Keeps nothing between calls.

use super::Reads;
use super::bindings::exports::groundskeeper::phase::lifecycle::{Descriptor, Failure, Guest, Tick};
use super::bindings::groundskeeper::phase::log;
use crate::column::UNKNOWN;
use crate::export::{Exports, TOOLKIT, checked};
use crate::phase::{self, Phase};
use crate::plan::Plan;
use crate::view::View;

impl<E: Exports> Guest for E {
    fn describe() -> Descriptor {
        Descriptor {
            summary: E::Phase::SUMMARY.to_owned(),
            version: E::VERSION.to_owned(),
            toolkit: TOOLKIT.to_owned(),
        }
    }

    fn check(settings: String) -> Result<(), String> {
        tell_panics();
        checked::<E>(&settings).map(drop)
    }

    fn run(now: Tick, settings: String) -> Result<(), Failure> {
        tell_panics();
        let now = phase::Tick {
            number: now.number,
            since_last_s: (now.since_last_s != UNKNOWN).then_some(now.since_last_s),
            missed: now.missed,
            late: now.late,
            unix_s: now.unix_s,
            seed: [now.seed.0, now.seed.1],
        };
        let phase = E::phase(&settings).map_err(Failure::Permanent)?;
        phase.run(&now, &View { reads: Reads }, &mut Plan::default()).map_err(|failure| match failure {
            phase::Failure::Transient(text) => Failure::Transient(text),
            phase::Failure::Permanent(text) => Failure::Permanent(text),
        })
    }
}

/// Logs a panic for the operator before it becomes a trap, which has no text.
///
/// The text is built by hand: what `format!` needs for a number would be a fifth of a small component.
fn tell_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let (file, line) = panic.location().map_or(("?", 0), |place| (place.file(), place.line()));
        let mut text = String::from("panicked at ");
        text.push_str(file);
        text.push(':');
        push_number(&mut text, line);
        text.push_str(": ");
        text.push_str(panic.payload_as_str().unwrap_or("without a text"));
        log::write(log::Level::Error, &text);
    }));
}

fn push_number(text: &mut String, number: u32) {
    if number > 9 {
        push_number(text, number / 10);
    }
    text.push(char::from(b'0' + (number % 10) as u8));
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_entry {
    ($exported:ident) => {
        $crate::guest::bindings::__export_phase!($exported with_types_in $crate::guest::bindings);
    };
}
