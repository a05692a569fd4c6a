//! What a host provides and gets back; phase authors never need this. Owns the seam, holds no policy.
//!
//! A host implements [`Frozen`] over its columns, wraps it in a [`View`], calls
//! [`AnyPhase::run`] inside [`guard`], and takes the [`Parts`] out of the [`Plan`]. For
//! a guest it answers each imported call by the function that natively serves the same call: [`crate::query`] for
//! reads, [`Plan::push`] and its neighbours for asks. So rules and results are the same whatever a phase is made of.

use std::any::Any;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use crate::ask::{Ask, AskField, AskFieldMut};
pub use crate::column::Table;
pub use crate::memory::Saved;
pub use crate::phase::AnyPhase;
pub use crate::plan::{Change, Level, LogLine, Metric, Parts, Plan};
pub use crate::query::{Order, Query, Test};
pub use crate::view::{BroadcastTotals, Name, Totals, View};

/// A picture of the node that does not change during a run.
pub trait Frozen: Send + Sync {
    /// Rows of `table`.
    fn rows(&self, table: Table) -> u32;
    /// Whole column, `rows(table)` values; None if this host does not know it. May copy on first touch (interior
    /// `OnceLock`).
    fn column(&self, table: Table, name: &str) -> Option<&[u32]>;
    /// Names that `column` knows.
    fn columns(&self, table: Table) -> &[&str];
    /// The connections as a whole.
    fn totals(&self) -> Totals;
    /// The memory of broadcasts.
    fn broadcasts(&self) -> BroadcastTotals;
    /// Asked only with `row < rows(table)`.
    fn name(&self, table: Table, row: u32) -> Name;
    /// What the phase's last accepted run stored.
    fn memory(&self) -> Option<Saved>;
}

/// A call broke a rule of the contract. For a guest this is a trap; natively it unwinds to [`guard`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RuleBroken {
    /// The call as the contract names it, such as `peers.select`.
    pub call: &'static str,
    /// The rule, and by what it was broken.
    pub rule: String,
}

impl RuleBroken {
    /// Ends the run: unwinds without the panic hook, so nothing is printed.
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

/// How a native run left its track.
#[derive(Debug)]
pub enum Unwound {
    /// A rule of the contract was broken.
    Rule(RuleBroken),
    /// The phase panicked; the text of the panic, if it had one.
    Panic(String),
}

/// Runs `body` and stops what unwinds out of it.
///
/// # Errors
/// [`Unwound`], which says whether it was a broken rule or a panic. Needs `panic = "unwind"`.
pub fn guard<R>(body: impl FnOnce() -> R) -> Result<R, Unwound> {
    // A phase is immutable and its plan is dropped on this path, so nothing half-done is seen afterwards.
    catch_unwind(AssertUnwindSafe(body)).map_err(|payload| match payload.downcast::<RuleBroken>() {
        Ok(broken) => Unwound::Rule(*broken),
        Err(payload) => Unwound::Panic(panic_text(&*payload)),
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

/// Text from a phase or a peer, made fit for a terminal: control characters, line separators, and the marks that
/// turn the direction of writing each become one blank. Never longer than before.
pub fn clean(text: &str) -> Cow<'_, str> {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}')
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().any(odd) { Cow::Owned(text.replace(odd, " ")) } else { Cow::Borrowed(text) }
}
