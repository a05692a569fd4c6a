//! Packs every crate that is meant for others, in the order of their dependencies, as they would be published. Publishes nothing.

use anyhow::{Result, ensure};

use crate::steps::{Steps, cargo};
use crate::workspace::Workspace;

/// What crates are found by; `cargo package` does without.
const METADATA: [&str; 3] = ["description", "readme", "license"];

/// Packs the crates and builds each from its package: some ten minutes.
///
/// # Errors
/// The first crate that lacks a file, a version or metadata, or does not build.
pub fn run(steps: &mut Steps) -> Result<()> {
    pack(steps, &[])
}

/// The same without building: seconds. Finds missing files and versions, but not a file outside of the crate that its code names.
///
/// # Errors
/// As [`run`].
pub fn check(steps: &mut Steps) -> Result<()> {
    pack(steps, &["--no-verify"])
}

fn pack(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    let workspace = Workspace::read()?;
    for name in workspace.published() {
        for key in METADATA {
            ensure!(workspace.describes(name, key), "{name}: Cargo.toml lacks {key}");
        }
    }
    // The tree as it is: whether it is committed is not this step's question.
    let mut words = vec!["package", "--workspace", "--locked", "--allow-dirty"];
    words.extend(flags);
    for name in workspace.unpublished() {
        words.extend(["--exclude", name]);
    }
    steps.run("package", cargo(&words))
}
