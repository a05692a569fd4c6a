//! Checks dependencies for known vulnerabilities. Not part of `check`: the result depends on the network and the day.

use anyhow::{Context, Result};

use crate::steps::{Steps, command};

/// # Errors
/// If a dependency has an advisory, or if the check could not run: no check is not a pass.
pub fn run(steps: &mut Steps) -> Result<()> {
    let fetched = steps.run("database", command("cargo-deny", &["fetch", "db"]));
    fetched.context("ADVISORIES WERE NOT CHECKED: their database could not be fetched")?;
    steps.run("advisories", command("cargo-deny", &["check", "--disable-fetch", "advisories"]))
}
