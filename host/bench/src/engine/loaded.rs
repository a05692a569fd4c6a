//! Memory of loaded phases, and the cost of loading: compiled, and from the artifact store. Each in a separate process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use groundskeeper::engine::PhaseProgram;
use groundskeeper::engine::policy::Instance;
use groundskeeper::engine::wasm::Wasm;

use super::{GROUP, SLOW_PEERS, Scratch, empty, guest, job, once, setup};
use crate::Effort;
use crate::report::{Reach, Report, Row};
use crate::rounds::median;

/// The argument that makes this binary load phases and report their memory: `loaded <folder> <module>`.
pub const CHILD: &str = "loaded-phases";

const PHASES: usize = 100;
const SETTINGS: &str = r#"{}"#;

pub fn run(effort: &Effort, report: &mut Report) {
    for module in ["slow-peers", "empty"] {
        let scratch = Scratch::new(module);
        let compiled = child(Path::new("-"), module);
        // The first child fills the store.
        child(&scratch.0, module);
        let mut loads: Vec<Loaded> = Vec::new();
        for _ in 0..effort.choose(5, 2) {
            loads.push(child(&scratch.0, module));
        }
        let stored = Loaded {
            kib: median(loads.iter().map(|it| it.kib).collect()),
            anonymous_kib: median(loads.iter().map(|it| it.anonymous_kib).collect()),
            load_us: median(loads.iter().map(|it| it.load_us).collect()),
        };
        let subject = format!("{module}, {PHASES} modules");
        for (how, it) in [("compiled", &compiled), ("from the artifact store", &stored)] {
            let note = format!("of it {:.0} KiB not backed by the store's files", it.anonymous_kib);
            report.push(
                Row::cost(
                    GROUP,
                    "memory per loaded phase",
                    format!("{subject}, {how}"),
                    it.kib / 1024.0,
                    "MB",
                )
                .reach(Reach::AtMost(1.0))
                .note(note),
            );
        }
        report.push(
            Row::cost(GROUP, "load from the artifact store", subject, stored.load_us, "us")
                .against("compiling", compiled.load_us)
                .reach(Reach::Times(20.0)),
        );
    }
}

/// Cost per phase.
struct Loaded {
    kib: f64,
    anonymous_kib: f64,
    load_us: f64,
}

fn child(store: &Path, module: &str) -> Loaded {
    let output = Command::new(std::env::current_exe().expect("this binary"))
        .args([CHILD.as_ref(), store.as_os_str(), module.as_ref()])
        .output()
        .expect("this binary runs");
    let told = String::from_utf8(output.stdout).expect("numbers");
    let numbers: Vec<f64> = told.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [kib, anonymous_kib, load_us] = numbers[..] else {
        panic!("{told}{}", String::from_utf8_lossy(&output.stderr));
    };
    Loaded { kib, anonymous_kib, load_us }
}

fn bytes_of(module: &str) -> Vec<u8> {
    if module == "slow-peers" { SLOW_PEERS.to_vec() } else { empty() }
}

/// Loads the module as often as a node might, each time with different bytes, and runs each copy once.
pub fn tell(store: &str, module: &str) -> std::process::ExitCode {
    let store = (store != "-").then(|| PathBuf::from(store));
    let wasm = Wasm::new(store).expect("a folder of our own");
    let bytes = bytes_of(module);
    let setup =
        || groundskeeper::engine::wasm::GuestSetup { settings: SETTINGS.into(), ..setup(Instance::Fresh) };
    let job = job(100);
    // Load one before the measurement: it pays for what all of them share.
    let first = guest(&wasm, &numbered(&bytes, usize::MAX), setup());
    once(&first, &job);
    let modules: Vec<Vec<u8>> = (0..PHASES).map(|at| numbered(&bytes, at)).collect();
    let (before, mut taken) = (resident(), Vec::new());
    let guests: Vec<_> = modules
        .iter()
        .map(|bytes| {
            let begun = Instant::now();
            let code = wasm.load(bytes).unwrap_or_else(|error| panic!("{error}"));
            taken.push(begun.elapsed().as_nanos() as f64 / 1000.0);
            let guest = groundskeeper::engine::wasm::Guest::new(&wasm, code, setup());
            guest.unwrap_or_else(|error| panic!("{error}"))
        })
        .collect();
    guests.iter().for_each(|guest| _ = once(guest as &dyn PhaseProgram, &job));
    let after = resident();
    let per_phase = |at: usize| (after[at] - before[at]) / PHASES as f64;
    println!("{} {} {}", per_phase(0), per_phase(1), median(taken));
    std::process::ExitCode::SUCCESS
}

/// The module with a number appended: different bytes, so a different digest.
fn numbered(bytes: &[u8], number: usize) -> Vec<u8> {
    const CUSTOM: u8 = 0;
    let mut all = bytes.to_vec();
    all.extend([CUSTOM, 10, 1, b'n']);
    all.extend(number.to_le_bytes());
    all
}

/// Resident memory of this process in KiB: in total, and the part without a backing file.
fn resident() -> [f64; 2] {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    ["VmRSS:", "RssAnon:"].map(|name| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("Linux says so");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
    })
}
