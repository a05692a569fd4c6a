//! Hints that a folder may have changed. Some changes come without a hint, and some hints without a change. The receiver
//! scans the folder on a hint, and from time to time without one.

#[cfg(feature = "watch")]
use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "watch")]
use std::ffi::OsString;
#[cfg(feature = "watch")]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "watch")]
use std::time::SystemTime;

#[cfg(feature = "watch")]
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
#[cfg(feature = "watch")]
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Without the feature there are no hints, and the folder is scanned once per tick.
#[cfg(not(feature = "watch"))]
pub struct Watcher;

#[cfg(not(feature = "watch"))]
impl Watcher {
    /// Watches nothing: `hint` is never notified.
    pub fn start(_: &Path, _hint: Arc<Notify>) -> Self {
        Self
    }

    /// Watches nothing.
    pub fn of_all_files(_: &Path, _hint: Arc<Notify>) -> Self {
        Self
    }

    /// Watches nothing.
    pub fn is_complete(&self) -> bool {
        false
    }

    /// Does nothing.
    pub fn follow<'a>(&mut self, _: impl Iterator<Item = &'a PathBuf>, _: impl Iterator<Item = PathBuf>) {}
}

/// Device, inode and birth time of a folder: a folder that is created again may get the same inode.
#[cfg(feature = "watch")]
type FolderIdentity = (u64, u64, Option<SystemTime>);

/// Watches one folder, and the folders that its links lead to.
#[cfg(feature = "watch")]
pub struct Watcher {
    watcher: Option<RecommendedWatcher>,
    folder: PathBuf,
    /// Watched folders, each with its identity when it was last watched.
    watched: BTreeMap<PathBuf, Option<FolderIdentity>>,
    concerns: Arc<Mutex<Concerns>>,
    is_complete: bool,
    hint: Arc<Notify>,
}

/// Extensions of the files that matter, whatever they are called: manifests, modules and signatures.
#[cfg(feature = "watch")]
const KINDS: [&str; 4] = ["toml", "wasm", "so", "minisig"];

/// Names of other files and folders that matter. An event about any other file is no hint: a log file beside the config
/// would otherwise cause a hint with each of its lines.
#[cfg(feature = "watch")]
#[derive(Default)]
struct Concerns {
    all: bool,
    names: BTreeSet<OsString>,
    folders: BTreeSet<PathBuf>,
}

#[cfg(feature = "watch")]
impl Concerns {
    fn includes(&self, event: &notify::Event) -> bool {
        // Reading is no change, and the scanner itself reads.
        let is_access = matches!(event.kind, EventKind::Access(_));
        let concerns = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            self.folders.contains(path)
                || self.names.contains(name)
                // Kubernetes replaces all files of a volume by replacing the link "..data".
                || name.as_encoded_bytes().starts_with(b"..")
                || path.extension().is_some_and(|end| KINDS.iter().any(|kind| end == *kind))
        };
        !is_access
            && (self.all || event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(concerns))
    }
}

#[cfg(feature = "watch")]
impl Watcher {
    /// Starts to watch, and notifies `hint` when a file that may matter may have changed. If the machine has no watches left, warns once
    /// and scans without them.
    pub fn start(folder: &Path, hint: Arc<Notify>) -> Self {
        Self::new(folder, hint, Concerns::default())
    }

    /// As [`Watcher::start`], but any file in the folder matters.
    pub fn of_all_files(folder: &Path, hint: Arc<Notify>) -> Self {
        Self::new(folder, hint, Concerns { all: true, ..Concerns::default() })
    }

    fn new(folder: &Path, hint: Arc<Notify>, concerns: Concerns) -> Self {
        let concerns = Arc::new(Mutex::new(concerns));
        let (hint_tx, concern) = (Arc::clone(&hint), Arc::clone(&concerns));
        let on_event = move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| !concern.lock().includes(&event)) {
                hint_tx.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(on_event);
        if let Err(error) = &watcher {
            tracing::warn!(%error, folder = %folder.display(), "cannot watch the folder; scanning it once per tick");
        }
        let mut watcher = Self {
            watcher: watcher.ok(),
            folder: folder.to_owned(),
            watched: BTreeMap::new(),
            concerns,
            is_complete: false,
            hint,
        };
        watcher.follow(std::iter::empty(), std::iter::empty());
        watcher
    }

    /// Whether every change of the files that were followed gives a hint, as far as this machine can tell.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Watches the folder, or its nearest existing ancestor, and the targets of the links among `files`. Changes of `more`
    /// files in these folders are hints too.
    pub fn follow<'a>(
        &mut self,
        files: impl Iterator<Item = &'a PathBuf>,
        more: impl Iterator<Item = PathBuf>,
    ) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = Concerns { all: self.concerns.lock().all, ..Concerns::default() };
        wanted.names.extend(self.folder.components().map(|part| part.as_os_str().to_owned()));
        for path in more {
            wanted.names.extend(path.file_name().map(ToOwned::to_owned));
            wanted.folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned));
            links(&path, &mut wanted);
        }
        links(&self.folder, &mut wanted);
        files.for_each(|path| links(path, &mut wanted));
        wanted.folders.extend(self.folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned));
        for gone in self.watched.keys().filter(|folder| !wanted.folders.contains(*folder)) {
            // Usually the watch is gone together with its folder.
            _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeMap::new();
        for folder in &wanted.folders {
            // Every time: a folder that was removed and created again has lost its watch.
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    let which =
                        folder.metadata().ok().map(|meta| (meta.dev(), meta.ino(), meta.created().ok()));
                    watched.insert(folder.clone(), which);
                }
                Err(error) => {
                    tracing::debug!(%error, folder = %folder.display(), "not watched; scanned once per tick");
                }
            }
        }
        self.is_complete = watched.len() == wanted.folders.len() && watched.contains_key(&self.folder);
        *self.concerns.lock() = wanted;
        if watched.iter().any(|(folder, which)| self.watched.get(folder) != Some(which)) {
            // Changes since the last scan may have been missed.
            self.hint.notify_one();
        }
        self.watched = watched;
    }
}

/// Adds the folders that `path` leads to through links, step by step, and the names on the way.
#[cfg(feature = "watch")]
fn links(path: &Path, found: &mut Concerns) {
    let mut path = path.to_owned();
    // The limit of the system.
    for _ in 0..40 {
        // A folder on the way may be a link too. Files change in its target.
        if let Some(real) = path.parent().and_then(|folder| folder.canonicalize().ok())
            && path.parent().is_some_and(|folder| folder != real)
        {
            found.folders.insert(real);
        }
        let Ok(target) = std::fs::read_link(&path) else { return };
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        found.names.extend(path.file_name().map(ToOwned::to_owned));
        path = folder.join(target);
        found.names.extend(path.file_name().map(ToOwned::to_owned));
        found.folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned));
    }
}
