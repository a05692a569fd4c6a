//! Runs many seeds on as many threads as there are cores. Continues when one fails.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

use crate::scenario::{Figures, Outcome, Tell, run};

/// The result of many seeds.
#[derive(Default)]
pub struct Ended {
    /// Each failed seed, with the violated invariants and the command that repeats it.
    pub failed: Vec<String>,
    /// Sums over all seeds; for times, the longest.
    pub sum: Figures,
}

/// Maximum number of complaints printed for one seed: those after the first ones rarely add anything.
const TOLD: usize = 5;

/// Runs every seed of `seeds`, in any order. Passes the report of each failed seed to `tell` at once.
pub fn run_all(seeds: Range<u64>, tell: impl Fn(&str) + Sync) -> Ended {
    let ended = Mutex::new(Ended::default());
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run(seed, false, Tell::Nothing);
                    ended.lock().take(&outcome, &tell);
                }
            });
        }
    });
    ended.into_inner()
}

impl Ended {
    fn take(&mut self, outcome: &Outcome, tell: impl Fn(&str)) {
        let (sum, one) = (&mut self.sum, outcome.figures);
        *sum = Figures {
            faults: sum.faults + one.faults,
            processes: sum.processes + one.processes,
            disconnects: sum.disconnects + one.disconnects,
            delivered: sum.delivered + one.delivered,
            queue_full: sum.queue_full + one.queue_full,
            answered: sum.answered + one.answered,
            unanswered: sum.unanswered + one.unanswered,
            beats: sum.beats + one.beats,
            checks: sum.checks + one.checks,
            saved: sum.saved + one.saved,
            unsaved: sum.unsaved + one.unsaved,
            isolations: sum.isolations + one.isolations,
            recovered_within: longest(sum.recovered_within, one.recovered_within),
            mesh_within: longest(sum.mesh_within, one.mesh_within),
        };
        if outcome.complaints.is_empty() {
            return;
        }
        let mut words =
            format!("seed {} failed; run it again with: {}", outcome.seed, crate::replay_line(outcome.seed));
        for complaint in outcome.complaints.iter().take(TOLD) {
            words.push_str(&format!("\n    {complaint}"));
        }
        if outcome.complaints.len() > TOLD {
            words.push_str(&format!("\n    and {} more", outcome.complaints.len() - TOLD));
        }
        tell(&words);
        self.failed.push(words);
    }
}

fn longest(a: Duration, b: Duration) -> Duration {
    a.max(b)
}
