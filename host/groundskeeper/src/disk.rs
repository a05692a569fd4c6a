//! Watches file operations: which one a thread waits for, and whether it takes too long.
//!
//! A call into a file system may never return: a network mount that is gone, a frozen disk. Nothing can end such a call.
//! So all calls of a running node are made on threads of their own, and each thread notes its call here, for others to see.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::data::{FileStamp, FileSystem};
use crate::journal::Journal;

#[cfg(test)]
mod tests;
mod thread;
mod writer;

pub(crate) use thread::DiskThread;
#[cfg(feature = "node")]
pub(crate) use thread::NoAnswer;
#[cfg(any(feature = "node", feature = "telemetry"))]
pub(crate) use thread::on_own_thread;
#[doc(hidden)]
pub use writer::PendingSaves;
#[cfg(feature = "telemetry")]
pub(crate) use writer::SaveCounts;
pub(crate) use writer::{StateValue, StateWriter};

/// A call that takes longer than this is stuck. A busy disk answers within a second or two.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The part of the node that uses files.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum DiskUser {
    /// Writes the state files of the data folder.
    State,
    /// Reads the drop-in folder, and keeps its generations in the data folder.
    Phases,
    /// Reads the config.
    Config,
    /// Writes the journal's file.
    Journal,
}

impl DiskUser {
    /// Every user, for metrics that have one series per user.
    pub const ALL: [Self; 4] = [Self::State, Self::Phases, Self::Config, Self::Journal];

    /// The name in metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Phases => "phases",
            Self::Config => "config",
            Self::Journal => "journal",
        }
    }
}

/// A disk that does not do what the node needs: a call that has not returned, or saves that fail.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DiskTrouble {
    /// The part of the node that has this trouble.
    pub user: DiskUser,
    /// What does not work, with the path.
    pub what: String,
    /// For how long, in seconds.
    pub for_s: u64,
    /// The error, if a call has returned one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
}

impl std::fmt::Display for DiskTrouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, for_s, error, .. } = self;
        match error {
            Some(error) => write!(f, "{what} has failed for {for_s} s: {error}"),
            None => write!(f, "{what} has not returned for {for_s} s"),
        }
    }
}

/// What all parts of a node wait for on their disks.
#[derive(Clone, Default)]
pub struct DiskHealth {
    calls: Vec<Arc<DiskCalls>>,
    writer: Option<Arc<StateWriter>>,
    journal: Option<Arc<Journal>>,
}

impl DiskHealth {
    #[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "only operators ask for it"))]
    pub(crate) fn new(
        calls: Vec<Arc<DiskCalls>>,
        writer: Option<Arc<StateWriter>>,
        journal: Arc<Journal>,
    ) -> Self {
        Self { calls, writer, journal: Some(journal) }
    }

    /// Calls that take longer than a disk should, and saves that keep failing. Takes no lock that is held during a call.
    pub fn troubles(&self) -> Vec<DiskTrouble> {
        let calls = self.calls.iter().filter_map(|calls| calls.trouble());
        let saves = self.writer.iter().flat_map(|writer| writer.troubles());
        calls.chain(saves).chain(self.journal_trouble()).collect()
    }

    fn journal_trouble(&self) -> Option<DiskTrouble> {
        let journal = self.journal.as_ref()?;
        let (file, waited) = (journal.file()?, journal.file_waited());
        let trouble = || DiskTrouble {
            user: DiskUser::Journal,
            what: format!("write {}", file.display()),
            for_s: waited.as_secs(),
            error: None,
        };
        (waited >= PATIENCE).then(trouble)
    }

    #[cfg(feature = "telemetry")]
    pub(crate) fn saves(&self) -> SaveCounts {
        self.writer.as_ref().map(|writer| writer.counts()).unwrap_or_default()
    }
}

/// The call that one thread makes now.
pub(crate) struct DiskCalls {
    user: DiskUser,
    current: Mutex<Option<DiskCall>>,
}

#[derive(Clone)]
struct DiskCall {
    what: &'static str,
    path: PathBuf,
    since: Instant,
}

impl DiskCalls {
    pub fn new(user: DiskUser) -> Arc<Self> {
        Arc::new(Self { user, current: Mutex::new(None) })
    }

    /// Runs `call`. Until it returns, others can see it. Calls may be nested: the outer one then counts.
    pub fn during<R>(&self, what: &'static str, path: &Path, call: impl FnOnce() -> R) -> R {
        /// Also after a panic, the thread waits for nothing.
        struct Ended<'a>(&'a DiskCalls, bool);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                if self.1 {
                    *self.0.current.lock() = None;
                }
            }
        }
        let is_outer = {
            let mut current = self.current.lock();
            let is_outer = current.is_none();
            current.get_or_insert_with(|| DiskCall { what, path: path.to_owned(), since: Instant::now() });
            is_outer
        };
        let _ended = Ended(self, is_outer);
        call()
    }

    /// The call that has not returned for longer than [`PATIENCE`].
    pub fn trouble(&self) -> Option<DiskTrouble> {
        let DiskCall { what, path, since } = self.current.lock().clone()?;
        let waited = since.elapsed();
        let trouble = || DiskTrouble {
            user: self.user,
            what: format!("{what} {}", path.display()),
            for_s: waited.as_secs(),
            error: None,
        };
        (waited >= PATIENCE).then(trouble)
    }

    /// How long the current call has taken.
    pub fn waited(&self) -> Duration {
        self.current.lock().as_ref().map_or(Duration::ZERO, |call| call.since.elapsed())
    }
}

/// A file system that notes each of its calls.
pub(crate) struct WatchedFileSystem {
    pub files: Arc<dyn FileSystem>,
    pub calls: Arc<DiskCalls>,
    /// Whether this thread may still replace files. False once another thread has taken over.
    pub may_replace: Box<dyn Fn() -> bool + Send + Sync>,
}

impl WatchedFileSystem {
    /// The calls of a thread that is never replaced.
    pub fn new(files: Arc<dyn FileSystem>, calls: Arc<DiskCalls>) -> Arc<Self> {
        Arc::new(Self { files, calls, may_replace: Box::new(|| true) })
    }
}

impl FileSystem for WatchedFileSystem {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        self.calls.during("list", folder, || self.files.list(folder))
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        self.calls.during("stat", file, || self.files.stamp(file))
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.calls.during("read", file, || self.files.read(file, most))
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.calls.during("write", file, || self.files.write_if(file, bytes, mode, &*self.may_replace))
    }

    fn write_all(&self, files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
        let Some((first, _)) = files.first() else { return Ok(()) };
        self.calls.during("write", first, || self.files.write_all(files, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.calls.during("rename", from, || self.files.rename(from, to))
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.calls.during("remove", file, || self.files.remove(file))
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        self.calls.during("make folder", folder, || self.files.make_folder(folder, mode))
    }

    fn distrust(&self, file: &Path) -> Option<String> {
        self.calls.during("stat", file, || self.files.distrust(file))
    }
}
