//! Runs what threads share under ThreadSanitizer, which comes with the toolchain. For people, not for CI: it builds the
//! host and the standard library anew, some six minutes.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::steps::{Steps, cargo, command, output};

/// Tests with a data race each, in `host/tests/planted_race.rs`.
const PLANTED: [&str; 2] = ["between_two_threads", "between_a_test_and_a_thread"];

/// Unit tests of the queues, the pool and the network under load. Without WebAssembly: compiled guests are not looked into.
const SHARED: [&str; 3] = ["flow::", "pool::", "net::tests::load"];

/// # Errors
/// If a planted race is not found: then it says nothing that no other is. If a test fails or a race is found; the report
/// is above.
pub fn run(steps: &mut Steps) -> Result<()> {
    let sysroot = output(command("rustc", &["--print", "sysroot"]))?.context("rustc does not run")?;
    if !Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").is_dir() {
        bail!("the source of the standard library is missing; `rustup component add rust-src`");
    }
    for planted in PLANTED {
        let mut is_found = false;
        let race = sanitized(&["--test", "planted_race", "--", "--exact", planted]);
        let ended = steps.watch(&format!("tsan, a race {}", planted.replace('_', " ")), race, |line| {
            is_found |=
                line.starts_with("SUMMARY: ThreadSanitizer: data race") && line.contains("planted_race.rs");
        });
        if ended.is_ok() || !is_found {
            bail!("the planted race {planted} was not found, so nothing would be");
        }
        eprintln!("xtask: this race is planted, and is found");
    }
    steps.run("tsan, unit tests", sanitized(&[&["--lib", "--"][..], &SHARED].concat()))?;
    steps.run("tsan, stress", sanitized(&["--test", "library", "stress::"]))
}

/// `cargo test` of the host under the sanitizer.
fn sanitized(words: &[&str]) -> std::process::Command {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // The standard library too: what it orders is not seen otherwise, and what is no race would have to be suppressed.
    let test =
        ["test", "-Zbuild-std", "--target", &target, "--package", "groundskeeper", "--no-default-features"];
    let mut command = cargo(&[&test[..], &["--features", "net"], words].concat());
    // The flags are for nightly compilers; the runtime is there in stable ones too.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer");
    // A folder of its own: another flag is another build of everything.
    command.env(
        "CARGO_TARGET_DIR",
        std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()) + "/tsan",
    );
    command
}
