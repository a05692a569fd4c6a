//! What a host implements and gets back. Phase authors do not need it. Holds no policy.
//!
//! A host implements [`Frozen`] over its columns and wraps it in a [`View`]. It calls [`AnyPhase::run`] inside
//! [`guard`] and takes the [`Parts`] out of the [`Plan`]. For a guest it answers each imported call with the function
//! that serves the same call natively: [`crate::query`] for reads, [`Plan::push`] and the methods next to it for asks.
//! So rules and results are the same for every kind of phase.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use crate::ask::{Ask, AskField, AskFieldMut};
pub use crate::column::Table;
pub use crate::memory::Saved;
pub use crate::phase::AnyPhase;
pub use crate::plan::{Level, LogLine, Metric, MetricChange, Parts, Plan};
pub use crate::query::{Order, Query, Test};
pub use crate::view::{BroadcastTotals, Name, Totals, View};

/// A snapshot of the node that does not change during a run.
pub trait Frozen: Send + Sync {
    /// The number of rows of `table`.
    fn rows(&self, table: Table) -> u32;
    /// A whole column of `rows(table)` values; None if this host does not have it. May copy on first use (interior
    /// `OnceLock`).
    fn column(&self, table: Table, name: &str) -> Option<&[u32]>;
    /// The names of the columns that this host has.
    fn columns(&self, table: Table) -> &[&str];
    /// The totals over all connections.
    fn totals(&self) -> Totals;
    /// The totals over the remembered broadcasts.
    fn broadcasts(&self) -> BroadcastTotals;
    /// The names of a row. Called only with `row < rows(table)`.
    fn name(&self, table: Table, row: u32) -> Name;
    /// The memory that the phase's last accepted run stored.
    fn memory(&self) -> Option<Saved>;
}

/// A call broke a rule of the contract. A guest traps; native code unwinds to [`guard`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleBroken {
    /// The call as the contract names it, such as `peers.select`.
    pub call: &'static str,
    /// The rule, and the value that broke it.
    pub rule: String,
}

impl RuleBroken {
    /// Ends the run by unwinding. The panic hook does not run, so nothing is printed.
    pub fn unwind(self) -> ! {
        resume_unwind(Box::new(self))
    }
}

impl fmt::Display for RuleBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.rule)
    }
}

impl std::error::Error for RuleBroken {}

/// Why a native run unwound.
#[derive(Debug)]
pub enum NativeExit {
    /// A rule of the contract was broken.
    Rule(RuleBroken),
    /// The phase panicked; the text of the panic, if it had one.
    Panic(String),
}

/// Runs `body` and catches an unwind.
///
/// # Errors
/// [`NativeExit`]: a broken rule or a panic. Needs `panic = "unwind"`.
pub fn guard<R>(body: impl FnOnce() -> R) -> Result<R, NativeExit> {
    // A phase is immutable and its plan is dropped on this path, so no half-done state is visible afterwards.
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| match payload.downcast::<RuleBroken>() {
        Ok(broken) => NativeExit::Rule(*broken),
        Err(payload) => NativeExit::Panic(panic_text(&*payload)),
    })
}

fn panic_text(payload: &(dyn Any + Send)) -> String {
    if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "panicked without a text".to_owned()
    }
}

/// Makes text from a phase or a peer safe for a terminal: control characters, line separators, and marks that change
/// the direction of writing each become one blank. The text never gets longer.
pub fn clean(text: &str) -> Cow<'_, str> {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().any(odd) { Cow::Owned(text.replace(odd, " ")) } else { Cow::Borrowed(text) }
}
