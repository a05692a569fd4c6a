//! Decides when addresses are old enough to be forgotten. Judges an address by nothing but its age.

use groundskeeper_sdk::prelude::*;

/// Forgets addresses that have not been named for a long time.
///
/// Asks only if there is such an address, so a quiet node's journal stays quiet. One pass over one column.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExchangeCleanup {
    /// Addresses not named for longer are forgotten; 1s to 365d, compared in whole seconds. A week lets a node that was
    /// off for some days find its network again.
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
        if view.book().over(address::HEARD, self.forget_after).count() > 0 {
            plan.forget_addresses(self.forget_after);
        }
        Ok(())
    }
}
