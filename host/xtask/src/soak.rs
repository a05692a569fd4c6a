//! Runs a node for a very long time, on a paused clock and with real sockets: what it holds must not grow.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};

/// Sixty-nine days of ticks of 30 s, in minutes.
const PAUSED: &str = "200000";

/// At 100 ms a tick: 34 minutes.
const SOCKETS: &str = "20000";

/// # Errors
/// If memory, mappings, descriptors or threads have grown; also for unknown flags.
pub fn run(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    let kinds: &[(&str, &str)] = match flags {
        [] => &[("paused", PAUSED), ("sockets", SOCKETS)],
        ["paused"] => &[("paused", PAUSED)],
        ["sockets"] => &[("sockets", SOCKETS)],
        _ => bail!("`soak {}` is not understood: `paused`, `sockets`, or nothing for both", flags.join(" ")),
    };
    for (kind, ticks) in kinds {
        let run =
            ["run", "--quiet", "--release", "--package", "groundskeeper-soak", "--", kind, "--ticks", ticks];
        steps.run(&format!("soak, {kind}"), cargo(&run))?;
    }
    Ok(())
}
