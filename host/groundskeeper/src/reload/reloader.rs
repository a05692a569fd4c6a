//! The protocol: from files that have come to rest to a phase that runs, and back if it does badly. Does what [`decide`]
//! says.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::PhaseFactory;
use super::decide::{self, OnRead};
use super::exchange::{self, Batch, BetweenTicks, Put};
use super::loading::GenerationLoader;
use super::options::{ReloadOptions, ScanKind};
use super::records::{Changes, PhaseRecords, Written};
use super::report::{ReloadCounts, ReloadEvent, ReloadReport};
use super::restore::Restore;
use super::scanner::{FolderScan, FolderScanner, Found};
use super::slot::Refusal;
use super::start::{Start, StartFrom, Started};
use crate::clock::{Clock, unix_seconds};
use crate::cycle::TrialContext;
use crate::data::{DataError, DataFolder, Generation};
use crate::engine::Fence;
use crate::registry::{LastRuns, RejectedPhase};

/// Keeps the phases that were dropped in.
pub struct PhaseReloader {
    scanner: FolderScanner,
    loader: GenerationLoader,
    records: PhaseRecords,
    clock: Arc<dyn Clock>,
    /// Why the folder could not be listed at the last scan.
    trouble: Option<String>,
    /// What the node shows as rejected, if that is known.
    shown: Option<Vec<RejectedPhase>>,
}

