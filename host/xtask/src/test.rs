//! Every test that the README promises, and what they need. Runs tests; leaves linting to `check`.

use anyhow::Result;

use crate::steps::{Steps, cargo};
use crate::workspace::Workspace;

/// Models of the lock-free parts, of which every interleaving is run: minutes in a debug build, seconds optimised.
const LOOM: &str = "groundskeeper-loom";

/// Runs them all; on a fresh machine the dependencies are fetched first.
///
/// # Errors
/// The first run that fails.
pub fn run(steps: &mut Steps) -> Result<()> {
    steps.run("fetch", cargo(&["fetch", "--locked"]))?;
    let has_loom = Workspace::read()?.has(LOOM);
    let mut tests = vec!["test", "--workspace"];
    if has_loom {
        tests.extend(["--exclude", LOOM]);
    }
    steps.run("tests", cargo(&tests))?;
    if has_loom {
        steps.run("loom models", cargo(&["test", "--release", "--package", LOOM]))?;
    }
    Ok(())
}
