//! Runs what threads share under ThreadSanitizer, which comes with the toolchain. For people, not for CI: it builds the
//! host anew, some five minutes.

use anyhow::Result;

use crate::steps::{Steps, cargo};

/// Accepted races, all of them in parts of std that the sanitizer cannot look into.
const SUPPRESSIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tsan.supp");

/// Unit tests of the queues, the pool and the network under load. Without WebAssembly: compiled guests are not looked into.
const SHARED: [&str; 3] = ["flow::", "pool::", "net::tests::load"];

/// # Errors
/// If a test fails or a race is found; the report is above.
pub fn run(steps: &mut Steps) -> Result<()> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let build = [
        "test",
        "--target",
        &target,
        "--package",
        "groundskeeper",
        "--no-default-features",
        "--features",
        "net",
    ];
    steps.run("tsan, unit tests", sanitized(&[&build[..], &["--lib", "--"], &SHARED].concat()))?;
    steps.run("tsan, stress", sanitized(&[&build[..], &["--test", "library", "stress::"]].concat()))
}

fn sanitized(words: &[&str]) -> std::process::Command {
    let mut command = cargo(words);
    // The flag is for nightly compilers; the runtime is there in stable ones too.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("RUSTFLAGS", "-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer");
    command.env("TSAN_OPTIONS", format!("suppressions={SUPPRESSIONS}"));
    // A folder of its own: another flag is another build of everything.
    command.env(
        "CARGO_TARGET_DIR",
        std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()) + "/tsan",
    );
    command
}
