//! A phase that asks for everything there is, so that a test over random views meets every action. For tests only.

#![forbid(unsafe_code)]

use groundskeeper_sdk::plan::Level;
use groundskeeper_sdk::prelude::*;
use serde::Serialize;

/// Slower than this is slow, and so on: thresholds that random views know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde", deny_unknown_fields)]
pub struct Everything {
    pub rtt_over: Span,
    pub idle_over: Span,
}

impl Default for Everything {
    fn default() -> Self {
        Self { rtt_over: Span::millis(500), idle_over: Span::secs(30) }
    }
}

/// What it has seen so far.
#[derive(Default, Serialize, Deserialize)]
#[serde(crate = "groundskeeper_sdk::serde")]
struct Seen {
    runs: u32,
    idle_s: u64,
}

impl Memory for Seen {}

impl Phase for Everything {
    const SUMMARY: &'static str = "asks for everything there is";

    fn run(&self, now: &Tick, view: &View, plan: &mut Plan) -> Result {
        let mut seen: Seen = view.memory()?;
        seen.runs = seen.runs.wrapping_add(1);
        let mut rng = now.rng();

        let slow = view.peers().over(peer::RTT, self.rtt_over).most(peer::RTT).take(4);
        for (at, p) in slow.iter().enumerate() {
            let name = &view.names(&[*p])[0];
            match at {
                0 => plan.disconnect(*p, format!("slow {}", name.id)),
                1 => plan.ban(*p, Span::mins(10), "slower than most"),
                _ => plan.health(*p, -(rng.below(20) as i32) - 1, "slow"),
            }
        }
        for p in view.peers().over(peer::IDLE, self.idle_over).least(peer::AGE).take(2) {
            plan.disconnect_if_silent(p, "silent and new");
        }
        let quick =
            view.peers().at_most(peer::PINGS_LOST, 0).is(peer::INBOUND, false).least(peer::RTT).take(3);
        for p in &quick {
            plan.protect(*p, Span::hours(1), "quick");
        }
        plan.ping(&quick);
        plan.ping_matching(view.peers().at_least(peer::PINGS_LOST, 1));
        for a in view.book().at_most(address::WAIT, Span::ZERO).least(address::FAILURES).take(2) {
            plan.dial(a, "may be dialled");
        }
        let known: Vec<Address> = view.rows::<Address>().collect();
        if !known.is_empty() {
            plan.probe(known[rng.below(known.len() as u64) as usize]);
        }
        let broadcasts = view.broadcasts();
        if broadcasts.held > 500 {
            plan.forget_broadcasts(self.idle_over);
        }
        if known.len() > 30 {
            plan.forget_addresses(Span::days(7));
        }
        if view.totals().connected < view.totals().least {
            plan.again_in(1);
        }

        let idle = view.column(peer::IDLE);
        let known_idle = idle.iter().filter(|s| **s != groundskeeper_sdk::column::UNKNOWN);
        seen.idle_s = seen.idle_s.wrapping_add(known_idle.map(|s| u64::from(*s)).sum());
        plan.metric_add("runs", 1);
        plan.metric_set("slow", f64::from(view.peers().over(peer::RTT, self.rtt_over).count()));
        plan.log(Level::Info, format!("run {} at tick {}", seen.runs, now.number));
        plan.remember(&seen)
    }
}
