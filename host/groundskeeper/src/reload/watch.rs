//! Hints that a folder may have changed. Not every change comes with one, and not every one is a change: a receiver
//! of hints scans the folder, and scans it from time to time without one.

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

/// Without the feature nothing is ever hinted at, and the folder is scanned once a tick.
#[cfg(not(feature = "watch"))]
pub struct Watcher(Arc<Notify>);

#[cfg(not(feature = "watch"))]
impl Watcher {
    pub fn start(_: &Path) -> Self {
        Self(Arc::default())
    }

    pub fn hint(&self) -> Arc<Notify> {
        Arc::clone(&self.0)
    }

    pub fn follow<'a>(&mut self, _: impl Iterator<Item = &'a PathBuf>) {}
}

/// Device, inode and birth of a folder: one that is made anew may have the inode of the one before.
#[cfg(feature = "watch")]
type Identity = (u64, u64, Option<SystemTime>);

/// Watches one folder, and the folders in which the files behind its links lie.
#[cfg(feature = "watch")]
pub struct Watcher {
    watcher: Option<RecommendedWatcher>,
    folder: PathBuf,
    /// Folders, and which ones they were when they were last watched.
    watched: BTreeMap<PathBuf, Option<Identity>>,
    hint: Arc<Notify>,
}

#[cfg(feature = "watch")]
impl Watcher {
    /// Begins to watch. A machine that has no watches left is told once, and scans without them.
    pub fn start(folder: &Path) -> Self {
        let hint = Arc::new(Notify::new());
        let told = Arc::clone(&hint);
        let tell = move |event: notify::Result<notify::Event>| {
            // Reading is not changing, and we read.
            if !matches!(event, Ok(notify::Event { kind: EventKind::Access(_), .. })) {
                told.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(tell);
        if let Err(error) = &watcher {
            tracing::warn!(%error, folder = %folder.display(), "cannot be watched; it is looked at once a tick");
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

    /// Watches the folder, or the nearest one above it that is there, and what lies behind the links among `files`.
    pub fn follow<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut wanted = BTreeSet::new();
        links(&self.folder, &mut wanted);
        files.for_each(|path| links(path, &mut wanted));
        wanted.extend(self.folder.ancestors().find(|folder| folder.is_dir()).map(Path::to_owned));
        for gone in self.watched.keys().filter(|folder| !wanted.contains(*folder)) {
            // Gone with its folder, as a rule.
            _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeMap::new();
        for folder in wanted {
            // Each time: a folder that was removed and made again has lost its watch.
            match watcher.watch(&folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    let which =
                        folder.metadata().ok().map(|meta| (meta.dev(), meta.ino(), meta.created().ok()));
                    watched.insert(folder, which);
                }
                Err(error) => {
                    tracing::debug!(%error, folder = %folder.display(), "not watched; it is looked at once a tick");
                }
            }
        }
        if watched.iter().any(|(folder, which)| self.watched.get(folder) != Some(which)) {
            // What changed in it since it was scanned was seen by nobody.
            self.hint.notify_one();
        }
        self.watched = watched;
    }
}

/// The folders of everything that `path` is a link to, step by step.
#[cfg(feature = "watch")]
fn links(path: &Path, folders: &mut BTreeSet<PathBuf>) {
    let mut path = path.to_owned();
    // As many steps as the system itself takes.
    for _ in 0..40 {
        // A folder on the way may be a link too: where it leads is where files change.
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
