//! Modules are compiled in a child process that cannot take the node with it.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use groundskeeper::engine::wasm::{
    CompileLimits, Compiler, InspectedBytes, LoadError, UncompiledModule, Wasm,
};
use rustix::process::{Pid, Signal, kill_process};

use crate::bombs;
use crate::processes::{Proc, Setup};
use crate::wat::Wat;

const PROGRAM: &str = env!("CARGO_BIN_EXE_groundskeeper");

/// Enough for a small phase, with a compiler that is not optimized.
const SMALL: CompileLimits = CompileLimits { cpu: Duration::from_secs(2), memory: 192 << 20, code: 8 << 20 };

fn engine(store: Option<&Path>, limits: CompileLimits) -> Wasm {
    let wasm = Wasm::new(store.map(Path::to_owned)).unwrap();
    wasm.compiled_by(Compiler::child(PROGRAM).within(limits))
}

fn uncompiled(wasm: &Wasm, bytes: &[u8]) -> UncompiledModule {
    match wasm.inspect(bytes).unwrap() {
        InspectedBytes::Uncompiled(module) => module,
        InspectedBytes::Compiled(_) => panic!("it is in the store"),
    }
}

/// Child processes of this thread.
fn children() -> Vec<Pid> {
    children_of(Path::new(&format!("/proc/self/task/{}", rustix::thread::gettid().as_raw_nonzero())))
}

fn children_of(task: &Path) -> Vec<Pid> {
    let children = fs::read_to_string(task.join("children")).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().unwrap())).collect()
}

/// The compilers of a node.
pub(super) fn compilers(node: &Proc) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    tasks.flat_map(|task| children_of(&task.unwrap().path())).collect()
}

/// Whether a process runs. One that has ended and was not waited for does not.
pub(super) fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

pub(super) fn put(folder: &Path, name: &str, module: &[u8]) {
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join(format!("{name}.wasm")), module).unwrap();
    let manifest = format!("name = \"{name}\"\nkind = \"wasm\"\n[schedule]\nevery_n_ticks = 1\n");
    fs::write(folder.join(format!("{name}.toml")), manifest).unwrap();
}

/// State and number of runs of a phase.
fn phase(node: &Proc, name: &str) -> (String, u64) {
    let list = node.ask(&["phases"]).expect("the node answers");
    let phase = list["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == name).cloned();
    let phase = phase.unwrap_or_else(|| panic!("no {name}: {list}"));
    (phase["state"].as_str().unwrap().to_owned(), phase["runs"].as_u64().unwrap())
}

#[test]
fn a_folder_of_compile_bombs_stops_neither_start_nor_ticks_nor_stop() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("data/phases.d");
    let bombs = bombs::all();
    for (number, (_, module)) in bombs.iter().take(3).enumerate() {
        put(&folder, &format!("bomb-{number}"), &bombs::phase_with(module));
    }
    let setup = Setup::new(home.path(), "200ms");
    for start in 0..2 {
        let node = setup.start();
        node.until("ten ticks", || node.tick() >= 10);
        // Compiled before the bombs, because it is smaller, or beside them.
        put(&folder, "good", &Wat::default().component());
        node.until("the good phase runs", || {
            let list = node.ask(&["phases"]).expect("the node answers");
            list["phases"]
                .as_array()
                .unwrap()
                .iter()
                .any(|phase| phase["name"] == "good" && phase["runs"] != 0)
        });
        // An optimized compiler may have come to the end of one.
        let (state, runs_of_bomb) = phase(&node, "bomb-0");
        assert!(state == "compiling" || state == "rejected", "start {start}: {state}");
        assert_eq!(runs_of_bomb, 0);
        let compilers = compilers(&node);
        assert_eq!(node.stop(), Some(0), "start {start}");
        until("the compilers have ended", || !compilers.iter().any(|pid| runs(*pid)));
    }
}

