//! Every check of the code that does not run it. Warnings are errors here and nowhere else.

use anyhow::{Result, bail};

use crate::api;
use crate::guests;
use crate::package;
use crate::steps::{Steps, cargo, command, output};
use crate::words;
use crate::workspace::Workspace;

/// The package with features that are linted one by one.
const HOST: &str = "groundskeeper";

/// Packages that must build without features that the rest of the workspace enables in their dependencies.
const ALONE: [&str; 12] = [
    "groundskeeper-base",
    "groundskeeper-pool",
    "groundskeeper-flow",
    "groundskeeper-net",
    "groundskeeper-engine",
    "groundskeeper-config",
    "groundskeeper-record",
    "groundskeeper-author",
    "groundskeeper-cli",
    "groundskeeper-sim",
    "own-connections",
    "chain-node",
];

/// The version that `.ci/run` installs. Other versions may have other rules.
const DENY_VERSION: &str = include_str!("../cargo-deny.version");

/// Cheap checks first.
const PARTS: [&str; 8] = ["fmt", "words", "package", "deny", "clippy", "doc", "api", "guests"];

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
            "words" => words::check()?,
            "package" => package::check(steps)?,
            "clippy" => clippy(steps)?,
            "doc" => doc(steps)?,
            "deny" => deny(steps)?,
            "api" => api::check(steps)?,
            _ => guests::run(steps)?,
        }
    }
    Ok(())
}

/// Lints the workspace as it is built, each crate alone, and the library without features and with each feature alone:
/// a feature that one crate forgets to enable may otherwise come from another crate by accident.
fn clippy(steps: &mut Steps) -> Result<()> {
    let all = ["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"];
    steps.run("clippy", cargo(&all))?;
    for package in ALONE {
        lint(steps, &format!("{package} alone"), package, &[])?;
    }
    lint(steps, "no features", HOST, &["--lib", "--no-default-features"])?;
    let workspace = Workspace::read()?;
    for feature in workspace.features(HOST) {
        let words = ["--lib", "--no-default-features", "--features", feature];
        lint(steps, &format!("{feature} alone"), HOST, &words)?;
    }
    Ok(())
}

fn lint(steps: &mut Steps, name: &str, package: &str, words: &[&str]) -> Result<()> {
    let command = [&["clippy", "--package", package], words, &["--", "--deny", "warnings"]].concat();
    steps.run(&format!("clippy, {name}"), cargo(&command))
}

fn doc(steps: &mut Steps) -> Result<()> {
    let mut doc = cargo(&["doc", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "--deny warnings");
    steps.run("doc", doc)
}

/// Checks bans, licences and sources. Needs the network only for packages that this platform never builds.
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
