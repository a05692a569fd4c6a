//! Everything that reads untrusted bytes, as functions from bytes to nothing: a fuzzer calls them with its inputs, and a test
//! with the committed corpora.
//!
//! A target fails by a panic. It checks that bytes are refused with a reason, and that what is accepted can be written again.

mod admin;
mod config;
mod loader;
mod recording;

/// One reader of untrusted bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name in commands, and of its folder in `corpus`.
    pub name: &'static str,
    read: fn(&[u8]),
}

impl Target {
    /// Feeds `bytes` to the reader.
    ///
    /// # Panics
    /// If the reader breaks one of its promises.
    pub fn read(&self, bytes: &[u8]) {
        (self.read)(bytes);
    }
}

/// Every target.
pub const TARGETS: [Target; 7] = [
    Target { name: "frames", read: groundskeeper::net::wire::fuzz_decode },
    Target { name: "config", read: config::config },
    Target { name: "manifest", read: config::manifest },
    Target { name: "recording", read: recording::recording },
    Target { name: "loader", read: loader::module },
    Target { name: "book", read: groundskeeper::data::fuzz_decode },
    Target { name: "admin", read: admin::admin },
];

/// The target with this name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
