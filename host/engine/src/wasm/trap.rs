//! Explains why a guest did not return: a broken rule, a limit or a trap, with a backtrace of function names.

use std::fmt::Write as _;

use groundskeeper_sdk::host::{Level, RuleBroken, clean};
use wasmtime::{Trap, WasmBacktrace};

use super::run::{StoreRefusal, StoreState, TABLE_ELEMENTS};
use crate::log::cut;
use crate::policy::Limits;
use crate::{GuestLimit, RunOutcome, shortage};

/// Frames in a message: the innermost ones.
const FRAMES: usize = 8;
/// Maximum bytes of one function's name.
const NAME_BYTES: usize = 120;
/// Maximum bytes of a text from a guest.
pub(super) const WORDS_BYTES: usize = 1_000;

/// Whether the machine, not the guest, is the cause: no memory, or no descriptor for it.
pub(super) fn is_shortage(error: &wasmtime::Error) -> bool {
    error.is::<wasmtime::OutOfMemory>() || shortage::is_shortage(error.chain())
}

/// The outcome of a run that did not return.
pub(super) fn ended(error: &wasmtime::Error, inside: &StoreState, limits: &Limits) -> RunOutcome {
    let place = place(error);
    if let Some(rule) = error.downcast_ref::<RuleBroken>() {
        return RunOutcome::Rule(format!("{rule}{place}"));
    }
    if is_shortage(error) {
        return RunOutcome::Shortage(short(&cause(error)));
    }
    let trap = error.downcast_ref::<Trap>().copied();
    let cut_by =
        |limit: GuestLimit, words: String| RunOutcome::Cut { limit, words: format!("{words}{place}") };
    match trap {
        Some(Trap::OutOfFuel) => {
            cut_by(GuestLimit::Fuel, format!("used up its {} of fuel ([limits] fuel)", limits.fuel))
        }
        Some(Trap::Interrupt) => cut_by(
            GuestLimit::Wall,
            format!("was inside for more than {} ms ([limits] wall)", limits.wall.as_millis()),
        ),
        Some(Trap::StackOverflow) => {
            cut_by(GuestLimit::Stack, "used up its stack: it recurses too deeply".into())
        }
        _ if inside.limiter.refused == Some(StoreRefusal::Memory) => {
            let kib = limits.memory >> 10;
            cut_by(GuestLimit::Memory, format!("wanted more than its {kib} KiB of memory ([limits] memory)"))
        }
        _ if inside.limiter.refused == Some(StoreRefusal::Table) => {
            cut_by(GuestLimit::Memory, format!("wanted more than {TABLE_ELEMENTS} elements of tables"))
        }
        // A guest cannot go on without memory that it was promised.
        Some(_) if inside.limiter.shortage.is_some() => {
            RunOutcome::Shortage(inside.limiter.shortage.clone().unwrap_or_default())
        }
        Some(trap) => {
            let mut words = format!("{trap}");
            // A panic logs its reason before it traps.
            if let Some(last) = inside.log.last().filter(|line| line.level == Level::Error) {
                _ = write!(words, ", having said {:?}", cut(&last.text, WORDS_BYTES));
            }
            RunOutcome::Trapped(words + &place)
        }
        None => RunOutcome::Trapped(format!("{}{place}", short(&cause(error)))),
    }
}

/// The error without its backtrace, which [`place`] formats.
fn cause(error: &wasmtime::Error) -> String {
    match error.downcast_ref::<WasmBacktrace>() {
        Some(_) => format!("{:#}", error.root_cause()),
        None => format!("{error:#}"),
    }
}

/// Makes a text that a guest can influence safe for one line.
pub(super) fn short(text: &str) -> String {
    clean(cut(text, WORDS_BYTES)).into_owned()
}

/// The backtrace as `, in f < g < h`, or an empty text.
fn place(error: &wasmtime::Error) -> String {
    let Some(backtrace) = error.downcast_ref::<WasmBacktrace>() else { return String::new() };
    // Frames without a name are glue code of the component, or the module's names were stripped.
    let names: Vec<String> = backtrace
        .frames()
        .iter()
        .filter_map(|frame| frame.func_name())
        .map(|name| format!("{:#}", rustc_demangle::demangle(cut(name, 4 * NAME_BYTES))))
        .filter(|name| !is_machinery(name))
        .map(|name| clean(cut(&name, NAME_BYTES)).into_owned())
        .collect();
    let more = names.len().saturating_sub(FRAMES);
    let shown = &names[..names.len() - more];
    match (shown.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!(", in {}", shown.join(" < ")),
        (false, more) => format!(", in {} < {more} more", shown.join(" < ")),
    }
}

/// Whether a function belongs to the panic code of the language: such frames do not show where it happened.
fn is_machinery(name: &str) -> bool {
    [
        "core::panicking::",
        "std::panicking::",
        "std::sys::",
        "rust_panic",
        "__rust",
        "abort",
        "core::option::",
        "core::result::",
    ]
    .iter()
    .any(|prefix| name.starts_with(prefix))
}
