//! The protocol with real components: made by hand, loaded and run by the real engine.

use std::fs;
use std::sync::Arc;

use groundskeeper::data::DiskFileSystem;
use groundskeeper::loader::Loader;
use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{PhaseChange, ReloadOptions, ScanKind, StartFrom};

use super::world::{Hand, Process};
use crate::wat::Wat;

const MANIFEST: &str = "name = \"alpha\"\nkind = \"wasm\"\n[schedule]\nevery_n_ticks = 1\n";

/// A phase that traps from this tick on. On trial the tick is the next one.
fn traps_from(tick: u32) -> Vec<u8> {
    let run =
        format!("(if (i32.ge_u (local.get $number) (i32.const {tick})) (then (unreachable))) (i32.const 8)");
    Wat::run(&run).component()
}

#[test]
fn a_component_that_does_badly_never_replaces_one_that_does_well() {
    let good = Wat::default().component();
    let traps_in_check = Wat { check: "(unreachable)".into(), ..Wat::default() }.component();
    let traps_in_describe = Wat { describe: "(unreachable)".into(), ..Wat::default() }.component();
    let endless = Wat::run("(loop $on (br $on)) (i32.const 8)").component();
    let cases: [(&str, Vec<u8>, PhaseChange, &str); 7] = [
        ("half of it", good[..good.len() / 2].to_vec(), PhaseChange::Pending, "damaged or incomplete"),
        ("no component", b"#!/bin/sh".to_vec(), PhaseChange::Rejected, "alpha.wasm"),
        ("traps in describe", traps_in_describe, PhaseChange::Rejected, "its `describe` failed"),
        ("traps in check", traps_in_check, PhaseChange::Rejected, "unreachable"),
        ("traps on trial", traps_from(0), PhaseChange::Rejected, "on trial"),
        ("never comes back", endless, PhaseChange::Rejected, "on trial"),
        ("traps in its second run", traps_from(5), PhaseChange::Returned, "unreachable"),
    ];
    for (name, bad, change, words) in cases {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("phases.d");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("alpha.wasm"), &good).unwrap();
        fs::write(dir.join("alpha.toml"), MANIFEST).unwrap();
        let loader = Loader::lazy(home.path().join("artifacts"), false);
        let options = ReloadOptions::trusting(dir.clone());
        let data = home.path().join("data");
        let clock = Arc::new(Hand::default());
        let mut process =
            Process::start_with(&clock, &data, options, Arc::new(DiskFileSystem), StartFrom::Folder, loader);
        for _ in 0..3 {
            process.beat();
            process.step(ScanKind::Hint);
        }
        let digest = process.phase("alpha").expect("it runs").digest;

        fs::write(dir.join("alpha.wasm"), &bad).unwrap();
        let mut events = process.step(ScanKind::Ordered).events;
        for tick in 4..=6 {
            let report = process.beat();
            assert_eq!(report.tick, tick, "{name}");
            assert!(report.runs.iter().any(|run| run.result == "ok"), "{name}: nothing ran at tick {tick}");
            events.extend(process.step(ScanKind::Hint).events);
        }
        let told = events.iter().find(|event| event.change == change);
        let told = told.unwrap_or_else(|| panic!("{name}: {events:?}"));
        assert!(told.why.as_deref().is_some_and(|why| why.contains(words)), "{name}: {told:?}");
        let phase = process.phase("alpha").expect("it runs on");
        assert_eq!((phase.digest, phase.state), (digest.clone(), PhaseState::Active), "{name}");
        assert!(
            phase.candidate.is_some_and(|one| one.why.contains(words)),
            "{name}: what lies there is shown"
        );

        if change == PhaseChange::Returned {
            // Bytes that have failed are not tried again, until the operator says that they may be.
            assert_eq!(
                process.step(ScanKind::Thorough).events.iter().filter(|event| event.change.is_good()).count(),
                0
            );
            process.reloader.forgive("alpha");
            let events = process.step(ScanKind::Thorough).events;
            assert!(
                events.iter().all(|event| event.why.as_deref().is_some_and(|why| why.contains("on trial")))
            );
            assert!(!events.is_empty(), "it is tried, and traps at this tick");
        }

        // Put right, it is taken without a restart.
        fs::write(dir.join("alpha.wasm"), Wat::run("(nop) (i32.const 8)").component()).unwrap();
        let events = process.step(ScanKind::Ordered).events;
        assert!(events.iter().any(|event| event.change == PhaseChange::Applied), "{name}: {events:?}");
        let phase = process.phase("alpha").expect("it runs");
        assert!(phase.digest != digest && phase.candidate.is_none(), "{name}");
    }
}

#[test]
fn guests_that_use_all_their_time_on_trial_do_not_delay_the_others() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("phases.d");
    fs::create_dir(&dir).unwrap();
    let options = ReloadOptions::trusting(dir.clone());
    let (data, clock, files) =
        (home.path().join("data"), Arc::new(Hand::default()), Arc::new(DiskFileSystem));
    let loader = Loader::lazy(home.path().join("artifacts"), false);
    let mut process = Process::start_with(&clock, &data, options, files, StartFrom::Folder, loader);
    let put = |name: &str, module: &[u8]| {
        let limits = "[limits]\nfuel = 10000000000\nwall = \"2s\"\n";
        let manifest = format!("name = \"{name}\"\nkind = \"wasm\"\n{limits}");
        fs::write(dir.join(format!("{name}.wasm")), module).unwrap();
        fs::write(dir.join(format!("{name}.toml")), manifest).unwrap();
    };
    let endless = Wat::run("(loop $on (br $on)) (i32.const 8)").component();
    ["a-endless", "b-endless"].iter().for_each(|name| put(name, &endless));
    put("quick", &Wat::default().component());

    process.step(ScanKind::Ordered);
    let state = |process: &Process, name: &str| process.phase(name).map(|phase| phase.state);
    assert_eq!(state(&process, "quick"), Some(PhaseState::Probation), "it does not wait for the others");
    assert_eq!(state(&process, "a-endless"), Some(PhaseState::Rejected));
    assert_eq!(state(&process, "b-endless"), Some(PhaseState::Pending));
    process.come_to_rest();
    assert_eq!(state(&process, "b-endless"), Some(PhaseState::Rejected));
    let why = process.phase("b-endless").and_then(|phase| phase.last_error).unwrap();
    assert!(why.contains("on trial") && why.contains("2000 ms"), "{why}");
}
