//! The chain's own maintenance phase: forgets transactions that no block takes up, and reports the height of the chain.

use std::sync::Arc;

use groundskeeper_sdk::prelude::*;
use parking_lot::Mutex;

use crate::ledger::Ledger;

/// Runs with the host's built-in phases. A compiled-in phase may hold state of the application. The price is that a
/// recording of it cannot be run again.
pub struct Upkeep {
    pub ledger: Arc<Mutex<Ledger>>,
    /// Transactions that have waited this long are forgotten.
    pub patience: Span,
}

impl Phase for Upkeep {
    const SUMMARY: &'static str = "forgets transactions that nobody takes up, tells how far the chain is";

    fn check(&self) -> Result<(), String> {
        within("patience in seconds", self.patience.as_secs(), 1..=86_400)
    }

    fn run(&self, now: &Tick, _: &View, plan: &mut Plan) -> Result {
        let mut ledger = self.ledger.lock();
        let slot = |seconds: u64| ledger.genesis().slot_at(seconds * 1000);
        let now = u64::from(now.unix_s);
        let (now, oldest) = (slot(now), slot(now.saturating_sub(self.patience.as_secs().into())));
        ledger.forget_slots_before(now);
        let forgotten = ledger.forget_waiting_before(oldest);
        if forgotten > 0 {
            plan.log(Level::Info, format!("{forgotten} transactions have waited in vain"));
        }
        let (tip, last_final) = (ledger.tip().height, ledger.last_final().height);
        plan.metric_set("height", tip as f64);
        plan.metric_set("not-final", (tip - last_final) as f64);
        plan.metric_set("waiting", ledger.waiting().count() as f64);
        Ok(())
    }
}
