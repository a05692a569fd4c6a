//! Generates the bindings of guests anew and compares them with what is checked in. Owns how they are generated.

use groundskeeper_sdk::contract::WIT;
use wit_bindgen_core::{Files, WorldGenerator as _};
use wit_bindgen_rust::{Opts, Ownership};
use wit_parser::Resolve;

const BINDINGS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/guest/bindings.rs");

fn generated() -> String {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("phase.wit", WIT).expect("the WIT parses");
    let world = resolve.select_world(&[package], None).expect("one world");
    let options = Opts {
        format: true,
        // Names of columns and reasons are handed over as they are, without a copy.
        // `export!` expands to this macro, in the crate of the phase.
        pub_export_macro: true,
        export_macro_name: Some("__export_phase".to_owned()),
        default_bindings_module: Some("groundskeeper_sdk::guest::bindings".to_owned()),
        ownership: Ownership::Borrowing { duplicate_if_necessary: false },
        ..Opts::default()
    };
    let mut files = Files::default();
    options.build().generate(&mut resolve, world, &mut files).expect("the WIT generates");
    let (_, text) = files.iter().next().expect("one file");
    String::from_utf8(text.to_vec()).expect("Rust is UTF-8")
}

#[test]
fn the_bindings_of_guests_are_those_of_the_contract() {
    let now = generated();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(BINDINGS, &now).expect("bindings.rs is writable");
    }
    let checked_in = std::fs::read_to_string(BINDINGS).expect("bindings.rs is checked in");
    assert!(
        now == checked_in,
        "bindings.rs is not what the contract generates; run again with UPDATE_GOLDEN=1"
    );
}
