//! Views and plans in the host's own process: built-ins, tests, and both sides of a `.so`. Guests have `guest` instead.

use std::sync::Arc;

use crate::ask::Ask;
use crate::host::{Frozen, RuleBroken};
use crate::memory::Saved;
use crate::phase::Result;
use crate::plan::Plan;
use crate::view::View;

mod asks;
mod reads;

pub(crate) use crate::query::{Order, Test};
pub(crate) use asks::Asks;
pub use asks::{Change, LogLine, Metric, Parts};
pub(crate) use reads::Reads;

/// What a row has to be read from: natively a [`Frozen`], whichever table it is.
pub trait Source {}
impl<T> Source for T {}

impl View {
    /// A view of what `host` froze.
    pub fn new(host: Arc<dyn Frozen>) -> View {
        View { reads: Reads { host } }
    }
}

/// For a host: what a plan holds, and the same asks as data.
impl Plan {
    /// An empty plan that does not know how many rows there are.
    pub fn new() -> Plan {
        Plan::default()
    }

    /// An empty plan for a view with so many rows, which refuses asks about any other row.
    pub fn within(peers: u32, addresses: u32) -> Plan {
        Plan { asks: Asks::within(peers, addresses) }
    }

    /// Puts an ask at the end of the plan, with control characters in its reason replaced.
    ///
    /// # Errors
    /// [`RuleBroken`], with the plan as it was. Whether the columns of a ping's tests exist is for
    /// [`query`](crate::query) to say.
    pub fn push(&mut self, ask: Ask) -> Result<(), RuleBroken> {
        self.asks.push(ask)
    }

    /// [`remember`](Plan::remember) for bytes that are ready: what a host calls for a guest.
    pub fn store(&mut self, saved: Saved) {
        self.asks.store(saved);
    }

    /// [`metric_add`](Plan::metric_add) and [`metric_set`](Plan::metric_set), for a host that answers a guest.
    ///
    /// # Errors
    /// [`RuleBroken`] for a name with other characters, one name too many, or a name both added to and set.
    pub fn metric(&mut self, name: &str, change: Change) -> Result<(), RuleBroken> {
        self.asks.metric(name, change)
    }

    /// What was asked for so far.
    pub fn asks(&self) -> &[Ask] {
        &self.asks.parts.asks
    }

    /// Takes the plan apart.
    pub fn into_parts(self) -> Parts {
        self.asks.parts
    }
}
