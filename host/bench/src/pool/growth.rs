//! The longest wait of a newcomer while a pool fills up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use groundskeeper::pool::Link;
use nix::sys::resource::UsageWho;

use super::GROUP;
use crate::Effort;
use crate::ours::{HourAhead, Quiet, Rings, attach, empty, journal};
use crate::report::{Reach, Report, Row};
use crate::rounds::{nanos, preemptions};
use crate::seeds::{Shared, Unified, ip};

const PEERS: usize = 100_000;

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(20, 5);
    let mut least = [f64::INFINITY; 2];
    for _ in 0..rounds {
        least[0] = least[0].min(ours());
        least[1] = least[1].min(map());
    }
    report.push(
        Row::cost(GROUP, "longest single insert", "filling 100,000, least of all rounds", least[0], "us")
            .against("HashMap", least[1])
            .earlier(2_900.0..=7_500.0)
            .reach(Reach::AtMost(1000.0)),
    );
}

/// The longest call of `insert` in microseconds, without calls during which the system preempted the thread.
fn longest(mut insert: impl FnMut(usize)) -> f64 {
    let mut taken_away = preemptions(UsageWho::RUSAGE_THREAD);
    let mut longest = 0.0_f64;
    let mut last = Instant::now();
    for peer in 0..PEERS {
        insert(peer);
        let mut now = Instant::now();
        let took = nanos(now - last);
        if took > longest {
            let taken_so_far = preemptions(UsageWho::RUSAGE_THREAD);
            if taken_so_far == taken_away {
                longest = took;
            }
            taken_away = taken_so_far;
            now = Instant::now();
        }
        last = now;
    }
    longest / 1000.0
}

fn ours() -> f64 {
    let clock = HourAhead::new();
    let pool = empty(PEERS, clock.clone(), journal(clock, Rings::AsInANode));
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let mut slots = Vec::with_capacity(PEERS);
    longest(|peer| slots.push(attach(&pool, peer, &link)))
}

fn map() -> f64 {
    let (mut map, shared, now) = (HashMap::new(), Shared::default(), Instant::now());
    longest(|peer| _ = map.insert(ip(peer), Unified::new(Arc::clone(&shared), peer, now)))
}
