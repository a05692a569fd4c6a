//! The artifact store: compiled code on disk, so that a restart does not compile. Unusable entries count as missing.
//!
//! A node and the commands of its operator may use one store at the same time.

#![expect(
    unsafe_code,
    reason = "compiled code is mapped and run: wasmtime asks whoever loads it to answer for it"
)]

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use groundskeeper_base::write::sync_folder_of;
use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, futimens};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::trap::is_shortage;
use super::{LoadError, MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS, ModuleDigest};

/// More than a node has phases. The entries that were not used for longest are removed first.
const MOST_ENTRIES: usize = 256;

/// Bytes of all entries. An interpreter of a large language has 70 MB.
const MOST_STORED: u64 = 2 << 30;

/// Permissions that let any user write.
const OTHERS_WRITE: u32 = 0o002;

/// A folder of compiled components. The file name holds the digest of the module and the hash of the compiler.
#[derive(Debug)]
pub struct Artifacts {
    folder: PathBuf,
    /// Hash of wasmtime's version, of its settings that affect code, and of the limits on modules.
    compiler: u64,
    /// Entries begun by this process, for names of temporary files.
    begun: AtomicU64,
}

impl Artifacts {
    /// Opens the folder. Creates it with mode 0700 if it does not exist. `None` if it cannot be used: then every start
    /// compiles, and a log line says why.
    pub(super) fn open(folder: PathBuf, engine: &Engine) -> Option<Self> {
        if let Err(why) = prepare(&folder) {
            let folder = folder.display();
            tracing::warn!(
                "{folder}: {why}; compiled code is not stored, and is compiled again at the next start"
            );
            return None;
        }
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        (MOST_BYTES, MOST_DEPTH, MOST_FUNCTIONS, MOST_LOCALS).hash(&mut hasher);
        Some(Self { folder, compiler: hasher.finish(), begun: AtomicU64::new(0) })
    }

    fn path(&self, digest: &ModuleDigest) -> PathBuf {
        self.folder.join(format!("{digest}-{:016x}.cwasm", self.compiler))
    }

    /// Maps the compiled code. None if there is no entry, or if it does not fit this engine; the entry is then removed.
    pub(super) fn load(&self, engine: &Engine, digest: &ModuleDigest) -> Option<Component> {
        let path = self.path(digest);
        // Not through a link. Only a file of this user was written by `begin`.
        let meta = fs::symlink_metadata(&path).ok()?;
        let is_ours = meta.is_file() && meta.uid() == user() && meta.mode() & OTHERS_WRITE == 0;
        // SAFETY: no stranger can write to the folder (checked when it was opened) or to this file, and only `begin` and
        // `finish` create such files, by rename. So a compiler of this version made the file, and the file does not
        // change while it is mapped.
        let loaded = is_ours.then(|| unsafe { Component::deserialize_file(engine, &path) });
        match loaded {
            Some(Ok(component)) => {
                note_use(&path);
                Some(component)
            }
            // Without memory to map it, the entry may be good.
            Some(Err(error)) if is_shortage(&error) => None,
            Some(Err(error)) => {
                tracing::debug!(path = %path.display(), "compiled code does not fit and is compiled again: {error:#}");
                _ = fs::remove_file(&path);
                None
            }
            None => {
                tracing::warn!(path = %path.display(), "compiled code that others may have written is removed");
                _ = fs::remove_file(&path);
                None
            }
        }
    }

    /// Begins an entry. `None` if it cannot be written; a log line says why.
    pub(super) fn begin(&self, digest: &ModuleDigest) -> Option<NewArtifact> {
        let begun = self.begun.fetch_add(1, Ordering::Relaxed);
        let path = self.path(digest);
        // Other processes use the same folder.
        let temporary = path.with_extension(format!("{}-{begun}.tmp", std::process::id()));
        let created = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        match created {
            Ok(file) => Some(NewArtifact { file, path, temporary }),
            Err(error) => {
                tracing::warn!(%error, "compiled code could not be stored; it is compiled again next time");
                None
            }
        }
    }
}

/// Writes down that an entry was used. If that fails, it only looks older than it is.
fn note_use(path: &Path) {
    let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: omit, last_modification: now };
    _ = File::open(path).and_then(|file| Ok(futimens(&file, &times)?));
}

/// An entry that is being written. Unless it is finished, it is removed.
pub(super) struct NewArtifact {
    file: File,
    path: PathBuf,
    temporary: PathBuf,
}

