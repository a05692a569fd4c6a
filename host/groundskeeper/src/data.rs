//! The data folder: its lock, the node's key, and state that outlives a restart. Never generates a new identity for a
//! folder that had one, and never changes what a newer version wrote.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::book::BookEntry;
use crate::registry::LastRuns;

mod files;
#[cfg(feature = "dropin")]
mod generations;
mod phases;
mod state;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use files::{DiskFileSystem, FileStamp, FileSystem};
#[cfg(feature = "dropin")]
#[doc(hidden)]
pub use generations::Generation;
#[cfg(feature = "dropin")]
pub(crate) use generations::GenerationRecord;
#[doc(hidden)]
pub use groundskeeper_base::write::write_whole;
pub use state::LoadedState;

const KEY: &str = "node.key";
const LOCK: &str = "lock";
const ARTIFACTS: &str = "artifacts";

/// Only the owner may read the private key.
const KEY_MODE: u32 = 0o600;

/// Only the owner may write to the folder. The operator may open the admin socket in it to a group.
const FOLDER_MODE: u32 = 0o750;

/// Why a data folder cannot be used.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    #[error("data folder {}: another groundskeeper (pid {pid}) uses it; stop that one or choose another --data-dir", path.display())]
    Locked { path: PathBuf, pid: String },
    #[error(
        "data folder {} has state but no node.key; restore node.key or choose another folder: a new key would make \
         this another node",
        path.display()
    )]
    KeyMissing { path: PathBuf },
    #[error("{} can be read by others (mode {mode:03o}); run: chmod 600 {}", path.display(), path.display())]
    KeyOpen { path: PathBuf, mode: u32 },
    #[error("{} is empty; restore it from a backup, or choose another --data-dir", path.display())]
    KeyEmpty { path: PathBuf },
    #[error("no key could be made: {0}")]
    NoKey(String),
    #[error(
        "{} was written by a newer groundskeeper (format {found}, this one knows up to {known}) and is left as it is; \
         run that version, or choose another --data-dir",
        path.display()
    )]
    Newer { path: PathBuf, found: u16, known: u16 },
    #[error("{what} {}: {source}", path.display())]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

impl DataError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// One node's folder, locked while this value exists.
pub struct DataFolder {
    path: PathBuf,
    pub(crate) files: Arc<dyn FileSystem>,
    /// Holds the lock. The system releases it when the process ends in any way.
    _lock: File,
}

impl std::fmt::Debug for DataFolder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataFolder").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A node's private key as its generator made it; opaque here.
pub struct NodeKey {
    /// The content of `node.key`.
    pub bytes: Vec<u8>,
    /// The key was just made: this is a new node.
    pub is_new: bool,
}

impl std::fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeKey").field("is_new", &self.is_new).finish_non_exhaustive()
    }
}

impl DataFolder {
    /// Creates the folder if it does not exist, and takes its lock.
    ///
    /// # Errors
    /// [`DataError::Locked`] names the process that has it; [`DataError::Io`] if it cannot be created or written to.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        Self::open_on(path, Arc::new(DiskFileSystem))
    }

    /// For simulations: as [`DataFolder::open`], but `files` does all file operations except the lock.
    ///
    /// # Errors
    /// As [`DataFolder::open`].
    #[doc(hidden)]
    pub fn open_on(path: &Path, files: Arc<dyn FileSystem>) -> Result<Self, DataError> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(path)
            .map_err(DataError::io("cannot make data folder", path))?;
        let lock_path = path.join(LOCK);
        let cannot = || DataError::io("cannot write to data folder: lock file", &lock_path);
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .open(&lock_path)
            .map_err(cannot())?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // If it is unreadable, the message just says less.
                _ = lock.take(20).read_to_string(&mut pid);
                let pid = if pid.trim().is_empty() { "not known".into() } else { pid.trim().to_owned() };
                return Err(DataError::Locked { path: path.to_owned(), pid });
            }
            Err(TryLockError::Error(error)) => return Err(cannot()(error)),
        }
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(cannot())?;
        Ok(Self { path: path.to_owned(), files, _lock: lock })
    }

    /// Where the folder is, as it was given to [`DataFolder::open`].
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the node's key. Makes one with `generate` only if the folder never had one.
    ///
    /// # Errors
    /// [`DataError::KeyMissing`], [`DataError::KeyOpen`], [`DataError::KeyEmpty`], [`DataError::NoKey`] or
    /// [`DataError::Io`]. Nothing has changed then.
    pub fn key(&self, generate: impl FnOnce() -> Result<Vec<u8>, String>) -> Result<NodeKey, DataError> {
        let path = self.path.join(KEY);
        match File::open(&path) {
            Ok(mut file) => {
                let cannot = || DataError::io("cannot read", &path);
                let mode = file.metadata().map_err(cannot())?.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(DataError::KeyOpen { path, mode });
                }
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).map_err(cannot())?;
                if bytes.is_empty() {
                    return Err(DataError::KeyEmpty { path });
                }
                Ok(NodeKey { bytes, is_new: false })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if state::exists_in(&self.path) {
                    return Err(DataError::KeyMissing { path: self.path.clone() });
                }
                let bytes = generate().map_err(DataError::NoKey)?;
                self.files.write(&path, &bytes, KEY_MODE).map_err(DataError::io("cannot write", &path))?;
                // From now on the folder has state, so a lost key is noticed even if the node never saves more.
                self.save_schedule(&LastRuns::new())?;
                Ok(NodeKey { bytes, is_new: true })
            }
            Err(error) => Err(DataError::io("cannot read", &path)(error)),
        }
    }

    /// The path of the admin socket, unless the config sets another.
    pub fn admin_socket(path: &Path) -> PathBuf {
        path.join("admin.sock")
    }
}

