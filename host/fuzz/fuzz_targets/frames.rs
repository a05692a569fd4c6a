//! Arbitrary bytes as frames, messages and peer lists: no panic, and no more memory than the caps allow.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| groundskeeper::net::wire::fuzz_decode(bytes));
