//! The commands of this repository. Reads the command line and picks one; cargo and its tools do the work.

mod advisories;
mod api;
mod bench;
mod check;
mod fuzz;
mod guests;
mod package;
mod sim;
mod soak;
mod steps;
mod tally;
mod test;
mod tsan;
// The same file as in the binary, because its `build` picks a toolchain in the same way.
#[path = "../../author/src/toolchain.rs"]
mod toolchain;
mod words;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;

use steps::Steps;

const HELP: &str = "\
cargo xtask VERB

  check [PART..]                    everything but the tests; parts: fmt words package deny clippy doc api
                                    guests
  package                           packs every published crate and builds it from its package
  test                              every test of the workspace, doc tests and loom models included
  bench GROUP [--quick] [--json]    benchmarks of one group, in a release build
  bench GROUP --against PROGRAM     the same against another build of groundskeeper-bench, in pairs: [--pairs N] [--quick]
  guests                            builds everything that runs as WebAssembly, with this machine's toolchain
  api [--released]                  updates the listings of the public API in docs/api; --released promises them
  ready                             rebuilds the components of examples/ready
  sim [--seeds N | --seed S]        ten simulated hosts for ten minutes: 200 seeds, N seeds, or seed S with its events
  fuzz [TARGET..] [--seconds N] [--save]
                                    every reader of untrusted bytes under a fuzzer, ten minutes each;
                                    --save reduces what it found to the committed corpora
  soak [paused|sockets]             200,000 ticks on a paused clock and 20,000 with real sockets, under churn, reloads
                                    and faults: nothing may grow
  tsan                              tests of code that threads share, under ThreadSanitizer
  advisories                        known vulnerabilities in dependencies; needs the network

Each verb prints the commands it runs.
";

/// The node's own exit code for wrong flags.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    if api::is_rustdoc() {
        return api::be_rustdoc();
    }
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut steps = Steps::new();
    let ended = match words.split_first() {
        None | Some((&("help" | "--help" | "-h"), _)) => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        Some((&"check", parts)) => check::run(&mut steps, parts),
        Some((&"package", [])) => package::run(&mut steps),
        Some((&"test", [])) => test::run(&mut steps),
        Some((&"bench", [group, flags @ ..])) => bench::run(&mut steps, group, flags),
        Some((&"guests", [])) => guests::run(&mut steps),
        Some((&"api", flags)) => api::write(&mut steps, flags),
        Some((&"ready", [])) => guests::ready(&mut steps),
        Some((&"sim", flags)) => sim::run(&mut steps, flags),
        Some((&"fuzz", flags)) => fuzz::run(&mut steps, flags),
        Some((&"soak", flags)) => soak::run(&mut steps, flags),
        Some((&"tsan", [])) => tsan::run(&mut steps),
        Some((&"advisories", [])) => advisories::run(&mut steps),
        Some(_) => {
            eprint!("xtask: there is no such verb, or not with these words: {}\n\n{HELP}", words.join(" "));
            return ExitCode::from(USAGE);
        }
    };
    steps.summary();
    finish(ended)
}

fn finish(ended: Result<()>) -> ExitCode {
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
