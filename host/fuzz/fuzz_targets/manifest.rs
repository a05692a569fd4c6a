//! Arbitrary text as a manifest: no panic, whatever is refused is refused with a reason, and what is taken names a module
//! inside its folder and has settings that are a JSON object.

#![no_main]

use std::path::Component;

use groundskeeper::config::{Declared, Manifest};

libfuzzer_sys::fuzz_target!(|text: &str| {
    match Manifest::parse(text, "fuzz.toml") {
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(problems.iter().all(|problem| !problem.message.is_empty()));
        }
        Ok(Manifest { body: Declared::Guest(guest), .. }) => {
            assert!(
                guest
                    .module
                    .components()
                    .all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
            );
            assert!(guest.settings.starts_with('{') && guest.settings.ends_with('}'));
        }
        Ok(_) => {}
    }
});
