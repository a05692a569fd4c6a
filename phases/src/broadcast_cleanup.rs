//! Decides when broadcasts are old enough to be forgotten. Frees memory only: rate windows expire by themselves.

use groundskeeper_sdk::prelude::*;

/// Forgets broadcasts that every peer must have seen long ago.
///
/// Asks only if the oldest broadcast is older than `forget_after`, so a quiet node's journal stays quiet. O(1).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BroadcastCleanup {
    /// Older broadcasts are forgotten; 1s to 1d, compared in whole seconds. Must exceed the time that a broadcast takes
    /// through the whole network: one that comes back after it was forgotten is sent on again.
    pub forget_after: Span,
}

impl Default for BroadcastCleanup {
    fn default() -> Self {
        BroadcastCleanup { forget_after: Span::mins(5) }
    }
}

impl Phase for BroadcastCleanup {
    const SUMMARY: &'static str = "forgets old broadcasts";

    fn check(&self) -> Result<(), String> {
        within("forget_after", self.forget_after, Span::secs(1)..=Span::days(1))
    }

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let broadcasts = view.broadcasts();
        if broadcasts.held > 0 && broadcasts.oldest_s > self.forget_after.as_secs() {
            plan.forget_broadcasts(self.forget_after);
        }
        Ok(())
    }
}
