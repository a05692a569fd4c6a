//! Text that an operator or an author wrote: configs and manifests.

use std::path::Component;

use groundskeeper::config::{Config, Manifest, ManifestBody, Problem};

fn assert_named(problems: &[Problem]) {
    assert!(!problems.is_empty(), "what is refused has a problem");
    assert!(problems.iter().all(|problem| !problem.message.is_empty()), "a problem says what is wrong");
}

/// A config is accepted, or refused with reasons.
pub(crate) fn config(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Err(problems) = Config::parse(text, "fuzz") {
        assert_named(&problems);
    }
}

/// A manifest is refused with reasons, or names a module inside its folder and has settings that are a JSON object.
pub(crate) fn manifest(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    match Manifest::parse(text, "fuzz.toml") {
        Err(problems) => assert_named(&problems),
        Ok(Manifest { body: ManifestBody::Guest(guest), .. }) => {
            let is_plain = |part| matches!(part, Component::Normal(_) | Component::CurDir);
            assert!(guest.module.components().all(is_plain), "{}", guest.module.display());
            assert!(guest.settings.starts_with('{') && guest.settings.ends_with('}'), "{}", guest.settings);
        }
        Ok(_) => {}
    }
}
