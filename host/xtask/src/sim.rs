//! Runs the simulated network: a number of seeds, or exactly one with a report of its events.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};

/// The default number of seeds; `cargo test` runs as many.
const SEEDS: &str = "200";

/// # Errors
/// If an invariant fails in some seed, which is named with the command that repeats it; also for unknown flags.
pub fn run(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    let (flag, number) = match flags {
        [] => ("--seeds", SEEDS),
        [flag @ ("--seed" | "--seeds"), number] if number.parse::<u64>().is_ok() => (*flag, *number),
        _ => bail!(
            "`sim {}` is not understood: `--seeds N` runs that many, `--seed S` exactly one",
            flags.join(" ")
        ),
    };
    steps.run("simulation", cargo(&["run", "--quiet", "--package", "groundskeeper-sim", "--", flag, number]))
}
