//! Picks a toolchain for WebAssembly and builds the guests with it. Installs nothing but a rustup target.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{Steps, cargo, command, output};
use crate::toolchain::{self, Toolchain};

/// The crates that guests consist of. Each must build for wasm32 alone, without any crate of the host.
const PACKAGES: [&str; 2] = ["groundskeeper-sdk", "groundskeeper-phases"];

/// Phases that authors copy.
const EXAMPLES: [&str; 6] =
    ["feeler", "group-diversity", "health-decay", "partition-watch", "stats", "topology"];

/// Guests with checked imports and sizes, and the profiles for building them: an author's defaults, and the profile
/// that the node's own `build` uses.
const GUESTS: [&str; 2] = ["pulse", "slow-peers"];
const PROFILES: [&str; 3] = ["dev", "release", "guest"];

/// Builds all guest packages for wasm32, and checks the imports of some of them.
///
/// # Errors
/// If no toolchain works (names what to install), the build fails, or a guest imports what its phase does not call.
pub fn run(steps: &mut Steps) -> Result<()> {
    let toolchain = toolchain::pick(&mut |note| eprintln!("xtask: {note}")).map_err(anyhow::Error::msg)?;
    for package in PACKAGES {
        steps.run(&format!("{package} for wasm32"), with(&toolchain, "build", &["--package", package]))?;
    }
    let examples: Vec<&str> = EXAMPLES.iter().flat_map(|example| ["--package", example]).collect();
    steps.run("examples for wasm32", with(&toolchain, "build", &examples))?;
    for profile in PROFILES {
        for guest in GUESTS {
            let module = ["--package", guest, "--profile", profile, "--crate-type", "cdylib"];
            steps.run(&format!("{guest}, {profile}"), with(&toolchain, "rustc", &module))?;
        }
    }
    let look = ["test", "--package", "groundskeeper-sdk", "--test", "guests", "--", "--ignored"];
    steps.run("imports and sizes", cargo(&look))
}

/// A `cargo` command with the toolchain that this machine has.
fn with(toolchain: &Toolchain, verb: &str, rest: &[&str]) -> Command {
    let mut command = toolchain.cargo(verb);
    command.args(rest);
    command
}

/// Examples with committed components. `slow-peers` is first because readers should start there.
const READY: [&str; 8] = [
    "slow-peers",
    "slow-peers-c",
    "feeler",
    "group-diversity",
    "health-decay",
    "partition-watch",
    "stats",
    "topology",
];

/// Rebuilds the components of `examples/ready`, each with a manifest that pins it.
///
/// # Errors
/// If one does not build, or its manifest has problems.
pub fn ready(steps: &mut Steps) -> Result<()> {
    let node = ["run", "--quiet", "--package", "groundskeeper-cli", "--"];
    let scratch = std::env::temp_dir().join(format!("groundskeeper-ready-{}", std::process::id()));
    for example in READY {
        let source = format!("examples/{example}");
        let out = scratch.join(example);
        fs::create_dir_all(&out)?;
        let mut build = cargo(&[&node[..], &["build", &source, "--out"]].concat());
        build.arg(&out);
        steps.run(&format!("build {example}"), build)?;
        fs::copy(format!("{source}/{example}.toml"), out.join(format!("{example}.toml")))?;
        let mut install = cargo(&[&node[..], &["install", "--phases", "examples/ready"]].concat());
        install.arg(out.join(format!("{example}.wasm")));
        steps.run(&format!("install {example}"), install)?;
    }
    fs::remove_dir_all(&scratch)?;
    let says = |compiler| -> Result<String> {
        let said =
            output(command(compiler, &["--version"]))?.with_context(|| format!("{compiler} does not run"))?;
        Ok(said.lines().next().unwrap_or_default().to_owned())
    };
    fs::write("examples/ready/toolchains.txt", format!("{}\n{}\n", says("rustc")?, says("clang")?))?;
    Ok(())
}