impl PhaseReloader {
    /// A reloader without phases: see [`PhaseReloader::begin`].
    pub fn new(
        options: ReloadOptions,
        folder: Arc<DataFolder>,
        factory: Box<dyn PhaseFactory>,
        fence: Fence,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            loader: GenerationLoader::new(factory, fence, options.reload_native),
            scanner: FolderScanner::new(options, Arc::clone(&folder)),
            records: PhaseRecords::new(folder, Arc::clone(&clock)),
            clock,
            trouble: None,
            shown: None,
        }
    }

    /// Everything that happens to phases from now on.
    pub fn events(&self) -> broadcast::Sender<ReloadEvent> {
        self.records.log.sender()
    }

    pub fn counts(&self) -> ReloadCounts {
        self.records.log.counts
    }

    /// Every file that was there at the last scan.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.scanner.files()
    }

    /// When to scan again without a hint, as monotonic time: something is not at rest, or is tried again.
    pub fn next(&self) -> Option<Duration> {
        self.scanner.next(&self.records.slots)
    }

    /// Gives bytes of the phase `name` that have failed another chance.
    pub fn forgive(&mut self, name: &str) {
        if let Some(slot) = self.records.slots.by_name.get_mut(name) {
            slot.forgive();
        }
    }

    /// Loads what the node begins with: of each phase what lies in the folder, else the last generation that was good.
    /// `last_runs` continues the cadence of an earlier process.
    ///
    /// # Errors
    /// If the data folder cannot be read.
    pub fn begin(
        &mut self,
        ticks: BetweenTicks<'_>,
        from: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<(), DataError> {
        let context = exchange::observe(ticks, true).and_then(|observed| observed.context);
        let start = Start {
            scanner: &mut self.scanner,
            loader: &mut self.loader,
            store: &self.records.store,
            slots: &mut self.records.slots,
            from,
            now: self.clock.mono(),
        };
        let Started { mut puts, refused } = start.run(context.as_ref())?;
        for unusable in refused {
            self.records.refuse(unusable.refusal, *unusable.rejected);
        }
        puts.iter_mut().for_each(|put| put.last_runs.clone_from(last_runs));
        self.hand_over(Changes { puts, ..Changes::default() }, ScanKind::Hint, ticks);
        self.records.store.save_heads(&mut self.records.slots);
        self.records.store.prune(&self.records.slots);
        // A start is no change: only the log has it.
        self.records.log.take_events();
        Ok(())
    }

    /// Takes note of probations that have ended, and scans nothing.
    pub fn judge_only(&mut self, ticks: BetweenTicks<'_>) -> ReloadReport {
        if let Some(observed) = exchange::observe(ticks, false) {
            self.records.judge(observed.verdicts);
            self.records.store.save_heads(&mut self.records.slots);
            self.hand_over(Changes::default(), ScanKind::Hint, ticks);
        }
        ReloadReport { events: self.records.log.take_events(), ..ReloadReport::default() }
    }

    /// Scans the folder and does what follows from it.
    pub fn scan(&mut self, ticks: BetweenTicks<'_>, kind: ScanKind) -> ReloadReport {
        self.records.log.counts.looks += 1;
        let now = self.clock.mono();
        let scanned = self.scanner.scan(&self.records.slots, kind, now);
        let wants_context = matches!(&scanned, Ok(Some(scan)) if scan.read.iter().any(Result::is_ok));
        if let Some(observed) = exchange::observe(ticks, wants_context) {
            self.records.judge(observed.verdicts);
            self.records.store.save_heads(&mut self.records.slots);
            let mut changes = Changes { notes_applied: true, ..Changes::default() };
            match scanned {
                Ok(scan) => {
                    self.trouble = None;
                    if let Some(scan) = scan {
                        self.take_in(scan, observed.context.as_ref(), kind, now, &mut changes);
                    }
                }
                Err(error) => self.cannot_scan(&error),
            }
            self.restore(kind, &mut changes);
            self.hand_over(changes, kind, ticks);
        }
        self.report()
    }

    fn report(&mut self) -> ReloadReport {
        let events = self.records.log.take_events();
        let is_whole = self.trouble.is_none() && self.records.slots.rejected().next().is_none();
        self.records.log.scanned(is_whole, &events);
        let running = self.records.slots.count_running() as u32;
        ReloadReport { events, running, trouble: self.trouble.clone(), config: None }
    }

    /// A folder that cannot be read takes nothing away: whatever is wrong with it, the phases are not.
    fn cannot_scan(&mut self, error: &io::Error) {
        let is_nothing = error.kind() == io::ErrorKind::NotFound && self.records.slots.count_running() == 0;
        let dir = self.scanner.dir().display();
        let trouble = (!is_nothing).then(|| format!("{dir}: {error}; what was loaded from it runs on"));
        if let Some(trouble) = trouble.as_ref().filter(|trouble| self.trouble.as_ref() != Some(*trouble)) {
            tracing::warn!("{trouble}");
        }
        self.trouble = trouble;
    }

    /// Decides about everything that the scan found.
    fn take_in(
        &mut self,
        scan: FolderScan,
        context: Option<&TrialContext>,
        kind: ScanKind,
        now: Duration,
        changes: &mut Changes,
    ) {
        for name in scan.postponed {
            self.records.slots.entry(&name).postpone();
        }
        for read in scan.read {
            match (read, context) {
                (Ok(found), Some(context)) => self.consider(found, context, kind, now, changes),
                (Ok(_), None) => unreachable!("the context is asked for if anything was read"),
                (Err(unusable), _) => self.records.refuse(unusable.refusal, *unusable.rejected),
            }
        }
        for name in self.records.slots.gone(&scan.files, kind, now) {
            if self.records.slots.running(&name).is_some() {
                changes.removals.push(name);
            } else {
                self.records.forget(&name);
            }
        }
    }

    fn consider(
        &mut self,
        found: Found,
        context: &TrialContext,
        kind: ScanKind,
        now: Duration,
        changes: &mut Changes,
    ) {
        let slot = self.records.slots.entry(&found.name);
        slot.found();
        let rejected = found.rejected();
        match decide::on_read(slot, &found.digest, kind, now) {
            OnRead::Runs => slot.runs_from(&found.file),
            OnRead::StillRefused => {}
            OnRead::KnownBad(why) => self.records.refuse(Refusal::known_bad(&why), rejected),
            OnRead::Stage => {
                if let Err(refusal) = self.stage(found, context, changes) {
                    self.records.refuse(refusal, rejected);
                }
            }
        }
    }

    /// Loads a generation, tries it, and writes it down as the one that runs: a crash after it is put in finds it there.
    fn stage(&mut self, found: Found, context: &TrialContext, changes: &mut Changes) -> Result<(), Refusal> {
        let if_refused = found.rejected();
        let Found { name, file, text, manifest, module, bytes, digest } = found;
        let replaces = self.records.slots.running(&name).is_some();
        let spec = self.loader.load(&manifest, &text, &module, &bytes, replaces)?;
        let kept = match context.kept(&name) {
            Some(kept) => kept.clone(),
            None => self.records.store.load_kept(&name)?,
        };
        let slot = self.records.slots.entry(&name);
        // One that is taken back gets its own memory back, whatever the newer one has made of it.
        let taken_back = slot.head().lineage.taken_back(&digest);
        self.loader.try_out(context, &spec, taken_back.map_or(&kept, |former| &former.kept))?;
        let head = slot.head_with(&file, digest, &kept);
        let generation = Generation { manifest: text, module: bytes };
        if let Err(refusal) = self.records.store.save_with_head(&name, &head, &generation) {
            // The disk may have taken the new head and failed after that.
            slot.must_save();
            return Err(refusal);
        }
        let last_runs = LastRuns::new();
        changes.puts.push(Put { spec, kept: kept.clone(), former: None, last_runs, if_refused });
        changes.written.insert(name, Written { file, digest, kept, head });
        Ok(())
    }

    /// Loads the last good generation of phases that do not run: it could not be read, or the start took nothing.
    fn restore(&mut self, kind: ScanKind, changes: &mut Changes) {
        let is_idle =
            |name: &str, slot: &_| !changes.written.contains_key(name) && decide::restores(slot, kind);
        for name in self.records.slots.names(is_idle) {
            let slot = self.records.slots.entry(&name);
            slot.restoring();
            let mut restore = Restore { store: &self.records.store, loader: &mut self.loader };
            changes.puts.extend(restore.last_good(&name, slot));
        }
    }

    /// Hands the changes to the cycle, and takes note of what became of them. Nothing is handed over if nothing changes.
    fn hand_over(&mut self, mut changes: Changes, kind: ScanKind, ticks: BetweenTicks<'_>) {
        let is_open = |rejected: &&RejectedPhase| !changes.written.contains_key(&rejected.name);
        let rejected: Vec<RejectedPhase> = self.records.slots.rejected().filter(is_open).cloned().collect();
        if !changes.is_empty() || self.shown.as_ref() != Some(&rejected) {
            let mut puts = std::mem::take(&mut changes.puts);
            let now = unix_seconds(&*self.clock);
            puts.iter_mut().for_each(|put| put.if_refused.since_unix_s = Some(now));
            let offered: Vec<RejectedPhase> = puts.iter().map(|put| put.if_refused.clone()).collect();
            let batch = Batch { puts, removals: changes.removals.clone(), rejected: rejected.clone() };
            if let Some(result) = batch.hand_over(ticks) {
                self.shown = Some(rejected).filter(|_| result.refused.is_empty());
                self.records.settle(offered, changes, result, kind);
            }
        }
        self.records.log.counts.digests = self.scanner.digests();
        self.records.log.counts.libraries = self.loader.libraries().into();
        self.records.log.counts.generations = self.records.slots.count_generations() as u64;
    }
}
