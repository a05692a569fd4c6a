//! Runs seeds of the simulation: `--seeds N` runs seeds 0 to N - 1; `--seed S` runs one seed and prints its events.
//! `--journals` prints each host's journal too.

use std::process::ExitCode;
use std::time::Instant;

use groundskeeper_sim::{Tell, run};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let failed = match words[..] {
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => one(seed, Tell::Faults),
            Err(error) => return usage(&format!("--seed {seed}: {error}")),
        },
        ["--seed", seed, "--journals"] => match seed.parse() {
            Ok(seed) => one(seed, Tell::Journals),
            Err(error) => return usage(&format!("--seed {seed}: {error}")),
        },
        ["--seeds", count] => match count.parse() {
            Ok(count) => many(count),
            Err(error) => return usage(&format!("--seeds {count}: {error}")),
        },
        [] => many(200),
        _ => return usage(&words.join(" ")),
    };
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("groundskeeper-sim: {what}\nusage: groundskeeper-sim [--seeds N | --seed S [--journals]]");
    ExitCode::from(2)
}

fn one(seed: u64, tell: Tell) -> bool {
    let begun = Instant::now();
    let outcome = run(seed, true, tell);
    println!("{:#?}", outcome.figures);
    println!("hash {}", outcome.hash.as_deref().unwrap_or_default());
    println!("{:.1} s", begun.elapsed().as_secs_f64());
    for complaint in &outcome.complaints {
        println!("seed {seed}: {complaint}");
    }
    !outcome.complaints.is_empty()
}

fn many(count: u64) -> bool {
    let begun = Instant::now();
    let ended = groundskeeper_sim::run_all(0..count, |failed| println!("{failed}"));
    println!("{} seeds, {} failed, {:.1} s", count, ended.failed.len(), begun.elapsed().as_secs_f64());
    println!("{:#?}", ended.sum);
    !ended.failed.is_empty()
}
