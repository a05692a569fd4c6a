//! The smallest phase: pings every peer, has no settings and keeps nothing.

#![forbid(unsafe_code)]

use groundskeeper_sdk::prelude::*;

/// Pings every peer, so that `idle-s` and `rtt-us` are fresh for the phases after it.
pub struct Pulse;

impl Phase for Pulse {
    const SUMMARY: &'static str = "pings every peer";

    fn run(&self, _: &Tick, view: &View, plan: &mut Plan) -> Result {
        plan.ping_matching(view.peers());
        Ok(())
    }
}

groundskeeper_sdk::export!(Pulse, no settings);

#[cfg(test)]
mod tests {
    use super::*;
    use groundskeeper_sdk::testing::world;

    #[test]
    fn everybody_is_pinged_at_once() {
        assert_eq!(world().run(&Pulse).unwrap(), "ping-matching all\n");
    }
}
