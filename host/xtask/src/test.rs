//! Every test that the README promises, and what they need. Runs tests; leaves linting to `check`.

use std::io::IsTerminal;

use anyhow::{Result, bail};

use crate::steps::{Steps, cargo};
use crate::tally::Tally;

/// Runs them all; on a fresh machine the dependencies are fetched first. The models of the lock-free parts are among
/// them: `docs/decisions/0001-ci-budget.md` says why they need no build of their own.
///
/// # Errors
/// If a test fails, with each of those that did.
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
