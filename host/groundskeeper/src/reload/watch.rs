//! Hints that a folder may have changed. Some changes come without a hint, and some hints without a change. The receiver
//! scans the folder on a hint, and from time to time without one.

#[cfg(feature = "watch")]
use std::collections::{BTreeMap, BTreeSet};
#[cfg(feature = "watch")]
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "watch")]
use std::time::SystemTime;

#[cfg(feature = "watch")]
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

/// Without the feature there are no hints, and the folder is scanned once per tick.
#[cfg(not(feature = "watch"))]
pub struct Watcher(Arc<Notify>);

#[cfg(not(feature = "watch"))]
impl Watcher {
    /// Watches nothing.
    pub fn start(_: &Path) -> Self {
        Self(Arc::default())
    }

    /// Is never notified.
    pub fn hint(&self) -> Arc<Notify> {
        Arc::clone(&self.0)
    }

    /// Does nothing.
    pub fn follow<'a>(&mut self, _: impl Iterator<Item = &'a PathBuf>) {}
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
    hint: Arc<Notify>,
}

#[cfg(feature = "watch")]
impl Watcher {
    /// Starts to watch. If the machine has no watches left, warns once and scans without them.
    pub fn start(folder: &Path) -> Self {
        let hint = Arc::new(Notify::new());
        let hint_tx = Arc::clone(&hint);
        let on_event = move |event: notify::Result<notify::Event>| {
            // Reading is no change, and the scanner itself reads.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                hint_tx.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(on_event);
        if let Err(error) = &watcher {
            tracing::warn!(%error, folder = %folder.display(), "cannot watch the folder; scanning it once per tick");
        }
        let watched = BTreeMap::new();
        let mut watcher = Self { watcher: watcher.ok(), folder: folder.to_owned(), watched, hint };
        watcher.follow(std::iter::empty());
        watcher
    }

    /// Completes when something may have changed.
    pub fn hint(&self) -> Arc<Notify> {
        Arc::clone(&self.hint)
    }

    /// Watches the folder, or its nearest existing ancestor, and the targets of the links among `files`.
    pub fn follow<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeSet::new();
        links(&self.folder, &mut wanted);
        files.for_each(|path| links(path, &mut wanted));
        wanted.extend(self.folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned));
        for gone in self.watched.keys().filter(|folder| !wanted.contains(*folder)) {
            // Usually the watch is gone together with its folder.
            _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeMap::new();
        for folder in wanted {
            // Every time: a folder that was removed and created again has lost its watch.
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    let which =
                        folder.metadata().ok().map(|meta| (meta.dev(), meta.ino(), meta.created().ok()));
                    watched.insert(folder, which);
                }
                Err(error) => {
                    tracing::debug!(%error, folder = %folder.display(), "not watched; scanned once per tick");
                }
            }
        }
        if watched.iter().any(|(folder, which)| self.watched.get(folder) != Some(which)) {
            // Changes since the last scan may have been missed.
            self.hint.notify_one();
        }
        self.watched = watched;
    }
}

/// The folders that `path` leads to through links, step by step.
#[cfg(feature = "watch")]
fn links(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut path = path.to_owned();
    // The limit of the system.
    for _ in 0..40 {
        // A folder on the way may be a link too. Files change in its target.
        if let Some(real) = path.parent().and_then(|folder| folder.canonicalize().ok())
            && path.parent().is_some_and(|folder| folder != real)
        {
            folders.insert(real);
        }
        let Ok(target) = std::fs::read_link(&path) else { return };
        let folder = path.parent().unwrap_or(Path::new(".")).to_owned();
        path = folder.join(target);
        folders.extend(path.parent().filter(|folder| folder.is_dir()).map(Path::to_owned));
    }
}
