#![forbid(unsafe_code)]
use groundskeeper_sdk::prelude::*;

/// Drops peers that stay slow.
#[derive(Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", deny_unknown_fields)]
pub struct SlowPeers {
    /// Slower than this is slow.
    pub rtt_over: Span,
    /// Never drop below so many connections.
    #[serde(default)]
    pub keep: u32,
}

impl Phase for SlowPeers {
    const SUMMARY: &'static str = "drops peers that stay slow";

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        let spare = view.peers().count().saturating_sub(self.keep);
        for p in view.peers().over(peer::RTT, self.rtt_over).most(peer::RTT).take(spare.min(8)) {
            plan.disconnect(p, "slow");
        }
        Ok(())
    }
}

groundskeeper_sdk::export!(SlowPeers);
