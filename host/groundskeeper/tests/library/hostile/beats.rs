//! Hostile guests between built-ins, through the real cycle on the phase thread: the others run, the journal says what
//! happened, and nothing is left of any of them.

use std::time::Duration;

use groundskeeper::clock::TokioClock;
use groundskeeper::engine::policy::{Mode, OnFailure, Trust};
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::engine::{Executor, PhaseThread};
use groundskeeper::journal::{ActionKind, Initiator, Outcome};
use groundskeeper::registry::{PhaseSpec, Policy};

use super::*;
use crate::support::alone::{alone, resident_kib};
use crate::support::{INTERVAL, Kept, Rig, builtins, closure, ran_in};

/// Asks to drop everybody, and then does what ends it.
fn after_asking(instructions: &str) -> Wat {
    Wat {
        tail: r#"(data (i32.const 1024) "hostile")"#.into(),
        ..Wat::run(&format!(
            "(call $disconnect.ask (i32.const 0) (i32.const 1024) (i32.const 7)) \
             (call $disconnect.ask (i32.const 1) (i32.const 1024) (i32.const 7)) {instructions}"
        ))
    }
    .importing(&[("disconnect", "ask", "(param i32 i32 i32)")])
}

/// Name, phase, result of a run as the report says it, and how the journal's words about it begin.
fn villains() -> Vec<(&'static str, Wat, &'static str, &'static str)> {
    let recursing = after_asking("(call $deep) (i32.const 8)");
    let recursing = Wat { tail: recursing.tail.clone() + "(func $deep (call $deep))", ..recursing };
    vec![
        (
            "loops",
            after_asking("(loop $again (br $again)) (unreachable)"),
            "cut",
            "used up its 1000000 of fuel",
        ),
        (
            "hoards",
            after_asking(
                "(loop $more (br_if $more (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) (unreachable)",
            ),
            "cut",
            "wanted more than its 16384 KiB of memory",
        ),
        ("recurses", recursing, "cut", "used up its stack: it recurses too deeply, in deep"),
        (
            "traps",
            after_asking("(unreachable)"),
            "trapped",
            "wasm trap: wasm `unreachable` instruction executed, in run",
        ),
        (
            "forges",
            after_asking(
                "(call $disconnect.ask (i32.const 77) (i32.const 1024) (i32.const 7)) (i32.const 8)",
            ),
            "rule",
            "broke a rule of the contract: disconnect.ask: row 77 of 2; keep no row beyond its run, in run",
        ),
        ("lies", after_asking("(i32.const 9)"), "trapped", "return pointer not aligned"),
        (
            "asks-for-ever",
            after_asking(
                "(loop $again (call $disconnect.ask (i32.const 0) (i32.const 1024) (i32.const 7)) (br $again)) \
                 (unreachable)",
            ),
            "rule",
            "broke a rule of the contract: disconnect.ask: one ask more than 4096, in run",
        ),
    ]
}

/// Fuel that a recursion does not use up before its stack, and that 4,096 asks fit into.
fn villain_setup() -> GuestSetup {
    setup()
}

fn spec(name: &str, guest: Guest) -> PhaseSpec {
    PhaseSpec {
        name: name.to_owned(),
        kind: "wasm",
        version: guest.described().version.clone(),
        digest: None,
        body: Arc::new(guest),
        schedule: Schedule::every(1),
        policy: Policy {
            trust: Trust::Guest,
            mode: Mode::Enforce,
            grants: every_grant(),
            on_failure: OnFailure::default(),
        },
    }
}

