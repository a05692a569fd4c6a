//! How a reloader works, and why it scans.

use std::path::PathBuf;

use crate::config::Require;

/// How a reloader works.
#[derive(Clone, Debug)]
pub struct ReloadOptions {
    /// The drop-in folder.
    pub dir: PathBuf,
    /// Native phases are replaced while the node runs: for their authors.
    pub reload_native: bool,
    pub require: Require,
    /// What signatures are checked against.
    pub public_key: Option<String>,
}

impl ReloadOptions {
    /// Nothing is required of what lies in `dir`.
    pub fn trusting(dir: PathBuf) -> Self {
        Self { dir, reload_native: false, require: Require::Nothing, public_key: None }
    }
}

/// Why a scan is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanKind {
    /// Something may have changed, or some time has passed: only what has come to rest is read.
    Hint,
    /// From time to time everything is read, in case a change had no trace.
    Thorough,
    /// The operator says so: everything is read as it is now, and what was refused is tried again.
    Ordered,
}
