//! Converts a phase's memory to bytes and back. Stores nothing: the host does, when it accepts the plan.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::phase::{Failure, Result};

/// Bytes that outlive a run, a reload and a restart: one value per phase name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    /// The version that the writer gave to the layout of `bytes`.
    pub version: u32,
    /// JSON, for phases written with this crate: people and phases in other languages can read it, and a guest already
    /// contains the code for its settings.
    pub bytes: Vec<u8>,
}

/// What a phase keeps between runs.
///
/// Written as JSON, so maps need keys that are strings or numbers.
pub trait Memory: Serialize + DeserializeOwned + Default {
    /// Raise it when old bytes would be misread. New fields with `#[serde(default)]` do not need that.
    const VERSION: u32 = 1;

    /// Converts bytes of another version. It works on a copy: if the host rolls back to the old phase, the old bytes
    /// are still there.
    ///
    /// # Errors
    /// Unless overridden, a permanent failure that names both versions.
    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self> {
        let _ = bytes;
        Err(Failure::Permanent(format!(
            "memory: stored as version {version}, this phase reads version {}; implement Memory::upgrade, or clear \
             this phase's memory",
            Self::VERSION
        )))
    }
}

/// Decodes what an earlier run remembered; the default if nothing is stored.
pub(crate) fn load<M: Memory>(saved: Option<Saved>) -> Result<M> {
    match saved {
        None => Ok(M::default()),
        Some(saved) if saved.version != M::VERSION => M::upgrade(saved.version, &saved.bytes),
        Some(saved) => serde_json::from_slice(&saved.bytes).map_err(|error| {
            Failure::Permanent(format!(
                "memory: version {} does not read: {error}; raise Memory::VERSION when its layout changes, or clear \
                 this phase's memory",
                saved.version
            ))
        }),
    }
}

/// Encodes a value to the bytes that [`load`] reads.
pub(crate) fn save<M: Memory>(memory: &M) -> Result<Saved> {
    let bytes = serde_json::to_vec(memory)
        .map_err(|error| Failure::Permanent(format!("memory: does not become JSON: {error}")))?;
    Ok(Saved { version: M::VERSION, bytes })
}
