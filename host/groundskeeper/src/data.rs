//! The data folder: its lock, the node's key, and state that outlives a restart. Never generates a new identity for a
//! folder that had one, and never changes what a newer version wrote.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use groundskeeper_base::read::read_regular;
use groundskeeper_base::trust::{self, Access, Credentials, FolderTrust};
use groundskeeper_base::write::{make_folder, open_own, remove_temporary_files};

use tokio::sync::watch;

use crate::book::BookEntry;
use crate::cycle::KeptLimits;
use crate::registry::LastRuns;

mod files;
#[cfg(feature = "dropin")]
mod fuzz;
#[cfg(feature = "dropin")]
mod generations;
mod locked;
mod older;
mod phases;
mod state;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use files::{DiskFileSystem, FileStamp, FileSystem};
#[cfg(feature = "dropin")]
#[doc(hidden)]
pub use fuzz::fuzz_decode;
#[cfg(feature = "dropin")]
#[doc(hidden)]
pub use generations::Generation;
#[cfg(feature = "dropin")]
pub(crate) use generations::GenerationRecord;
#[doc(hidden)]
pub use groundskeeper_base::write::write_whole;
use locked::LockedFileSystem;
pub use state::LoadedState;

const KEY: &str = "node.key";
const LOCK: &str = "lock";
const ARTIFACTS: &str = "artifacts";

/// Only the owner may read the private key.
const KEY_MODE: u32 = 0o600;

/// A key has 83 bytes.
const LARGEST_KEY: u64 = 64 << 10;

/// A user who may look into the folder may see which process holds it.
const LOCK_MODE: u32 = 0o640;

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
    #[error("{} {why}", path.display())]
    Untrusted { path: PathBuf, why: String },
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

/// Where a key is read from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum KeyPlace {
    /// `node.key` of the data folder.
    Folder,
    /// A file that the operator names.
    Secret,
}

/// One node's folder, locked while this value exists.
pub struct DataFolder {
    path: PathBuf,
    pub(crate) files: Arc<dyn FileSystem>,
    /// Holds the lock. The system releases it when the process ends in any way.
    _lock: Arc<FolderLock>,
}

