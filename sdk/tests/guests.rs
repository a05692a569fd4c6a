//! What guests import, in every profile that authors use, and how large they are. Looks at modules; builds none.

use std::collections::BTreeSet;
use std::path::Path;

use wit_component::{ComponentEncoder, DecodedWasm};
use wit_parser::{Resolve, World, WorldKey};

/// The bytes that `cargo xtask guests` built, made a component.
fn component(profile: &str, guest: &str) -> Vec<u8> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it lies in the target folder");
    let file = target.join("wasm32-unknown-unknown").join(profile).join(guest).with_extension("wasm");
    let core = std::fs::read(&file)
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo xtask guests` builds it", file.display()));
    let encoder = ComponentEncoder::default().validate(true).module(&core);
    encoder.expect("it names the contract").encode().expect("it keeps the contract")
}

fn interfaces<'w, I>(
    resolve: &Resolve,
    keys: impl IntoIterator<Item = (&'w WorldKey, I)>,
) -> BTreeSet<String> {
    keys.into_iter().map(|(key, _)| resolve.name_world_key(key)).collect()
}

fn expected(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| format!("groundskeeper:phase/{name}@0.1.0")).collect()
}

/// What a phase does not call is not requested, even if nothing is optimised: the request is what an operator grants.
/// `log` is there for panics.
#[test]
#[ignore = "cargo xtask guests builds what it looks at, and runs it"]
fn a_guest_imports_exactly_what_its_phase_calls() {
    for (guest, imports) in
        [("pulse", &["types", "ping", "log"][..]), ("slow_peers", &["types", "peers", "disconnect", "log"])]
    {
        for profile in ["debug", "release", "guest"] {
            let decoded = wit_component::decode(&component(profile, guest)).expect("it was just encoded");
            let DecodedWasm::Component(resolve, world) = decoded else { panic!("not a component") };
            let World { imports: wanted, exports, .. } = &resolve.worlds[world];
            assert_eq!(interfaces(&resolve, wanted), expected(imports), "{guest}, {profile}");
            assert_eq!(interfaces(&resolve, exports), expected(&["lifecycle"]), "{guest}, {profile}");
        }
    }
}

/// JSON is most of a small guest: one without settings must not link it.
#[test]
#[ignore = "cargo xtask guests builds what it looks at, and runs it"]
fn guests_stay_small() {
    for (guest, most) in [("pulse", 20_000), ("slow_peers", 80_000)] {
        let bytes = component("guest", guest).len();
        assert!(bytes < most, "{guest} has {bytes} bytes, more than {most}");
    }
}
