//! Everything that can be said about the code without running it. Warnings are errors here and nowhere else.

use anyhow::{Result, bail};

use crate::api;
use crate::guests;
use crate::steps::{Steps, cargo, command, output};
use crate::workspace::Workspace;

/// The package whose features are linted one by one.
const HOST: &str = "groundskeeper";

/// The version that `.ci/run` installs; any other one may know other rules.
const DENY_VERSION: &str = include_str!("../cargo-deny.version");

/// The cheap ones first.
const PARTS: [&str; 6] = ["fmt", "deny", "clippy", "doc", "api", "guests"];

/// Checks the given parts, or all of them.
///
/// # Errors
/// The first part that fails.
pub fn run(steps: &mut Steps, parts: &[&str]) -> Result<()> {
    if let Some(part) = parts.iter().find(|part| !PARTS.contains(part)) {
        bail!("there is no part {part:?}; the parts are {}", PARTS.join(", "));
    }
    for part in PARTS.iter().filter(|part| parts.is_empty() || parts.contains(part)) {
        match *part {
            "fmt" => steps.run("fmt", cargo(&["fmt", "--all", "--check"]))?,
            "clippy" => clippy(steps)?,
            "doc" => doc(steps)?,
            "deny" => deny(steps)?,
            "api" => api::check(steps)?,
            _ => guests::run(steps)?,
        }
    }
    Ok(())
}

/// The workspace as it is built, then the host with no feature and with each one alone: what one feature forgets to
/// ask for, another one brings in by accident.
fn clippy(steps: &mut Steps) -> Result<()> {
    let all = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    steps.run("clippy", cargo(&all))?;
    let workspace = Workspace::read()?;
    let features = workspace.features(HOST);
    if !features.is_empty() {
        lint_host_with(steps, "no features", &[])?;
    }
    features
        .iter()
        .try_for_each(|feature| lint_host_with(steps, &format!("{feature} alone"), &["--features", feature]))
}

fn lint_host_with(steps: &mut Steps, name: &str, features: &[&str]) -> Result<()> {
    let lint = ["clippy", "--package", HOST, "--lib", "--no-default-features"];
    let lint = [&lint[..], features, &["--", "--deny", "warnings"]].concat();
    steps.run(&format!("clippy, {name}"), cargo(&lint))
}

fn doc(steps: &mut Steps) -> Result<()> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    steps.run("doc", doc)
}

/// Bans, licences and sources. Needs no network but for packages that this platform never builds.
fn deny(steps: &mut Steps) -> Result<()> {
    let wanted = DENY_VERSION.trim();
    let Some(version) = output(command("cargo-deny", &["--version"]))? else {
        bail!("cargo-deny is not installed; `cargo install --locked cargo-deny --version {wanted}`");
    };
    if !version.trim().ends_with(wanted) {
        eprintln!("xtask: this is {}; the checks were written for {wanted}", version.trim());
    }
    steps.run("fetch", cargo(&["fetch", "--locked"]))?;
    let parts = ["--offline", "--locked", "check", "bans", "licenses", "sources"];
    steps.run("deny", command("cargo-deny", &parts))
}