/// The lock of a folder, shared by the threads that write to it.
struct FolderLock {
    /// Holds the lock until it is closed.
    _file: File,
    /// The field after it, so that it is dropped when the lock is free.
    #[cfg_attr(
        not(feature = "node"),
        allow(dead_code, reason = "only a whole node does not wait for its disks")
    )]
    is_held: watch::Sender<()>,
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
        make_folder(path, FOLDER_MODE).map_err(DataError::io("cannot make data folder", path))?;
        match trust::of_own_folder(path).map_err(DataError::io("cannot look at data folder", path))? {
            FolderTrust::Trusted => {}
            FolderTrust::Doubtful(why) => tracing::warn!(folder = %path.display(), "the data folder {why}"),
            FolderTrust::Untrusted(why) => return Err(DataError::Untrusted { path: path.to_owned(), why }),
        }
        let lock_path = path.join(LOCK);
        let cannot = || DataError::io("cannot write to data folder: lock file", &lock_path);
        let mut lock =
            open_own(&lock_path, OpenOptions::new().read(true).write(true), LOCK_MODE).map_err(cannot())?;
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
        // No other process writes here now.
        for folder in [path.to_owned(), path.join(phases::FOLDER), path.join("generations")] {
            remove_temporary_files(&folder);
        }
        let files = Arc::new(LockedFileSystem::new(files, &lock_path, &lock).map_err(cannot())?);
        let lock = FolderLock { _file: lock, is_held: watch::Sender::new(()) };
        Ok(Self { path: path.to_owned(), files, _lock: Arc::new(lock) })
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
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_symlink() => {
                Err(DataError::Untrusted { path, why: "is a link; put the file itself there".to_owned() })
            }
            Ok(_) => self.read_key(path, KeyPlace::Folder),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if state::exists_in(&self.path) {
                    return Err(DataError::KeyMissing { path: self.path.clone() });
                }
                let bytes = generate().map_err(DataError::NoKey)?;
                self.files.write(&path, &bytes, KEY_MODE).map_err(DataError::io("cannot write", &path))?;
                // From now on the folder has state, so a lost key is noticed even if the node never saves more.
                self.save_schedule(&LastRuns::default())?;
                Ok(NodeKey { bytes, is_new: true })
            }
            Err(error) => Err(DataError::io("cannot read", &path)(error)),
        }
    }

    /// Reads the node's key from another file, such as a systemd credential or a mounted secret, and leaves `node.key`
    /// alone. Its group may read it: that is how such files are handed over.
    ///
    /// # Errors
    /// [`DataError::Untrusted`], [`DataError::KeyOpen`], [`DataError::KeyEmpty`] or [`DataError::Io`].
    pub fn key_from(&self, file: &Path) -> Result<NodeKey, DataError> {
        self.read_key(file.to_owned(), KeyPlace::Secret)
    }

    fn read_key(&self, path: PathBuf, place: KeyPlace) -> Result<NodeKey, DataError> {
        let cannot = || DataError::io("cannot read", &path);
        let meta = fs::metadata(&path).map_err(cannot())?;
        let own = Credentials::own();
        if !own.trusts(meta.uid()) && place == KeyPlace::Folder {
            let why = format!(
                "belongs to user {}, neither root nor the user of this process; chown it",
                meta.uid()
            );
            return Err(DataError::Untrusted { path, why });
        }
        let mode = meta.permissions().mode() & 0o777;
        let folder = fs::metadata(&self.path).map(|folder| Access::of(&self.path, &folder));
        let group_may_read = match place {
            KeyPlace::Secret => true,
            KeyPlace::Folder => {
                own.gids.contains(&meta.gid()) && folder.is_ok_and(|folder| folder.has_fs_group(&own))
            }
        };
        if mode & 0o007 != 0 || mode & 0o070 != 0 && !group_may_read {
            return Err(DataError::KeyOpen { path, mode });
        }
        if mode & 0o070 != 0 && place == KeyPlace::Folder {
            tracing::warn!(
                file = %path.display(), mode = format!("{mode:03o}"), gid = meta.gid(),
                "the group of this process can read the key: its folder is marked for that, as by Kubernetes' fsGroup"
            );
        }
        let bytes = read_regular(&path, LARGEST_KEY).map_err(cannot())?;
        if bytes.is_empty() {
            return Err(DataError::KeyEmpty { path });
        }
        Ok(NodeKey { bytes, is_new: false })
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

    /// When each phase last ran.
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
    /// Bans in force when the last process ended, and what guests had used of their ceilings.
    ///
    /// # Errors
    /// As [`DataFolder::load_book`].
    pub fn load_limits(&self) -> Result<LoadedState<KeptLimits>, DataError> {
        state::LIMITS.load(self)
    }

    /// # Errors
    /// [`DataError::Io`]; the old file is still there then.
    pub fn save_limits(&self, limits: &KeptLimits) -> Result<(), DataError> {
        state::LIMITS.save(self, limits)
    }

    /// Completes when this process has released the folder: after a shutdown, its threads may hold it a little longer.
    #[cfg(feature = "node")]
    pub(crate) fn released(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut is_held = self._lock.is_held.subscribe();
        async move { while is_held.changed().await.is_ok() {} }
    }

    /// The same locked folder, with `files` for all file operations.
    #[cfg(feature = "dropin")]
    pub(crate) fn on(&self, files: Arc<dyn FileSystem>) -> Self {
        Self { path: self.path.clone(), files, _lock: Arc::clone(&self._lock) }
    }

    /// Counts a start of the node. Returns the number of earlier starts since the last good one; 0 if it is unknown.
    pub fn note_start(&self) -> u32 {
        let loaded = state::STARTS.load(self).unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the number of starts of this node");
            LoadedState::default()
        });
        let earlier = loaded.value;
        self.save_starts_logged(earlier.saturating_add(1));
        earlier
    }

    /// The node started well, or was asked to stop: the cause of earlier failures is gone.
    pub fn note_far(&self) {
        self.save_starts_logged(0);
    }

    fn save_starts_logged(&self, starts: u32) {
        if let Err(error) = self.save_starts(starts) {
            tracing::warn!(%error, "cannot count the starts of this node");
        }
    }

    /// Counts starts since the last good one.
    pub(crate) fn save_starts(&self, starts: u32) -> Result<(), DataError> {
        state::STARTS.save(self, &starts)
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
