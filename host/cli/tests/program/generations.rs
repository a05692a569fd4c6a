//! Many generations of a phase in one node: what compilers that are killed, bombs and time leave behind.

use std::fs;
use std::path::Path;

use groundskeeper::data::Generation;
use rustix::process::{Signal, kill_process};
use serde_json::Value;

use crate::bombs;
use crate::compiling::{compilers, put, runs};
use crate::local_api::ask_socket;
use crate::processes::{Proc, Setup};
use crate::wat::Wat;

/// Functions of a phase whose compiler needs memory, and of one that is compiled within a second or two by a compiler that
/// is not optimized.
const MANY: usize = 200;
const FEW: usize = 8;

/// A phase with functions that it never calls: enough for a compiler to need memory.
fn large(version: usize, functions: usize) -> Vec<u8> {
    let one = |number: usize| {
        let adds = "(local.set 0 (i32.add (local.get 0) (i32.load (local.get 0))))".repeat(20);
        format!(
            "(func (param i32) (result i32) (local.set 0 (i32.const {})) {adds} (local.get 0))",
            number + version
        )
    };
    Wat { tail: (0..functions).map(one).collect(), ..Wat::default() }.component()
}

fn resident_kib(node: &Proc) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The phase of this name as the node lists it, if it does.
fn listed(node: &Proc, name: &str) -> Option<Value> {
    let list = node.ask(&["phases"]).expect("the node answers");
    list["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == name).cloned()
}

/// A number from the environment, for long runs of a test by hand.
fn from_environment(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|number| number.parse().unwrap_or_else(|error| panic!("{name}: {error}")))
}

/// By hand, in a release build: GROUNDSKEEPER_INSTALLS=100 GROUNDSKEEPER_INSTALL_KB=18000. The large component is padded:
/// a third is code that is compiled, the rest is data, and neither is instantiated.
#[test]
fn memory_after_many_installs_is_that_of_a_restarted_node() {
    /// The address book, the journal and the allocator are not the same in both. Of a node with a large component they are
    /// part of the tenth.
    const SLACK_KIB: u64 = 8 << 10;
    let installs = from_environment("GROUNDSKEEPER_INSTALLS").unwrap_or(6);
    let kilobytes = from_environment("GROUNDSKEEPER_INSTALL_KB");
    let component = |version| match kilobytes {
        Some(kilobytes) => bombs::phase_with(&bombs::large(version, kilobytes * 1000)),
        None => large(version, MANY),
    };
    let slack = if kilobytes.is_some() { 0 } else { SLACK_KIB };
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("data/phases.d");
    let setup = Setup::new(home.path(), "100ms");
    let node = setup.start();
    let mut before = Value::Null;
    for version in 0..installs {
        put(&folder, "large", &component(version));
        node.until("the new generation runs", || {
            let runs = |phase: &Value| {
                phase["runs"] != 0 && phase["digest"] != before && phase["candidate"].is_null()
            };
            let Some(phase) = listed(&node, "large").filter(runs) else { return false };
            before = phase["digest"].clone();
            true
        });
    }
    let after_installs = resident_kib(&node);
    assert_eq!(node.stop(), Some(0));
    let node = setup.start();
    node.until("it runs again", || listed(&node, "large").is_some_and(|phase| phase["runs"] != 0));
    node.until("it has run for a while", || node.tick() >= 5);
    let restarted = resident_kib(&node);
    println!("{after_installs} KiB after {installs} installs, {restarted} KiB after a restart");
    assert!(after_installs <= restarted + restarted / 10 + slack, "{after_installs}, {restarted}");
    assert_eq!(node.stop(), Some(0));
}

