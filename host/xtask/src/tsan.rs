//! Runs code that threads share under ThreadSanitizer, which comes with the toolchain. For people, not for CI: it
//! rebuilds the host and the standard library, about six minutes.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::steps::{Steps, cargo, command, output};

/// Tests that each contain a data race, in `host/groundskeeper/tests/planted_race.rs`.
const PLANTED: [&str; 2] = ["between_two_threads", "between_a_test_and_a_thread"];

/// Packages with unit tests to run: the queues and the pool.
const SHARED: [&str; 4] = ["--package", "groundskeeper-flow", "--package", "groundskeeper-pool"];

/// The library without WebAssembly: the sanitizer cannot see into compiled guests.
const LIBRARY: [&str; 5] =
    ["--package", "groundskeeper", "--no-default-features", "--features", "node,record"];

/// # Errors
/// If a planted race is not found, because then the absence of other reports means nothing. Also if a test fails or a
/// race is found; the report is above.
pub fn run(steps: &mut Steps) -> Result<()> {
    let sysroot = output(command("rustc", &["--print", "sysroot"]))?.context("rustc does not run")?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir() {
        bail!("the source of the standard library is missing; `rustup component add rust-src`");
    }
    for planted in PLANTED {
        let mut is_found = false;
        let race = sanitized(&[&LIBRARY[..], &["--test", "planted_race", "--", "--exact", planted]].concat());
        let ended = steps.watch(&format!("tsan, a race {}", planted.replace('_', " ")), race, |line| {
            is_found |=
                line.starts_with("SUMMARY: ThreadSanitizer: data race") && line.contains("planted_race.rs");
        });
        if ended.is_ok() || !is_found {
            bail!("the planted race {planted} was not found, so nothing would be");
        }
        eprintln!("xtask: this race is planted, and is found");
    }
    steps.run("tsan, queues and pool", sanitized(&[&SHARED[..], &["--lib"]].concat()))?;
    let load = ["--package", "groundskeeper-net", "--lib", "tests::load"];
    steps.run("tsan, network under load", sanitized(&load))?;
    steps.run("tsan, stress", sanitized(&[&LIBRARY[..], &["--test", "library", "stress::"]].concat()))
}

/// `cargo test` of the host under the sanitizer.
fn sanitized(words: &[&str]) -> std::process::Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // The standard library too: otherwise its synchronization is invisible, and false reports would need suppressions.
    let test = ["test", "-Zbuild-std", "--target", &target];
    let mut command = cargo(&[&test[..], words].concat());
    // The flags need a nightly compiler; the runtime is also in stable toolchains.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer");
    // A separate target folder: other flags rebuild everything.
    command.env(
        "CARGO_TARGET_DIR",
        std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()) + "/tsan",
    );
    command
}
