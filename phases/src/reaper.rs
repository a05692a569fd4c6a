//! Decides which peers to ping and which to disconnect. Reads idle times only; closes no connection itself.

use groundskeeper_sdk::contract::ASKS_PER_PLAN;
use groundskeeper_sdk::prelude::*;

/// Pings peers that have gone quiet and disconnects those that stay silent.
///
/// One action pings every peer that is idle for `ping_after` or longer, but less than `stale_after`. Peers idle for
/// `stale_after` or longer are disconnected, the longest silent first, unless they speak before that happens. On a late
/// tick every peer is pinged: the host has reset idle times to zero because it was itself away.
///
/// Two passes over the idle times, O(stale) asks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reaper {
    /// A peer idle for this long is pinged; 1s to 1h, below `stale_after`, compared in whole seconds. Less than a tick
    /// of 30 s on purpose: a peer that answered the last tick's ping at once is idle for just under a tick at the next
    /// one. It must be pinged then, not a tick later.
    pub ping_after: Span,
    /// A peer idle for this long is disconnected; 2s to 1d, compared in whole seconds. Three ticks of 30 s: one lost
    /// ping must not cost a peer.
    pub stale_after: Span,
    /// Disconnects in one run, 1 to 4096; the rest waits for the next. A run that also pings has room for 4095.
    pub max_per_run: u32,
}

impl Default for Reaper {
    fn default() -> Self {
        Reaper { ping_after: Span::secs(25), stale_after: Span::secs(90), max_per_run: ASKS_PER_PLAN as u32 }
    }
}

impl Phase for Reaper {
    const SUMMARY: &'static str = "pings quiet peers and disconnects silent ones";

    fn check(&self) -> Result<(), String> {
        within("ping_after", self.ping_after, Span::secs(1)..=Span::hours(1))?;
        within("stale_after", self.stale_after, Span::secs(2)..=Span::days(1))?;
        within("max_per_run", self.max_per_run, 1..=ASKS_PER_PLAN as u32)?;
        if self.ping_after >= self.stale_after {
            return Err(format!(
                "ping_after = {} is not below stale_after = {}: nobody would be pinged before being dropped",
                self.ping_after, self.stale_after
            ));
        }
        Ok(())
    }

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let quiet = if now.late {
            view.peers()
        } else {
            view.peers().at_least(peer::IDLE, self.ping_after).under(peer::IDLE, self.stale_after)
        };
        let ping = quiet.count() > 0;
        let room = ASKS_PER_PLAN as u32 - u32::from(ping);

        let stale = view.peers().at_least(peer::IDLE, self.stale_after);
        let stale = stale.most(peer::IDLE).take(self.max_per_run.min(room));
        let limit = self.stale_after.as_secs_up();
        for (peer, [idle]) in stale.iter().zip(view.facts(&stale, [peer::IDLE])) {
            plan.disconnect_if_silent(*peer, format!("silent for {idle} s (limit {limit} s)"));
        }
        // Last, so that a full send queue to live peers never delays the disconnects.
        if ping {
            plan.ping_matching(quiet);
        }
        Ok(())
    }
}
