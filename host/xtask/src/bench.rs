//! Starts the benchmarks in a release build. Measures nothing itself, and keeps its own output apart from theirs.

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};
use crate::workspace::Workspace;

const BENCH: &str = "groundskeeper-bench";

/// Runs the benchmarks of `group` with `flags`. Results go to standard output and everything else to standard error, so
/// that `--json` can be piped.
///
/// # Errors
/// If there is no benchmark crate, or if it fails. The crate itself names the groups and flags that it knows.
pub fn run(steps: &mut Steps, group: &str, flags: &[&str]) -> Result<()> {
    if !Workspace::read()?.has(BENCH) {
        bail!("there is no package {BENCH} in this workspace yet, so there is nothing to measure");
    }
    let run = ["run", "--quiet", "--release", "--package", BENCH, "--", group];
    steps.run("bench", cargo(&[&run[..], flags].concat()))
}
