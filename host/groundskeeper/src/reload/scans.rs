//! The part of the reloader that is on the thread for scans: the reloader itself, its watcher, and its way to the ticker.

use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc};

use super::exchange::CycleChange;
use super::reloader::PhaseReloader;
use super::report::{ReloadCounts, ReloadReport};
use super::watch::Watcher;
use super::{ScanKind, StartFrom};
use crate::data::DataError;
use crate::disk::DiskCalls;
use crate::registry::LastRuns;

/// A change between two ticks, and where the scan waits for its end: false if there are no more ticks.
pub(crate) type AskedChange = (CycleChange, Sender<bool>);

/// What one scan leaves behind.
pub(crate) struct ScanResult {
    pub report: ReloadReport,
    pub counts: ReloadCounts,
    /// When the next scan is due without a hint, as monotonic time.
    pub next: Option<Duration>,
    /// The folder was listed, and not only probations noted.
    pub is_list: bool,
    /// Changes in every folder that matters give a hint.
    pub is_watched: bool,
    pub took: Duration,
}

/// See the module.
pub(crate) struct Scans {
    pub reloader: PhaseReloader,
    watcher: Option<Watcher>,
    asked: mpsc::UnboundedSender<AskedChange>,
    calls: Arc<DiskCalls>,
}

impl Scans {
    pub fn new(
        reloader: PhaseReloader,
        asked: mpsc::UnboundedSender<AskedChange>,
        calls: Arc<DiskCalls>,
    ) -> Self {
        Self { reloader, watcher: None, asked, calls }
    }

    /// Loads the phases that a node starts with.
    pub fn begin(&mut self, from: StartFrom, last_runs: &LastRuns) -> Result<(), DataError> {
        let asked = self.asked.clone();
        self.reloader.begin(&mut |change| ask(&asked, change), from, last_runs)
    }

    /// Watches the folder from now on.
    pub fn watch(&mut self, hint: Arc<Notify>) {
        let Self { reloader, calls, watcher, .. } = self;
        let folder = reloader.scanner.dir();
        *watcher = Some(calls.during("watch", folder, || Watcher::start(folder, hint)));
    }

    pub fn judge(&mut self) -> ScanResult {
        let begun = Instant::now();
        let asked = self.asked.clone();
        let report = self.reloader.judge_only(&mut |change| ask(&asked, change));
        self.result(report, false, begun)
    }

    pub fn scan(&mut self, kind: ScanKind) -> ScanResult {
        let begun = Instant::now();
        let asked = self.asked.clone();
        let report = self.reloader.scan(&mut |change| ask(&asked, change), kind);
        let Self { reloader, calls, watcher, .. } = self;
        if let Some(watcher) = watcher {
            let scanner = &reloader.scanner;
            calls.during("watch", scanner.dir(), || watcher.follow(scanner.files(), scanner.modules()));
        }
        self.result(report, true, begun)
    }

    fn result(&self, report: ReloadReport, is_list: bool, begun: Instant) -> ScanResult {
        let is_watched = self.watcher.as_ref().is_some_and(Watcher::is_complete) && report.trouble.is_none();
        ScanResult {
            report,
            counts: self.reloader.counts(),
            next: self.reloader.next(),
            is_list,
            is_watched,
            took: begun.elapsed(),
        }
    }
}

/// Has `change` made between two ticks, and waits for it. False if there are no more ticks.
fn ask(asked: &mpsc::UnboundedSender<AskedChange>, change: CycleChange) -> bool {
    let (reply_tx, reply_rx) = channel();
    asked.send((change, reply_tx)).is_ok() && reply_rx.recv().unwrap_or(false)
}