/// The beginning of the digest of the generation that is in the folder, as the node shows it.
fn digest_in(folder: &Path, name: &str) -> String {
    let manifest = fs::read_to_string(folder.join(format!("{name}.toml"))).unwrap();
    let module = fs::read(folder.join(format!("{name}.wasm"))).unwrap();
    let digest = Generation { manifest, module }.digest();
    digest[..6].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// By hand: GROUNDSKEEPER_KILLS=200.
#[test]
fn a_node_whose_compiler_is_killed_runs_the_old_generation_or_the_new_one() {
    let kills = from_environment("GROUNDSKEEPER_KILLS").unwrap_or(8);
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("data/phases.d");
    let node = Setup::new(home.path(), "100ms").start();
    let mut version = 0;
    let is_in = |phase: &Value| phase["runs"] != 0 && phase["candidate"].is_null();
    put(&folder, "large", &large(version, FEW));
    let mut found = Vec::new();
    node.until("it compiles", || {
        found = compilers(&node);
        !found.is_empty()
    });
    // Looks that fit into a compile.
    let whole = (0_usize..).take_while(|_| found.iter().any(|pid| runs(*pid))).count();
    node.until("the first generation runs", || listed(&node, "large").is_some_and(|phase| is_in(&phase)));
    let mut current = digest_in(&folder, "large");
    let (mut killed, mut compiled) = (0, 0);
    while killed < kills {
        version += 1;
        put(&folder, "large", &large(version, FEW));
        let new = digest_in(&folder, "large");
        let look = || {
            let phase = listed(&node, "large").expect("the phase is there all the time");
            assert!(phase["state"] == "active" || phase["state"] == "probation", "{phase}");
            let runs = phase["digest"].as_str().expect("it has a generation").to_owned();
            assert!(runs == current || runs == new, "neither {current} nor {new}: {phase}");
            (runs, phase["candidate"].clone())
        };
        let mut found = Vec::new();
        node.until("it compiles, or is through already", || {
            found = compilers(&node);
            !found.is_empty() || look().0 == new
        });
        // Any moment of the compile.
        let looks = version * 7919 % (whole + whole / 8 + 1);
        (0..looks).take_while(|_| found.iter().any(|pid| runs(*pid))).for_each(drop);
        let hit =
            found.into_iter().filter(|pid| runs(*pid) && kill_process(*pid, Signal::KILL).is_ok()).count();
        killed += hit;
        let mut seen = (String::new(), Value::Null);
        node.until("the node has noticed", || {
            seen = look();
            let is_refused = seen.1["digest"] == new && seen.1["state"] != "compiling";
            seen.0 == new || is_refused
        });
        compiled += usize::from(seen.0 == new);
        current = seen.0;
    }
    println!(
        "{whole} looks in a compile; {killed} compilers killed, {compiled} of {version} generations came in all the same"
    );
    // The last compile is left alone.
    put(&folder, "large", &large(version + 1, FEW));
    let last = digest_in(&folder, "large");
    node.until("the last generation runs", || {
        listed(&node, "large").is_some_and(|phase| phase["digest"] == last && is_in(&phase))
    });
    assert_eq!(node.stop(), Some(0));
}

/// Ticks of the node that came after skipped points of its grid.
fn late_ticks(node: &Proc) -> u64 {
    let (_, metrics) = ask_socket(&node.socket(), "/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix("groundskeeper_ticks_late_total "));
    value.unwrap_or_else(|| panic!("no such counter in {metrics}")).parse().unwrap()
}

#[test]
fn no_tick_is_late_because_of_compile_bombs() {
    let (home, other_home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = home.path().join("data/phases.d");
    let node = Setup::new(home.path(), "1s").start();
    let other = Setup::new(other_home.path(), "1s").start();
    node.until("the first tick", || node.tick() > 0);
    for (number, (_, module)) in bombs::all().iter().enumerate() {
        put(&folder, &format!("bomb-{number}"), &bombs::phase_with(module));
    }
    node.until("it compiles", || !compilers(&node).is_empty());
    let first = node.tick();
    let mut looks_at_work = 0;
    node.until("twenty ticks", || {
        looks_at_work += usize::from(!compilers(&node).is_empty());
        node.tick() >= first + 20
    });
    // A machine that stands still makes the node without bombs late too.
    let (late, late_by_machine) = (late_ticks(&node), late_ticks(&other));
    println!(
        "{late} late ticks, {late_by_machine} of a node without bombs; compilers in {looks_at_work} looks"
    );
    assert!(looks_at_work > 10, "{looks_at_work}");
    assert!(late <= late_by_machine, "{late} late ticks, and {late_by_machine} of a node without bombs");
    assert_eq!(node.stop(), Some(0));
    assert_eq!(other.stop(), Some(0));
}
