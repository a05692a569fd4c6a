//! Arbitrary text as a config: no panic, and whatever is refused is refused with a place or a reason.

#![no_main]

use groundskeeper::config::Config;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Err(problems) = Config::parse(text, "fuzz") {
        assert!(!problems.is_empty());
        assert!(problems.iter().all(|problem| !problem.message.is_empty()));
    }
});
