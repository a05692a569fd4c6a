//! Arbitrary bytes as a recording, as beats behind its checksums, and as a fixture: no panic, and memory in proportion.

#![no_main]

use groundskeeper::record::{Fixture, Recording, fuzz_decode};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Most inputs are what checksums and compression protect.
    match bytes.split_first() {
        Some((0, rest)) => read(rest),
        Some((_, rest)) => fuzz_decode(rest),
        None => return,
    }
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(fixture) = Fixture::parse(text, "fuzz")
    {
        // What is written down is read back.
        let again = Fixture::parse(&fixture.to_json(), "again").expect("our own words");
        assert_eq!(again.to_json(), fixture.to_json());
    }
});

fn read(bytes: &[u8]) {
    let path = std::env::temp_dir().join(format!("groundskeeper-fuzz-{}.gkr", std::process::id()));
    std::fs::write(&path, bytes).expect("there is room for a file");
    if let Ok(recording) = Recording::open(&path) {
        recording.events().for_each(drop);
        _ = recording.beat(1);
    }
    std::fs::remove_file(&path).expect("a file of our own");
}