/// State that a node keeps in its folder.
impl DataFolder {
    /// The address book as last saved; empty if it never was.
    ///
    /// # Errors
    /// [`DataError::Newer`] or [`DataError::Io`]. A corrupt file is not an error: it is moved aside, with a warning in
    /// the result.
    pub fn load_book(&self) -> Result<LoadedState<Vec<BookEntry>>, DataError> {
        state::BOOK.load(self)
    }

    /// # Errors
    /// [`DataError::Io`]; the old file is still there then.
    pub fn save_book(&self, entries: &Vec<BookEntry>) -> Result<(), DataError> {
        state::BOOK.save(self, entries)
    }

    /// When each phase last ran, in seconds since 1970.
    ///
    /// # Errors
    /// As [`DataFolder::load_book`].
    pub fn load_schedule(&self) -> Result<LoadedState<LastRuns>, DataError> {
        state::SCHEDULE.load(self)
    }

    /// # Errors
    /// [`DataError::Io`]; the old file is still there then.
    pub fn save_schedule(&self, last_runs: &LastRuns) -> Result<(), DataError> {
        state::SCHEDULE.save(self, last_runs)
    }
}

/// For the crates of this workspace.
#[doc(hidden)]
impl DataFolder {
    /// Counts a start of the node. Returns the number of earlier starts since the last good one; 0 if it is unknown.
    pub fn note_start(&self) -> u32 {
        let loaded = state::STARTS.load(self).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the number of starts of this node");
            LoadedState::default()
        });
        let earlier = loaded.value;
        self.save_starts(earlier.saturating_add(1));
        earlier
    }

    /// The node started well, or was asked to stop: the cause of earlier failures is gone.
    pub fn note_far(&self) {
        self.save_starts(0);
    }

    fn save_starts(&self, starts: u32) {
        if let Err(error) = state::STARTS.save(self, &starts) {
            tracing::warn!(%error, "cannot count the starts of this node");
        }
    }

    /// Creates the folder for `file`, unless it exists.
    fn make_folder_of(&self, file: &Path) -> Result<(), DataError> {
        match file.parent() {
            Some(folder) if folder != self.path => {
                let cannot = DataError::io("cannot make folder", folder);
                self.files.make_folder(folder, FOLDER_MODE).map_err(cannot)
            }
            _ => Ok(()),
        }
    }

    /// The folder of compiled phases.
    pub fn artifacts(&self) -> PathBuf {
        self.path.join(ARTIFACTS)
    }

    /// The folder of compiled phases in the data folder `path`, if that exists and belongs to the user of this process.
    /// For commands: code that they compile is there when the node needs it.
    #[doc(hidden)]
    pub fn own_artifacts(path: &Path) -> Option<PathBuf> {
        groundskeeper_base::write::is_own_folder(path).then(|| path.join(ARTIFACTS))
    }

    /// The folder of the `n`-th additional node of `run --local-peers`, from 1.
    pub fn local_peer(path: &Path, n: u32) -> PathBuf {
        path.join("local-peers").join(n.to_string())
    }
}
