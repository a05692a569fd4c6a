//! Runs every test that the README promises. Linting is left to `check`.

use std::io::IsTerminal;

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};
use crate::tally::Tally;

/// Runs all tests; a fresh machine fetches the dependencies first. The loom models of the lock-free parts are included:
/// `docs/decisions/0001-ci-budget.md` says why they need no separate build.
///
/// # Errors
/// If a test fails; names every failed test.
pub fn run(steps: &mut Steps) -> Result<()> {
    steps.run("fetch", cargo(&["fetch", "--locked"]))?;
    let mut tests = cargo(&["test", "--workspace", "--no-fail-fast"]);
    if std::io::stderr().is_terminal() && std::env::var_os("CARGO_TERM_COLOR").is_none() {
        tests.env("CARGO_TERM_COLOR", "always");
    }
    let mut tally = Tally::default();
    let ended = steps.watch("tests", tests, |line| tally.line(line));
    if let (Err(_), Some(failures)) = (&ended, tally.failures()) {
        bail!("{failures}");
    }
    eprintln!("\nxtask: {}", tally.total());
    ended
}
