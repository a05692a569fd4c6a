//! Runs what there is of simulation: the heartbeat's scenarios on a paused clock. Claims no more than that.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};

/// # Errors
/// If a scenario fails, or seeds are asked for: the scenarios take none.
pub fn run(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    if !flags.is_empty() {
        bail!(
            "`sim {}` cannot be done: the scenarios on the paused clock take no seed, each run is the same; \
             a simulated network, which would take one, is not built yet",
            flags.join(" ")
        );
    }
    steps.run("scenarios", cargo(&["test", "--package", "groundskeeper", "--test", "heartbeat"]))?;
    eprintln!("xtask: these were the scenarios on a paused clock; a simulated network is not built yet");
    Ok(())
}
