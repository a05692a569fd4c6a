//! Views and plans in the host's process: built-ins, tests, and both sides of a `.so`. Guests use `guest` instead.

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
pub use asks::{LogLine, Metric, MetricChange, Parts};
pub(crate) use reads::Reads;

/// What a row is read from. Natively that is a [`Frozen`] for every table, so nothing is needed here.
pub trait Source {}
impl<T> Source for T {}

impl View {
    /// A view of the snapshot `host`.
    pub fn new(host: Arc<dyn Frozen>) -> View {
        View { reads: Reads { host } }
    }
}

/// For a host: the contents of a plan, and asks as data.
impl Plan {
    /// An empty plan that does not know how many rows there are.
    pub fn new() -> Plan {
        Plan::default()
    }

    /// An empty plan for a view with this many rows. It refuses asks about any other row.
    pub fn within(peers: u32, addresses: u32) -> Plan {
        Plan { asks: Asks::within(peers, addresses) }
    }

    /// Appends an ask to the plan, with control characters in its reason replaced.
    ///
    /// # Errors
    /// [`RuleBroken`]; the plan is unchanged then. The columns of a ping's tests are not checked here but in
    /// [`query`](crate::query).
    pub fn push(&mut self, ask: Ask) -> Result<(), RuleBroken> {
        self.asks.push(ask)
    }

    /// [`remember`](Plan::remember) for encoded bytes: a host calls it for a guest.
    pub fn store(&mut self, saved: Saved) {
        self.asks.store(saved);
    }

    /// [`metric_add`](Plan::metric_add) and [`metric_set`](Plan::metric_set), for a host that answers a guest.
    ///
    /// # Errors
    /// [`RuleBroken`] for a name with other characters, one name too many, or a name both added to and set.
    pub fn metric(&mut self, name: &str, change: MetricChange) -> Result<(), RuleBroken> {
        self.asks.metric(name, change)
    }

    /// The asks so far.
    pub fn asks(&self) -> &[Ask] {
        &self.asks.parts.asks
    }

    /// Takes the plan apart.
    pub fn into_parts(self) -> Parts {
        self.asks.parts
    }
}
