//! What a scan and the cycle say to each other: how often, and what happens in between.

use std::path::Path;
use std::sync::Arc;

use groundskeeper::reload::{CycleChange, PhaseChange, ReloadReport, ScanKind, StartFrom};

use super::disk::Memory;
use super::world::{Process, manifest, module};

const DIR: &str = "/phases.d";

fn put(memory: &Memory, version: u32, behaviour: &str) {
    memory.put(&Path::new(DIR).join("alpha.wasm"), module(version, behaviour).as_bytes());
    memory.put(&Path::new(DIR).join("alpha.toml"), manifest("alpha", "").as_bytes());
}

fn start(memory: &Memory, data: &Path) -> Process {
    Process::start(&Arc::default(), data, Path::new(DIR), Arc::new(memory.clone()), StartFrom::Folder)
}

/// A scan, with a tick before its `nth` exchange. How many there were.
fn scan(process: &mut Process, kind: ScanKind, nth: Option<u32>) -> (ReloadReport, u32) {
    let Process { cycle, reloader, tick, .. } = process;
    let mut exchanges = 0;
    let mut ticks = |change: CycleChange| {
        exchanges += 1;
        if nth == Some(exchanges) {
            *tick += 1;
            cycle.beat(groundskeeper::cycle::Beat {
                tick: *tick,
                urgent: 0,
                skipped: 0,
                slept: std::time::Duration::ZERO,
                lateness: std::time::Duration::ZERO,
            });
        }
        change(cycle);
        true
    };
    let report = reloader.scan(&mut ticks, kind);
    (report, exchanges)
}

#[test]
fn a_scan_takes_one_exchange_and_a_second_one_if_something_changes() {
    let (memory, data) = (Memory::default(), tempfile::tempdir().unwrap());
    put(&memory, 1, "good");
    let mut process = start(&memory, data.path());
    assert_eq!(scan(&mut process, ScanKind::Hint, None).1, 1);
    assert_eq!(scan(&mut process, ScanKind::Thorough, None).1, 1);
    put(&memory, 2, "good");
    let (report, exchanges) = scan(&mut process, ScanKind::Ordered, None);
    assert_eq!((report.events[0].change, exchanges), (PhaseChange::Applied, 2));
    put(&memory, 3, "nonsense");
    // What does not run is shown once.
    assert_eq!(scan(&mut process, ScanKind::Ordered, None).1, 2);
    assert_eq!(scan(&mut process, ScanKind::Ordered, None).1, 1);
}

#[test]
fn a_probation_that_ends_during_a_trial_counts_for_its_own_generation() {
    for (behaviour, change, back) in
        [("good", PhaseChange::Proven, 2), ("trap-run 3", PhaseChange::Returned, 1)]
    {
        let (memory, data) = (Memory::default(), tempfile::tempdir().unwrap());
        put(&memory, 1, "good");
        let mut process = start(&memory, data.path());
        for _ in 0..3 {
            process.beat();
            scan(&mut process, ScanKind::Hint, None);
        }
        put(&memory, 2, behaviour);
        scan(&mut process, ScanKind::Ordered, None);
        process.beat();
        process.beat();
        put(&memory, 3, "trap-run 1");
        let (report, _) = scan(&mut process, ScanKind::Ordered, Some(2));
        let changes: Vec<PhaseChange> = report.events.iter().map(|event| event.change).collect();
        assert_eq!(changes, [change, PhaseChange::Applied]);
        // The disk says so too: 3 is on probation, and what it goes back to is there.
        drop(process);
        let mut process = start(&memory, data.path());
        assert_eq!(process.runs("alpha"), Some(3), "{behaviour}");
        process.beat();
        let (report, _) = scan(&mut process, ScanKind::Hint, None);
        assert_eq!(report.events[0].change, PhaseChange::Returned, "{behaviour}");
        assert_eq!(process.runs("alpha"), Some(back), "{behaviour}");
        drop(process);
        assert_eq!(start(&memory, data.path()).runs("alpha"), Some(back), "{behaviour}: after a start");
    }
}
