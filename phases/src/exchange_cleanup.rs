//! Decides when addresses are old enough to be forgotten.

use groundskeeper_sdk::prelude::*;

/// The host keeps this many addresses whatever their age: the last ones where it was connected.
#[doc(hidden)]
pub const LAST_GOOD: usize = 64;

/// Forgets addresses that have not been named for a long time.
///
/// Asks only if there is such an address that the host does not keep, so a quiet node's journal stays quiet. One pass
/// over one column; if an address is that old, O(n log n) with n addresses.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeCleanup {
    /// Addresses not named for longer are forgotten; 1s to 365d, compared in whole seconds. Only time counts in which the
    /// node was up and connected to a peer. In a week of that, every peer that is still there has been named.
    pub forget_after: Span,
}

impl Default for ExchangeCleanup {
    fn default() -> Self {
        ExchangeCleanup { forget_after: Span::days(7) }
    }
}

impl Phase for ExchangeCleanup {
    const SUMMARY: &'static str = "forgets addresses that nobody names any more";

    fn check(&self) -> Result<(), String> {
        within("forget_after", self.forget_after, Span::secs(1)..=Span::days(365))
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let is_any_old = view.book().over(address::HEARD, self.forget_after).count() > 0;
        if is_any_old && self.is_any_forgettable(view) {
            plan.forget_addresses(self.forget_after);
        }
        Ok(())
    }
}

impl ExchangeCleanup {
    /// Whether an old address is not among the last good ones.
    fn is_any_forgettable(&self, view: &View) -> bool {
        let (heard, reached) = (view.column(address::HEARD), view.column(address::REACHED));
        let mut good: Vec<u32> = reached.iter().copied().filter(|age| *age != UNKNOWN).collect();
        good.sort_unstable();
        // Addresses that were never reached are not known in this column, which is the greatest value.
        let first_not_kept = good.get(LAST_GOOD).copied().unwrap_or(UNKNOWN);
        let is_old = |age: u32| age != UNKNOWN && age > self.forget_after.as_secs();
        heard.iter().zip(reached.iter()).any(|(heard, reached)| is_old(*heard) && *reached >= first_not_kept)
    }
}
