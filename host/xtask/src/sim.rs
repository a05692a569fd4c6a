//! Runs the simulated network: so many seeds, or exactly one, which tells what happens.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};

/// What is run if nothing else is said; `cargo test` runs as many.
const SEEDS: &str = "200";

/// # Errors
/// If an invariant does not hold in some seed, which is named with the line that runs it again, or for other flags.
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