#[test]
fn a_node_that_is_killed_takes_its_compilers_with_it() {
    let home = tempfile::tempdir().unwrap();
    put(&home.path().join("data/phases.d"), "bomb", &bombs::phase_with(&bombs::all()[0].1));
    let node = Setup::new(home.path(), "200ms").start();
    let mut found = Vec::new();
    node.until("it compiles", || {
        found = compilers(&node);
        !found.is_empty()
    });
    node.kill();
    until("the compilers have ended", || !found.iter().any(|pid| runs(*pid)));
}

#[test]
fn a_phase_that_is_installed_is_compiled_once_for_command_and_node() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let module = home.path().join("small.wasm");
    fs::write(&module, Wat::default().component()).unwrap();
    fs::write(
        home.path().join("small.toml"),
        "name = \"small\"\nkind = \"wasm\"\nmodule = \"small.wasm\"\n[schedule]\nevery_n_ticks = 1\n",
    )
    .unwrap();
    let node = Setup::new(home.path(), "200ms").start();
    let install = |more: &[&str]| {
        let output = Command::new(PROGRAM).arg("install").arg(&module).args(more).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let data_dir = data.to_str().unwrap();
    let told = install(&["--data-dir", data_dir]);
    assert!(told.contains("the running node loads it now"), "{told}");
    node.until("it runs", || {
        let list = node.ask(&["phases"]).expect("the node answers");
        list["phases"].as_array().unwrap().iter().any(|phase| phase["name"] == "small" && phase["runs"] != 0)
    });
    let compiled = fs::read_dir(data.join("artifacts")).unwrap().count();
    assert_eq!(compiled, 1, "by the command, or by the node: never by both");
    let told = install(&["--data-dir", data_dir]);
    assert!(told.contains("replaces an earlier one; the running node tries it now"), "{told}");
    assert_eq!(node.stop(), Some(0));
    let told = install(&["--data-dir", data_dir]);
    assert!(told.contains("no node runs"), "{told}");
}

/// Looks again until `done` or the end of all patience.
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn compile_bombs_are_refused_within_their_limits() {
    let wasm = engine(None, SMALL);
    let mut refused = 0;
    for (name, module) in bombs::all() {
        let phase = bombs::phase_with(&module);
        let ended = wasm.load(&phase);
        println!("{name}, {} KB: {ended:?}", phase.len() / 1000);
        match ended {
            Err(LoadError::TooCostly(why)) => {
                assert!(
                    why == "2 s of CPU time" || why == "192 MiB of memory" || why == "8 MiB of machine code",
                    "{why}"
                );
                refused += 1;
            }
            // A faster compiler may get through with some.
            Ok(_) => {}
            Err(LoadError::TooLarge { .. }) => refused += 1,
            Err(other) => panic!("{name}: {other}"),
        }
        assert_eq!(children(), [], "{name}");
    }
    assert!(refused >= 6, "{refused}");
    wasm.load(&Wat::default().component()).expect("a phase still compiles");
}

#[test]
fn compile_bombs_are_refused_in_process_before_anything_is_compiled() {
    let wasm = Wasm::new(None).unwrap();
    for (name, module) in bombs::all() {
        let error = wasm.load(&bombs::phase_with(&module)).unwrap_err();
        assert!(
            matches!(error, LoadError::NeedsChild { .. } | LoadError::TooLarge { .. }),
            "{name}: {error}"
        );
    }
}

#[test]
fn a_component_that_is_no_phase_is_refused_before_it_is_compiled() {
    // No such program, so nothing can be compiled; and the fallback would say so.
    let wasm = engine(None, SMALL);
    for (name, module) in bombs::all() {
        let error = wasm.inspect(&bombs::component(&module)).map(|_| ()).unwrap_err();
        assert!(matches!(error, LoadError::NoPhase(_) | LoadError::TooLarge { .. }), "{name}: {error}");
    }
}

#[test]
fn a_module_with_two_memories_is_refused() {
    let wat = Wat { tail: "(memory $second 1)".into(), ..Wat::default() };
    let error = Wasm::new(None).unwrap().load(&wat.component()).unwrap_err();
    assert_eq!(error.to_string(), "it has 2 memories in one module; this host takes 1");
}

