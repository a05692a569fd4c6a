//! Every test that the README promises, and what they need. Runs tests; leaves linting to `check`.

use anyhow::Result;

use crate::steps::{Steps, cargo};

/// Runs them all; on a fresh machine the dependencies are fetched first. The models of the lock-free parts are among
/// them: `docs/decisions/0001-ci-budget.md` says why they need no build of their own.
///
/// # Errors
/// The first run that fails.
pub fn run(steps: &mut Steps) -> Result<()> {
    steps.run("fetch", cargo(&["fetch", "--locked"]))?;
    steps.run("tests", cargo(&["test", "--workspace", "--no-fail-fast"]))
}
