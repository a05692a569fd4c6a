//! Looks dependencies up among known vulnerabilities. Not part of `check`, because it hangs on the network and the day.

use anyhow::{Context, Result};

use crate::steps::{Steps, command};

/// # Errors
/// If a dependency has an advisory, and also if nobody could look: not having looked is not a pass.
pub fn run(steps: &mut Steps) -> Result<()> {
    let fetched = steps.run("database", command("cargo-deny", &["fetch", "db"]));
    fetched.context("ADVISORIES WERE NOT CHECKED: their database could not be fetched")?;
    steps.run("advisories", command("cargo-deny", &["check", "--disable-fetch", "advisories"]))
}
