//! Modules that take long to compile: nothing waits for them, and what ran before runs on.

use std::path::Path;
use std::sync::Arc;

use groundskeeper::data::FileSystem;
use groundskeeper::registry::PhaseState;
use groundskeeper::reload::{PhaseChange, ReloadOptions, ScanKind, StartFrom};

use super::disk::Memory;
use super::world::{Hand, Process, Scripts, manifest, module};

const DIR: &str = "/phases.d";

/// A node whose compiler takes until it is told to be done.
struct Slow {
    memory: Memory,
    scripts: Scripts,
    clock: Arc<Hand>,
    process: Option<Process>,
    data: tempfile::TempDir,
}

impl Slow {
    fn new() -> Self {
        let (memory, scripts) = (Memory::default(), Scripts::default());
        memory.make_folder(Path::new(DIR), 0).unwrap();
        scripts.compiler.lock().is_slow = true;
        let (clock, data) = (Arc::new(Hand::default()), tempfile::tempdir().unwrap());
        let mut slow = Self { memory, scripts, clock, process: None, data };
        slow.restart();
        slow
    }

    fn restart(&mut self) {
        drop(self.process.take());
        let files = Arc::new(self.memory.clone());
        let factory = self.scripts.clone().factory();
        let options = ReloadOptions::trusting(DIR.into());
        self.process = Some(Process::start_with(
            &self.clock,
            self.data.path(),
            options,
            files,
            StartFrom::Folder,
            factory,
        ));
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn put(&self, name: &str, version: u32, behaviour: &str, more: &str) {
        self.memory.put(Path::new(&format!("{DIR}/{name}.wasm")), module(version, behaviour).as_bytes());
        self.memory.put(Path::new(&format!("{DIR}/{name}.toml")), manifest(name, more).as_bytes());
    }

    /// Scans until nothing more happens; what happened.
    fn rest(&mut self) -> Vec<(String, PhaseChange)> {
        let reports = self.process().come_to_rest();
        let events = reports.into_iter().flat_map(|report| report.events);
        events.map(|event| (event.phase, event.change)).collect()
    }

    /// Puts a phase in and has it compiled.
    fn put_in(&mut self, name: &str, version: u32) {
        self.put(name, version, "good", "");
        self.rest();
        self.scripts.compiler.lock().finish();
        self.rest();
        for _ in 0..4 {
            self.process().beat();
            self.rest();
        }
        assert_eq!(self.process().runs(name), Some(version));
    }

    fn state(&mut self, name: &str) -> PhaseState {
        self.process().phase(name).unwrap().state
    }
}

fn told(name: &str, change: PhaseChange) -> (String, PhaseChange) {
    (name.to_owned(), change)
}

#[test]
fn what_runs_runs_on_while_its_successor_is_compiled() {
    let mut slow = Slow::new();
    slow.put_in("alpha", 1);
    slow.put("alpha", 2, "good", "");
    assert_eq!(slow.rest(), [told("alpha", PhaseChange::Compiling)]);
    for _ in 0..3 {
        assert!(slow.process().beat().runs.iter().any(|run| run.result == "ok"));
        assert_eq!(slow.rest(), [], "it is told once");
    }
    let phase = slow.process().phase("alpha").unwrap();
    let candidate = phase.candidate.expect("it is shown");
    assert_eq!((candidate.state, slow.process().runs("alpha")), (PhaseState::Compiling, Some(1)));
    assert!(candidate.since_unix_s.is_some());
    // An order says that it is still being compiled.
    let report = slow.process().step(ScanKind::Ordered);
    assert!(!report.is_good() && report.events[0].change == PhaseChange::Compiling, "{report:?}");

    slow.scripts.compiler.lock().finish();
    assert_eq!(slow.rest(), [told("alpha", PhaseChange::Applied)]);
    assert_eq!((slow.process().runs("alpha"), slow.state("alpha")), (Some(2), PhaseState::Probation));
}

#[test]
fn other_changes_do_not_wait_for_a_compile() {
    let mut slow = Slow::new();
    slow.put_in("alpha", 1);
    slow.put("beta", 2, "good", "");
    assert_eq!(slow.rest(), [told("beta", PhaseChange::Compiling)]);
    assert_eq!(slow.state("beta"), PhaseState::Compiling);
    // Only the manifest changes: the module is compiled already.
    slow.put("alpha", 1, "good", "mode = \"shadow\"");
    assert_eq!(slow.rest(), [told("alpha", PhaseChange::Applied)]);
    // Files that are taken away take the compile with them.
    slow.memory.delete(Path::new(&format!("{DIR}/beta.toml")));
    slow.memory.delete(Path::new(&format!("{DIR}/beta.wasm")));
    slow.rest();
    slow.scripts.compiler.lock().finish();
    assert_eq!((slow.rest(), slow.process().phase("beta")), (vec![], None));
}

#[test]
fn bytes_that_replace_bytes_in_the_compiler_are_those_that_run() {
    let mut slow = Slow::new();
    slow.put("alpha", 1, "good", "");
    slow.rest();
    slow.put("alpha", 2, "good", "");
    assert_eq!(slow.rest(), [told("alpha", PhaseChange::Compiling)]);
    slow.scripts.compiler.lock().finish();
    assert_eq!(slow.rest(), [told("alpha", PhaseChange::Applied)]);
    assert_eq!(slow.process().runs("alpha"), Some(2));
}

#[test]
fn a_node_with_another_compiler_starts_and_puts_in_what_ran_when_it_is_compiled() {
    let mut slow = Slow::new();
    slow.put_in("alpha", 1);
    // "beta" is on probation when the process ends.
    slow.put_in("beta", 1);
    slow.put("beta", 2, "trap-run 2", "");
    slow.rest();
    slow.scripts.compiler.lock().finish();
    slow.rest();
    let digest = slow.process().phase("alpha").unwrap().digest;

    slow.scripts.compiler.lock().update();
    slow.restart();
    assert!(slow.process().begun.is_ok());
    assert_eq!((slow.state("alpha"), slow.state("beta")), (PhaseState::Compiling, PhaseState::Compiling));
    slow.process().beat();
    slow.put("gamma", 1, "good", "");
    slow.rest();
    slow.scripts.compiler.lock().finish();
    slow.rest();
    // No trial and no probation for what ran; and "beta" needs its former generation first.
    assert_eq!(
        (slow.state("alpha"), slow.process().phase("alpha").unwrap().digest),
        (PhaseState::Active, digest)
    );
    slow.scripts.compiler.lock().finish();
    slow.rest();
    assert_eq!((slow.process().runs("beta"), slow.state("beta")), (Some(2), PhaseState::Probation));
    for _ in 0..3 {
        slow.process().beat();
        slow.rest();
    }
    assert_eq!(slow.process().runs("beta"), Some(1), "it went back to the generation before");
    assert_eq!(slow.process().runs("gamma"), Some(1));
}

#[test]
fn a_good_generation_runs_while_the_bytes_in_the_folder_are_compiled_at_a_start() {
    let mut slow = Slow::new();
    slow.put_in("alpha", 1);
    drop(slow.process.take());
    slow.put("alpha", 2, "good", "");
    slow.restart();
    assert_eq!(slow.process().runs("alpha"), Some(1));
    let candidate = slow.process().phase("alpha").unwrap().candidate.unwrap();
    assert_eq!(candidate.state, PhaseState::Compiling);
    slow.scripts.compiler.lock().finish();
    slow.rest();
    assert_eq!((slow.process().runs("alpha"), slow.state("alpha")), (Some(2), PhaseState::Probation));
}
