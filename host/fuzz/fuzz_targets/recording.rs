//! Arbitrary bytes as a recording, as beats behind its checksums, and as a fixture: no panic, and memory in proportion.

#![no_main]

use groundskeeper::record::{Fixture, fuzz_read};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    fuzz_read(bytes);
    if let Ok(text) = str::from_utf8(bytes)
        && let Ok(fixture) = Fixture::parse(text, "fuzz")
    {
        // What is written down is read back.
        let again = Fixture::parse(&fixture.to_json(), "again").expect("our own words");
        assert_eq!(again.to_json(), fixture.to_json());
    }
});