#[test]
fn a_compiler_that_somebody_kills_is_no_fault_of_the_module() {
    let wasm = engine(None, CompileLimits::default());
    let bomb = bombs::phase_with(&bombs::all()[0].1);
    let module = uncompiled(&wasm, &bomb);
    let kill = || {
        for child in children() {
            // Fails if it has ended in between.
            _ = kill_process(child, Signal::KILL);
        }
        true
    };
    let error = wasm.compile(&module, &kill).map(|_| ()).unwrap_err();
    assert!(error.is_machines(), "{error}");
    assert_eq!(error.to_string(), "compiling it was interrupted: signal 9 ended the compiler");
}

#[test]
fn a_compile_that_nobody_waits_for_ends_with_its_process() {
    let wasm = engine(None, CompileLimits::default());
    let module = uncompiled(&wasm, &bombs::phase_with(&bombs::all()[0].1));
    let looks = Cell::new(0);
    let error = wasm.compile(&module, &|| {
        looks.set(looks.get() + 1);
        looks.get() < 5
    });
    assert!(error.map(|_| ()).unwrap_err().is_machines());
    assert_eq!(children(), []);
}

#[test]
fn without_child_processes_it_compiles_in_process_under_stricter_limits() {
    let home = tempfile::tempdir().unwrap();
    let not_executable = home.path().join("program");
    fs::write(&not_executable, "").unwrap();
    for program in [PathBuf::from("/does/not/exist"), not_executable] {
        let wasm = Wasm::new(None).unwrap().compiled_by(Compiler::child(program));
        wasm.load(&Wat::default().component()).unwrap();
        let error = wasm.load(&bombs::phase_with(&bombs::all()[0].1)).unwrap_err();
        assert!(matches!(error, LoadError::NeedsChild { .. }), "{error}");
    }
}

#[test]
fn a_program_that_is_no_compiler_is_told_as_a_fault_of_the_machine() {
    for program in ["/bin/true", "/bin/false"] {
        let wasm = Wasm::new(None).unwrap().compiled_by(Compiler::child(program));
        let error = wasm.load(&Wat::default().component()).unwrap_err();
        assert!(error.is_machines(), "{program}: {error}");
    }
}

#[test]
fn code_that_was_compiled_once_is_found_by_the_next_process() {
    let home = tempfile::tempdir().unwrap();
    let phase = Wat::default().component();
    engine(Some(home.path()), CompileLimits::default()).load(&phase).unwrap();
    let files: Vec<_> = fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().path()).collect();
    assert!(files.len() == 1 && files[0].extension().is_some_and(|end| end == "cwasm"), "{files:?}");
    let next = Wasm::new(Some(home.path().to_owned())).unwrap().compiled_by(Compiler::child("/bin/false"));
    assert!(matches!(next.inspect(&phase), Ok(InspectedBytes::Compiled(_))));
}

#[test]
fn a_compiler_that_is_killed_leaves_whole_code_or_none() {
    let kills: u32 = std::env::var("GROUNDSKEEPER_KILLS").map_or(20, |kills| kills.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let phase = Wat::default().component();
    let wasm = engine(Some(home.path()), CompileLimits::default());
    let (mut killed, mut whole) = (0, 0);
    for kill in 0..kills {
        let module = uncompiled(&wasm, &phase);
        let looks = Cell::new(0);
        let ended = wasm.compile(&module, &|| {
            looks.set(looks.get() + 1);
            // At different moments: a compile of this phase takes some five looks.
            if looks.get() > kill % 5 {
                children().into_iter().for_each(|child| _ = kill_process(child, Signal::KILL));
            }
            true
        });
        let entries: Vec<_> = fs::read_dir(home.path()).unwrap().map(|file| file.unwrap().path()).collect();
        match ended {
            Ok(_) => {
                whole += 1;
                assert_eq!(entries.len(), 1, "{entries:?}");
                fs::remove_file(&entries[0]).unwrap();
            }
            Err(error) => {
                killed += 1;
                assert!(error.is_machines(), "{error}");
                assert_eq!(entries, [] as [PathBuf; 0], "{error}");
            }
        }
    }
    println!("{killed} killed, {whole} compiled");
    assert!(killed > 0);
}
