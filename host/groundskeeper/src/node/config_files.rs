//! Watches the files of the config, and has it read again when they have changed and are at rest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use super::empty_config::EmptyConfig;
use super::reconfigure::{ConfigReader, Reconfigurer};
use crate::cycle::BeatReport;
use crate::data::{DiskFileSystem, FileStamp, FileSystem};
use crate::disk::{DiskCalls, NoAnswer, WatchedFileSystem};
use crate::journal::Initiator;
use crate::reload::{ConfigReport, FileTracker, Watcher, good_for};

/// After a look, how long hints wait for the next one, and how many times as long as it took.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_PER_LOOK: u32 = 9;

/// The files of the config.
pub(super) struct ConfigFiles {
    /// `None`: the defaults.
    pub config: Option<PathBuf>,
    /// The drop-in folder: manifests of built-in phases are part of the config.
    pub dir: Option<PathBuf>,
}

/// The files of the config as they were last looked at, on the thread that reads them.
pub(super) struct FollowedFiles {
    files: ConfigFiles,
    disk: Arc<WatchedFileSystem>,
    calls: Arc<DiskCalls>,
    watchers: Vec<Watcher>,
    tracker: FileTracker,
    empty: EmptyConfig,
    begun: Instant,
}

/// What a look at the files found.
#[derive(Default)]
struct Look {
    /// Files that have changed and are at rest.
    rested: Vec<PathBuf>,
    /// Whether the config is to be read now.
    is_due: bool,
    /// When the next file is at rest, from now on.
    wait: Option<Duration>,
    is_watched: bool,
    took: Duration,
}

impl FollowedFiles {
    fn start(files: ConfigFiles, calls: &Arc<DiskCalls>, hint: &Arc<Notify>) -> Self {
        let disk = WatchedFileSystem::new(Arc::new(DiskFileSystem), Arc::clone(calls));
        let folder = |path: &Path| match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let folders = files.config.as_deref().map(folder).into_iter().chain(files.dir.clone());
        let watchers = folders
            .map(|folder| calls.during("watch", &folder, || Watcher::start(&folder, Arc::clone(hint))))
            .collect();
        let (calls, tracker) = (Arc::clone(calls), FileTracker::default());
        let empty = EmptyConfig::default();
        let mut followed = Self { files, disk, calls, watchers, tracker, empty, begun: Instant::now() };
        followed.tracker.update(followed.list(), Duration::ZERO);
        followed.tracker.settle_all();
        followed
    }

    fn list(&self) -> Vec<(PathBuf, FileStamp)> {
        let Self { files: ConfigFiles { config, dir }, disk, .. } = self;
        let config = config.iter().filter_map(|path| Some((path.clone(), disk.stamp(path).ok()?)));
        let manifests = dir.iter().flat_map(|dir| disk.list(dir).unwrap_or_default());
        config
            .chain(manifests.filter(|(path, _)| path.extension().is_some_and(|end| end == "toml")))
            .collect()
    }

    /// `is_unread`: the config is wanted even if no file has changed.
    fn look(&mut self, is_unread: bool) -> Look {
        let begun = Instant::now();
        let now = self.begun.elapsed();
        self.tracker.update(self.list(), now);
        let rested = self.tracker.dirty_at_rest(now);
        let config = self.files.config.as_deref();
        let place = config.or(self.files.dir.as_deref()).unwrap_or(Path::new("."));
        let empty = &mut self.empty;
        let is_change = !rested.is_empty();
        let is_wanted = is_unread || is_change;
        let hold_back = || if is_wanted { empty.hold_back(config, is_change, now) } else { None };
        let held = self.calls.during("read", place, hold_back);
        for watcher in &mut self.watchers {
            let files: Vec<PathBuf> = self.files.config.iter().cloned().collect();
            self.calls.during("watch", place, || watcher.follow(files.iter(), files.iter().cloned()));
        }
        Look {
            rested,
            is_due: is_wanted && held.is_none(),
            wait: held.or(self.tracker.next().map(|at| at.saturating_sub(now).max(PAUSE))),
            is_watched: self.watchers.iter().all(Watcher::is_complete),
            took: begun.elapsed(),
        }
    }
}

/// Follows the files until the ticker of `beats` ends: reads them on a hint, and at ticks. Looks and reads on the thread of
/// `reconfigurer`.
pub(super) async fn follow(
    files: ConfigFiles,
    reconfigurer: Arc<Reconfigurer>,
    mut beats: Receiver<Arc<BeatReport>>,
) {
    let hint = Arc::new(Notify::new());
    let hint_tx = Arc::clone(&hint);
    drop(reconfigurer.reader.give(move |reader| {
        reader.followed = Some(FollowedFiles::start(files, &reader.calls, &hint_tx));
    }));
    let mut last_report = ConfigReport::default();
    // The files may have changed since the start read them, or did not answer then.
    let mut is_unread = true;
    let mut last_look = Instant::now();
    loop {
        let look = move |reader: &mut ConfigReader| {
            reader.followed.as_mut().map(|followed| followed.look(is_unread))
        };
        let look = reconfigurer.on_disk(look).await;
        let look = match look {
            Ok(Some(look)) => look,
            // Looked at again at the next beat.
            Ok(None) | Err(NoAnswer::Busy(_)) => Look::default(),
            Err(NoAnswer::Ended) => return,
        };
        last_look = if look.is_watched { Instant::now() } else { last_look };
        if look.is_due {
            let read = reconfigurer.try_reconfigure(Initiator::Host, "its files have changed").await;
            is_unread = read.is_err();
            if let Ok(report) = read {
                let rested = look.rested;
                drop(reconfigurer.reader.give(move |reader| {
                    let followed = reader.followed.iter_mut();
                    followed
                        .for_each(|followed| rested.iter().for_each(|path| followed.tracker.settle(path)));
                }));
                if report != last_report {
                    report.log();
                    last_report = report;
                }
            }
            if !is_unread {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        tokio::time::sleep(PAUSE.max(look.took * PAUSE_PER_LOOK)).await;
        loop {
            tokio::select! {
                () = hint.notified() => break,
                () = tokio::time::sleep(look.wait.unwrap_or_default()), if look.wait.is_some() => break,
                beat = beats.recv() => match beat {
                    Err(RecvError::Closed) => return,
                    _ if look.is_watched && last_look.elapsed() < good_for(look.took) => {}
                    _ => break,
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskUser;

    #[test]
    fn an_empty_config_that_was_not_read_since_the_start_is_held_back_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, "").unwrap();
        let files = ConfigFiles { config: Some(path.clone()), dir: None };
        let mut followed =
            FollowedFiles::start(files, &DiskCalls::new(DiskUser::Config), &Arc::new(Notify::new()));
        let look = followed.look(true);
        assert!(look.rested.is_empty() && !look.is_due && look.wait.is_some());
        std::fs::write(&path, "[node]\n").unwrap();
        assert!(followed.look(true).is_due);
        assert!(!followed.look(false).is_due, "nothing is at rest yet");
    }
}