impl NewArtifact {
    /// Where the code goes.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Puts the entry into the store. False if that fails.
    pub fn finish(&self) -> bool {
        let finished = self.file.sync_all().and_then(|()| {
            fs::rename(&self.temporary, &self.path)?;
            sync_folder_of(&self.path)?;
            prune(self.path.parent().unwrap_or(Path::new(".")))
        });
        if let Err(error) = &finished {
            tracing::warn!(%error, "compiled code could not be stored; it is compiled again next time");
        }
        finished.is_ok()
    }
}

impl Drop for NewArtifact {
    fn drop(&mut self) {
        // Fails after `finish`.
        _ = fs::remove_file(&self.temporary);
    }
}

/// Makes sure that no other user can write to the folder.
fn prepare(folder: &Path) -> Result<(), String> {
    let failed = |error: io::Error| error.to_string();
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let meta = fs::symlink_metadata(folder).map_err(failed)?;
    if !meta.is_dir() {
        return Err("it is a link; name the folder itself".to_owned());
    }
    if meta.uid() != user() {
        return Err("it belongs to another user, who could write code that this process runs".to_owned());
    }
    if meta.mode() & OTHERS_WRITE != 0 {
        tracing::warn!("{}: every user could write to it; compiled code is removed", folder.display());
        fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(failed)?;
        for entry in fs::read_dir(folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if is_entry(&path) {
                fs::remove_file(path).map_err(failed)?;
            }
        }
    }
    Ok(())
}

fn user() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn is_entry(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "cwasm" || end == "tmp")
}

/// Removes the entries that were not used for longest, until the others are few and small enough. The newest one stays.
/// Mapped code stays valid after its file is removed.
fn prune(folder: &Path) -> io::Result<()> {
    let mut entries: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| {
            let (path, meta) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?))).ok()?;
            is_entry(&path).then_some((meta.modified().ok()?, meta.len(), path))
        })
        .collect();
    entries.sort();
    let mut count = entries.len();
    let mut bytes: u64 = entries.iter().map(|(_, len, _)| len).sum();
    _ = entries.pop();
    for (_, len, path) in entries {
        if count <= MOST_ENTRIES && bytes <= MOST_STORED {
            break;
        }
        // Another process may have removed it.
        _ = fs::remove_file(path);
        count -= 1;
        bytes -= len;
    }
    Ok(())
}

/// Loads compiled code that is not in the store.
pub(super) fn from_memory(engine: &Engine, compiled: &[u8]) -> Result<Component, LoadError> {
    // SAFETY: the bytes come from `precompile_component` in this process, or in the child process that the application
    // has named; they have been in no file that another user can write.
    let loaded = unsafe { Component::deserialize(engine, compiled) };
    loaded.map_err(|error| {
        LoadError::Machine(format!("the program that compiles is of another version: {error:#}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_others_could_write_is_emptied_and_one_of_others_is_not_used() {
        let engine = Engine::default();
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("artifacts");
        assert!(Artifacts::open(folder.clone(), &engine).is_some());
        let mode = || fs::metadata(&folder).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o700);

        // As Kubernetes leaves it with `fsGroup`: the group is the pod's own.
        fs::write(folder.join("one.cwasm"), "code").unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o2770)).unwrap();
        assert!(Artifacts::open(folder.clone(), &engine).is_some());
        assert!(folder.join("one.cwasm").exists());

        fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
        assert!(Artifacts::open(folder.clone(), &engine).is_some());
        assert!(!folder.join("one.cwasm").exists() && mode() == 0o700);

        let link = home.path().join("link");
        std::os::unix::fs::symlink(&folder, &link).unwrap();
        assert!(Artifacts::open(link, &engine).is_none());
        fs::write(home.path().join("file"), "").unwrap();
        assert!(Artifacts::open(home.path().join("file"), &engine).is_none());
    }

    #[test]
    fn entries_that_were_not_used_for_longest_are_removed_first() {
        let home = tempfile::tempdir().unwrap();
        let at = |number: usize| home.path().join(format!("{number:04}.cwasm"));
        for number in 0..MOST_ENTRIES + 2 {
            let file = File::create(at(number)).unwrap();
            file.set_modified(
                std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(number as u64),
            )
            .unwrap();
        }
        fs::write(home.path().join("copy.so"), "").unwrap();
        note_use(&at(0));
        prune(home.path()).unwrap();
        let left = (0..MOST_ENTRIES + 2).filter(|number| at(*number).exists()).count();
        assert!(left == MOST_ENTRIES && at(0).exists() && !at(1).exists() && !at(2).exists());
        assert!(home.path().join("copy.so").exists());

        // A sparse file, larger than the store may be.
        File::create(at(0)).unwrap().set_len(MOST_STORED + 1).unwrap();
        prune(home.path()).unwrap();
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 2, "the newest entry and what is no entry");
    }
}
