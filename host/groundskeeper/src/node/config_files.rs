//! Watches the files of the config, and has it read again when they have changed and are at rest.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

use super::empty_config::EmptyConfig;
use super::reconfigure::Reconfigurer;
use crate::cycle::BeatReport;
use crate::data::{DiskFileSystem, FileStamp, FileSystem as _};
use crate::journal::Initiator;
use crate::reload::{ConfigReport, FileTracker, Watcher};

/// After a scan, how long hints wait for the next one.
const PAUSE: Duration = Duration::from_millis(50);

/// The files of the config.
pub(super) struct ConfigFiles {
    /// `None`: the defaults.
    pub config: Option<PathBuf>,
    /// The drop-in folder: manifests of built-in phases are part of the config.
    pub dir: Option<PathBuf>,
}

impl ConfigFiles {
    fn list(&self) -> Vec<(PathBuf, FileStamp)> {
        let config =
            self.config.iter().filter_map(|path| Some((path.clone(), DiskFileSystem.stamp(path).ok()?)));
        let manifests = self.dir.iter().flat_map(|dir| DiskFileSystem.list(dir).unwrap_or_default());
        config
            .chain(manifests.filter(|(path, _)| path.extension().is_some_and(|end| end == "toml")))
            .collect()
    }
}

/// Follows the files until the ticker of `beats` ends: reads them on a hint and at each tick.
pub(super) async fn follow(
    files: ConfigFiles,
    reconfigurer: Arc<Reconfigurer>,
    mut beats: Receiver<Arc<BeatReport>>,
) {
    let folder = |path: &PathBuf| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    // The drop-in folder has its own watcher. This one is for the config file.
    let mut watcher = files.config.as_ref().map(|config| Watcher::start(&folder(config)));
    let hint = watcher.as_ref().map(Watcher::hint).unwrap_or_default();
    let begun = Instant::now();
    let mut tracker = FileTracker::default();
    tracker.update(files.list(), Duration::ZERO);
    tracker.dirty_at_rest(Duration::MAX).iter().for_each(|path| tracker.settle(path));
    let (mut last_report, mut empty) = (ConfigReport::default(), EmptyConfig::default());
    loop {
        let now = begun.elapsed();
        tracker.update(files.list(), now);
        let mut rested = tracker.dirty_at_rest(now);
        let held = empty.hold_back(files.config.as_deref(), &mut rested, now);
        if !rested.is_empty() {
            rested.iter().for_each(|path| tracker.settle(path));
            let report = reconfigurer.reconfigure(Initiator::Host, "its files have changed").await;
            if report != last_report {
                report.log();
                last_report = report;
            }
        }
        if let (Some(watcher), Some(config)) = (&mut watcher, &files.config) {
            watcher.follow(std::iter::once(config));
        }
        let wait = held.or(tracker.next().map(|at| at.saturating_sub(begun.elapsed()).max(PAUSE)));
        tokio::select! {
            () = hint.notified() => tokio::time::sleep(PAUSE).await,
            () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            beat = beats.recv() => if let Err(RecvError::Closed) = beat { return },
        }
    }
}