#[tokio::test(start_paused = true)]
async fn the_other_phases_of_the_tick_run_and_the_journal_says_what_happened() {
    let wasm = Wasm::by_hand(None).unwrap();
    let mut phases = Vec::new();
    let mut built_ins = builtins().into_iter();
    for (name, wat, ..) in villains() {
        phases.extend(built_ins.next());
        phases.push(spec(name, guest(&wasm, &wat, villain_setup())));
    }
    phases.push(closure("works", 1, |_, _, _| Ok(())));
    let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
    let fence = Executor::Thread(PhaseThread::default());
    let mut rig = Rig::resume(clock, phases, INTERVAL, &Kept::default(), fence);
    rig.peer(1);
    rig.peer(2);
    let reports = rig.ticks(12).await;

    for (name, runs) in [("reaper", 12), ("broadcast-cleanup", 6), ("works", 12)] {
        assert_eq!(ran_in(&reports, name).len(), runs, "{name}");
    }
    let ticks: Vec<u32> = reports.iter().map(|report| report.tick).collect();
    assert_eq!(ticks, (1..=12).collect::<Vec<_>>(), "no tick is skipped and none is late");
    assert_eq!((rig.pool.live(), rig.journal.disconnects()), (2, 0), "nothing that they asked for happens");
    let failures = rig.journal.select(1_000, |record| record.what == ActionKind::PhaseFailed);
    for (name, _, result, words) in villains() {
        let runs = reports.iter().flat_map(|report| &report.runs).filter(|run| &*run.name == name);
        let results: Vec<&str> = runs.map(|run| run.result).collect();
        assert!(results.len() >= 4, "{name} is tried again: {results:?}");
        assert!(results.iter().all(|it| *it == result), "{name}: {results:?}");
        let told: Vec<&str> = failures
            .iter()
            .filter(|record| matches!(&record.by, Initiator::Phase { name: by, .. } if &**by == name))
            .map(|record| match &record.outcome {
                Outcome::Failed(words) => words.as_str(),
                other => panic!("{name}: {other:?}"),
            })
            .collect();
        assert_eq!(told.len(), results.len(), "each failure has its record");
        assert!(told.iter().all(|it| it.starts_with(words)), "{name}: {told:?}");
    }
}

/// Runs, most of which end badly.
const RUNS: usize = 2_000;
/// Modules that are compiled and dropped again.
const LOADS: usize = 40;
/// What memory may differ by between a fifth and all of them: the allocator's pages come and go. One leaked store a run
/// would be 16 KiB of tables and stack at least, and a mapping.
const SLACK_KIB: usize = 2_048;
const SLACK_MAPS: usize = 8;

#[test]
fn memory_comes_back_from_two_thousand_hostile_runs() {
    if !alone(module_path!(), "memory_comes_back_from_two_thousand_hostile_runs") {
        return;
    }
    let wasm = Wasm::by_hand(None).unwrap();
    let persistent = Instance::Persistent { max_runs: 3 };
    let bodies: Vec<Arc<dyn PhaseProgram>> = villains()
        .iter()
        .flat_map(|(_, wat, ..)| {
            let code = load(&wasm, &wat.component());
            [Instance::Fresh, persistent].map(|instance| {
                let setup = GuestSetup { instance, ..villain_setup() };
                Arc::new(Guest::new(&wasm, Arc::clone(&code), setup).unwrap()) as Arc<dyn PhaseProgram>
            })
        })
        .collect();
    let mut fence = Executor::Thread(PhaseThread::default());
    let peers = few();
    // Nothing here is native, so nothing has to be given up.
    let limit = Duration::from_secs(3_600);
    flat("runs", RUNS, |run| {
        let done = fence.run(&bodies[run % bodies.len()], job(&peers), limit).done;
        assert!(
            !matches!(done.ended, RunOutcome::Planned(_) | RunOutcome::Overran { .. }),
            "{:?}",
            done.ended
        );
    });
    let components: Vec<Vec<u8>> = villains().iter().map(|(_, wat, ..)| wat.component()).collect();
    flat("loads", LOADS, |at| {
        let code = load(&wasm, &components[at % components.len()]);
        let guest = Guest::new(&wasm, code, villain_setup()).unwrap();
        assert!(!matches!(guest.run(&job(&peers)).ended, RunOutcome::Planned(_)));
        // And one that is refused after it was compiled.
        _ = wasm.load(&wat::parse("(component)")).unwrap_err();
    });
}

/// Does it so often, and holds what the process has at the end against what it had after a fifth of it.
fn flat(what: &str, times: usize, mut once: impl FnMut(usize)) {
    let mut early = None;
    for at in 1..=times {
        once(at);
        if at == times / 5 {
            early = Some((resident_kib(), mappings()));
        }
    }
    let (early, late) = (early.expect("five times or more"), (resident_kib(), mappings()));
    println!("{what}: {early:?} (KiB, mappings) after {}, {late:?} after {times}", times / 5);
    assert!(late.0 <= early.0 + SLACK_KIB, "{what}: {early:?} early, {late:?} at the end");
    assert!(late.1 <= early.1 + SLACK_MAPS, "{what}: {early:?} early, {late:?} at the end");
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().lines().count()
}
