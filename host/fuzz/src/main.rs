//! One target under libFuzzer: `GROUNDSKEEPER_FUZZ` names it. `cargo xtask fuzz` builds and starts this.

#![no_main]

use std::sync::OnceLock;

use groundskeeper_fuzz::{Target, target};

static TARGET: OnceLock<Target> = OnceLock::new();

fn chosen() -> Target {
    let name = std::env::var("GROUNDSKEEPER_FUZZ").expect("GROUNDSKEEPER_FUZZ names the target");
    target(&name).unwrap_or_else(|| panic!("there is no target {name:?}"))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| TARGET.get_or_init(chosen).read(bytes));
