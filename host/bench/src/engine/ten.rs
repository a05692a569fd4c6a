//! Ten dropped-in phases in one tick of a real cycle.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use groundskeeper::cycle::{Beat, Cycle};
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::engine::{Executor, PhaseThread};
use groundskeeper::loader::Loader;
use groundskeeper::registry::{PhaseSpec, PriorState, Registry};

use super::{GROUP, Scratch};
use crate::Effort;
use crate::ours::Filled;
use crate::report::{Reach, Report, Row, number};
use crate::rounds::{median, nanos};
use crate::tick::world;

const PEERS: usize = 10_000;
const INTERVAL: Duration = Duration::from_secs(30);
const PHASES: usize = 10;

pub fn run(effort: &Effort, report: &mut Report) {
    let scratch = Scratch::new("ten");
    let rounds = effort.choose(31, 9);
    let mut cycle = {
        let specs = specs(&scratch);
        let registry = Registry::new(
            specs,
            Vec::new(),
            |_| 0,
            &PriorState { interval: INTERVAL, ..PriorState::default() },
        );
        let filled = Filled::new(PEERS);
        let fence = Executor::Thread(PhaseThread::default());
        // Keeps the slots alive. Dropped peers do not come back; those are a few of ten thousand.
        let cycle = Cycle::new(world(&filled), registry.expect("good phases"), fence, INTERVAL, 7);
        (cycle, filled)
    };
    let (mut phases, mut whole) = (Vec::new(), Vec::new());
    let mut each = BTreeMap::<String, Each>::new();
    for round in 0..=rounds {
        cycle.1.spread(Duration::from_secs(40), Duration::from_secs(41));
        let beat = Beat {
            tick: round as u32 + 1,
            urgent: 0,
            skipped: 0,
            slept: Duration::ZERO,
            lateness: Duration::ZERO,
        };
        let begun = Instant::now();
        let told = cycle.0.beat(beat);
        let taken = nanos(begun.elapsed()) / 1e6;
        assert_eq!(told.runs.len(), PHASES, "all are due");
        for run in &told.runs {
            assert_eq!(run.result, "ok", "{}", run.name);
            if round > 0 {
                let each = each.entry(run.name.to_string()).or_default();
                each.taken.push(nanos(run.took) / 1e3);
                each.fuel = each.fuel.max(run.fuel.expect("a guest's is measured"));
                each.memory = each.memory.max(run.memory.expect("a guest's is measured"));
            }
        }
        if round > 0 {
            whole.push(taken);
            phases.push(told.runs.iter().map(|run| nanos(run.took) / 1e6).sum());
        }
    }
    let subject = "10 phases, 10,000 peers";
    let row = |measure, values| Row::cost(GROUP, measure, subject, median(values), "ms");
    report.push(row("phases of one tick together, on the phase thread", phases).reach(Reach::AtMost(5.0)));
    report.push(row("the whole tick", whole));
    for (name, each) in each {
        let subject = format!("{name}, 10,000 peers");
        let note =
            format!("{} of fuel, {} KiB", number(each.fuel as f64), number((each.memory >> 10) as f64));
        report.push(Row::cost(GROUP, "one of them", subject, median(each.taken), "us").note(note));
    }
}

/// The times of the runs of one phase in microseconds, and their maximum use of fuel and memory.
#[derive(Default)]
struct Each {
    taken: Vec<f64>,
    fuel: u64,
    memory: u64,
}

/// The ready examples, two of them twice.
fn specs(scratch: &Scratch) -> Vec<PhaseSpec> {
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    let load = || {
        let loader = Loader::new(scratch.0.clone(), false).expect("a folder of our own");
        let loaded = loader.folder(&ready);
        assert!(loaded.refused.is_empty(), "{:?}", loaded.refused);
        loaded.phases
    };
    let mut specs = load();
    let again = PHASES - specs.len();
    specs.extend(
        load().into_iter().take(again).map(|spec| PhaseSpec { name: format!("{}-2", spec.name), ..spec }),
    );
    for spec in &mut specs {
        // All are due at each tick, in any order.
        spec.schedule = Schedule::every(1);
    }
    specs
}
