//! Recordings and fixtures.

use std::io::Write as _;

use groundskeeper::record::{Fixture, Recording, fuzz_decode};

/// A whole file, the beats behind its checksums and compression, which keep a fuzzer out, or a fixture. The first byte
/// chooses.
pub(crate) fn recording(bytes: &[u8]) {
    match bytes.split_first() {
        Some((0, rest)) => file(rest),
        Some((1, rest)) => fuzz_decode(rest),
        Some((_, rest)) => fixture(rest),
        None => {}
    }
}

fn file(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("there is room for a file");
    file.write_all(bytes).expect("there is room for a file");
    if let Ok(recording) = Recording::open(file.path()) {
        recording.events().for_each(drop);
        _ = recording.beat(1);
    }
}

fn fixture(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else { return };
    if let Ok(fixture) = Fixture::parse(text, "fuzz") {
        let written = fixture.to_json();
        let again = Fixture::parse(&written, "again").expect("what was written is read");
        assert_eq!(again.to_json(), written);
    }
}
