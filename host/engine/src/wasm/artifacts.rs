//! The artifact store: compiled code on disk, so that a restart does not compile. Unusable entries count as missing.

#![expect(
    unsafe_code,
    reason = "compiled code is mapped and run: wasmtime asks whoever loads it to answer for it"
)]

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};

use groundskeeper_base::write::{private_folder, write_whole};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::trap::is_shortage;
use super::{LoadError, MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS, ModuleDigest};

/// More than a node has phases. The oldest entries are removed first.
const MOST_ENTRIES: usize = 256;

/// A folder of compiled components. The file name holds the digest of the module and the hash of the compiler.
#[derive(Debug)]
pub struct Artifacts {
    folder: PathBuf,
    /// Hash of wasmtime's version, of its settings that affect code, and of the limits on modules.
    compiler: u64,
}

impl Artifacts {
    /// Opens the folder. Creates it with mode 0700 if it does not exist.
    ///
    /// # Errors
    /// The folder cannot be created, or other users could write code into it.
    pub(super) fn open(folder: PathBuf, engine: &Engine) -> Result<Self, LoadError> {
        let refused = |why: String| LoadError::Artifacts { folder: folder.display().to_string(), why };
        private_folder(&folder).map_err(refused)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        (MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS).hash(&mut hasher);
        Ok(Self { folder, compiler: hasher.finish() })
    }

    fn path(&self, digest: &ModuleDigest) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.cwasm", self.compiler))
    }

    /// Maps the compiled code. None if there is no entry, or if it does not fit this engine; the entry is then removed.
    pub(super) fn load(&self, engine: &Engine, digest: &ModuleDigest) -> Option<Component> {
        let path = self.path(digest);
        if !path.try_exists().unwrap_or(false) {
            return None;
        }
        // SAFETY: only this user can write to the folder (checked when it was opened), and only `keep` writes to it, by
        // rename. So this compiler made the file, and the file does not change while it is mapped.
        match unsafe { Component::deserialize_file(engine, &path) } {
            Ok(component) => Some(component),
            // Without memory to map it, the entry may be good.
            Err(error) if is_shortage(&error) => None,
            Err(error) => {
                tracing::debug!(path = %path.display(), "compiled code does not fit and is compiled again: {error:#}");
                _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Stores compiled code under its digest.
    pub(super) fn keep(&self, digest: &ModuleDigest, compiled: &[u8]) -> io::Result<()> {
        write_whole(&self.path(digest), compiled, 0o600)?;
        prune(&self.folder)
    }
}

/// Removes all but the newest entries. Mapped code stays valid after its file is removed.
fn prune(folder: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?
        .filter_map(Result::ok)
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    let over = entries.len().saturating_sub(MOST_ENTRIES);
    if over > 0 {
        entries.sort();
        for (_, path) in &entries[..over] {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Loads compiled code that is not in the store.
pub(super) fn from_memory(engine: &Engine, compiled: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the bytes come from `precompile_component` of this engine and have not left this process.
    unsafe { Component::deserialize(engine, compiled) }.map_err(|error| LoadError::compile(&error))
}
