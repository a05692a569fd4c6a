//! The protocol: from files at rest to a running phase, and back after a failure. Carries out what [`decide`] decides.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::decide::{self, ReadDecision};
use super::exchange::{self, Batch, BetweenTicks, Replacement};
use super::loading::GenerationLoader;
use super::log::ReloadLog;
use super::report::{ReloadCounts, ReloadReport};
use super::scanner::{FolderScan, FolderScanner, FoundFiles};
use super::slot::PhaseSlot;
use super::slots::PhaseSlots;
use super::start::UnreadStart;
use super::{PhaseFactory, ReloadOptions, ScanKind};
use crate::clock::{Clock, unix_seconds};
use crate::cycle::TrialContext;
use crate::data::DataFolder;
use crate::disk::{DiskCalls, StateWriter, WatchedFileSystem};
use crate::engine::Executor;
use crate::loader::PhaseRefusal;
use crate::registry::{RejectedPhase, Standing};

/// Reloads the phases of the drop-in folder.
pub struct PhaseReloader {
    pub(super) scanner: FolderScanner,
    pub(super) loader: GenerationLoader,
    pub(super) slots: PhaseSlots,
    pub(super) log: ReloadLog,
    pub(super) clock: Arc<dyn Clock>,
    /// Notified when a compile has ended.
    pub(super) compiled: Arc<Notify>,
    /// Why the folder could not be listed at the last scan.
    trouble: Option<String>,
    /// What the node shows as rejected, if that is known.
    shown: Option<Vec<RejectedPhase>>,
    /// A start that could not read the records of the generations.
    pub(super) unbegun: Option<UnreadStart>,
}

impl PhaseReloader {
    /// A reloader without phases: see [`PhaseReloader::begin`].
    pub fn new(
        options: ReloadOptions,
        folder: Arc<DataFolder>,
        factory: PhaseFactory,
        fence: Executor,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            loader: GenerationLoader::new(factory, fence, options.reload_native),
            scanner: FolderScanner::new(options, Arc::clone(&folder.files)),
            slots: PhaseSlots { by_name: BTreeMap::new(), folder, writer: None },
            log: ReloadLog::new(Arc::clone(&clock)),
            clock,
            compiled: Arc::default(),
            trouble: None,
            shown: None,
            unbegun: None,
        }
    }

    /// Notes every file operation in `calls`, and has what phases keep written by `writer`.
    pub(crate) fn watched(mut self, calls: &Arc<DiskCalls>, writer: Arc<StateWriter>) -> Self {
        let folder = &self.slots.folder;
        let files = WatchedFileSystem::new(Arc::clone(&folder.files), Arc::clone(calls));
        self.slots.folder = Arc::new(folder.on(Arc::clone(&files) as _));
        self.slots.writer = Some((writer, Arc::clone(calls)));
        self.scanner.files_through(files);
        self
    }

    /// Scans when `compiled` is notified.
    pub fn hinted_by(mut self, compiled: Arc<Notify>) -> Self {
        self.compiled = compiled;
        self
    }

    /// Counts since the reloader was made, and the generations in memory now.
    pub fn counts(&self) -> ReloadCounts {
        let generations = self.slots.all_running().map(|slot| slot.head().lineage.digests().count());
        ReloadCounts {
            digests: self.scanner.digests,
            libraries: self.loader.libraries.into(),
            generations: generations.sum::<usize>() as u64,
            ..self.log.counts
        }
    }

    /// When to scan again without a hint, as monotonic time: something is not at rest, or a retry is due.
    pub fn next(&self) -> Option<Duration> {
        match &self.unbegun {
            Some(start) => Some(start.again_at),
            None => self.scanner.next(&self.slots),
        }
    }

    /// Lets failed bytes of the phase `name` run again.
    pub fn forgive(&mut self, name: &str) {
        if let Some(slot) = self.slots.by_name.get_mut(name) {
            slot.forgive();
        }
    }

    /// Notes probations that have ended. Does not scan.
    pub fn judge_only(&mut self, ticks: BetweenTicks<'_>) -> ReloadReport {
        if let Err(trouble) = self.begin_again(ticks) {
            let report = ReloadReport { trouble: Some(trouble), ..ReloadReport::default() };
            return report;
        }
        if let Some(observed) = exchange::observe(ticks, false) {
            self.judge(observed.verdicts);
            self.slots.save_heads();
            self.hand_over(Batch::default(), Some(ScanKind::Hint), ticks);
        }
        ReloadReport { events: std::mem::take(&mut self.log.events), ..ReloadReport::default() }
    }

    /// Scans the folder and applies the changes.
    pub fn scan(&mut self, ticks: BetweenTicks<'_>, kind: ScanKind) -> ReloadReport {
        if let Err(trouble) = self.begin_again(ticks) {
            let report = ReloadReport { trouble: Some(trouble), ..ReloadReport::default() };
            return report;
        }
        self.log.counts.looks += 1;
        self.loader.begin_scan();
        let now = self.clock.mono();
        let scanned = self.scanner.scan(&mut self.slots, kind, now);
        let wants_context = matches!(&scanned, Ok(Some(scan)) if !scan.due.is_empty());
        if let Some(observed) = exchange::observe(ticks, wants_context) {
            self.judge(observed.verdicts);
            self.slots.save_heads();
            let mut batch = Batch::default();
            match scanned {
                Ok(scan) => {
                    self.trouble = None;
                    if let Some(scan) = scan {
                        self.take_in(scan, observed.context.as_ref(), kind, now, &mut batch);
                    }
                }
                Err(error) => self.cannot_scan(&error),
            }
            // What could not be read before, or was not taken at the start.
            let is_put = |name: &str| batch.puts.iter().any(|put| put.spec.name == name);
            let waits = |name: &str, slot: &PhaseSlot| !is_put(name) && decide::restores(slot, kind);
            for name in self.slots.names(waits) {
                batch.puts.extend(self.last_good(&name));
            }
            // Their records are written after they are put in, as at a start.
            let are_late = batch.puts.iter().any(|put| put.written.is_none());
            self.hand_over(batch, Some(kind), ticks);
            if are_late {
                self.slots.save_heads();
                self.slots.prune_generations();
            }
        }
        let events = std::mem::take(&mut self.log.events);
        let is_whole = self.trouble.is_none() && self.slots.rejected().next().is_none();
        self.log.scanned(is_whole, &events);
        let running = self.slots.all_running().count() as u32;
        ReloadReport { events, running, trouble: self.trouble.clone(), config: None }
    }

    /// A folder that cannot be read takes no phase out: the phases themselves are not to blame.
    fn cannot_scan(&mut self, error: &io::Error) {
        let is_nothing = error.kind() == io::ErrorKind::NotFound && self.slots.all_running().next().is_none();
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
        batch: &mut Batch,
    ) {
        for due in &scan.due {
            match (self.scanner.read_due(&scan.files, due, kind, now), context) {
                (Some(Ok(found)), Some(context)) => self.consider(found, context, kind, now, batch),
                (Some(Ok(_)), None) => unreachable!("the context is asked for if anything is read"),
                (Some(Err(unusable)), _) => self.refuse(unusable.refusal, *unusable.rejected),
                (None, _) => {}
            }
        }
        for name in self.slots.gone(&scan.files, kind, now) {
            if self.slots.running(&name).is_some() {
                batch.removals.push(name);
            } else {
                self.slots.forget(&name);
            }
        }
    }

    fn consider(
        &mut self,
        found: FoundFiles,
        context: &TrialContext,
        kind: ScanKind,
        now: Duration,
        batch: &mut Batch,
    ) {
        let slot = self.slots.entry(&found.name);
        slot.found();
        let rejected = found.rejected();
        match decide::on_read(slot, &found.digest, kind, now) {
            ReadDecision::Runs => slot.runs_from(&found.file),
            ReadDecision::StillRefused => {}
            ReadDecision::KnownBad(why) => self.refuse(PhaseRefusal::known_bad(&why), rejected),
            ReadDecision::Stage => {
                let put = if slot.is_starting && slot.running().is_none() {
                    self.put_of(found, context)
                } else {
                    self.stage(found, context)
                };
                match put {
                    Ok(put) => batch.puts.push(put),
                    Err(refusal) => self.refuse(refusal, rejected),
                }
            }
        }
    }

    /// Loads a generation, tries it, and saves it as the current one. After a crash, a start then finds it on disk.
    fn stage(&mut self, found: FoundFiles, context: &TrialContext) -> Result<Replacement, PhaseRefusal> {
        let if_refused = found.rejected();
        let FoundFiles { name, file, manifest, generation, digest } = found;
        if self.loader.must_wait(&digest) {
            return Err(PhaseRefusal::Waits);
        }
        let replaces = self.slots.running(&name).is_some();
        let spec = self.loader.load(&file, &manifest, &generation, replaces)?;
        let kept = match context.kept(&name) {
            Some(kept) => kept.clone(),
            None => self.slots.load_kept(&name)?,
        };
        let slot = self.slots.entry(&name);
        // A generation that the operator brings back gets its own memory, not that of the newer one.
        let taken_back = slot.head().lineage.taken_back(&digest);
        self.loader.try_out(context, &spec, taken_back.map_or(&kept, |former| &former.kept))?;
        let head = slot.head_with(&file, digest, &kept);
        if let Err(error) = self.slots.folder.save_with_head(&name, &head, &generation) {
            // The disk may have taken the new record before the failure.
            self.slots.entry(&name).must_save();
            return Err(PhaseRefusal::Machine(format!("it cannot be kept, so it is not put in: {error}")));
        }
        // Of use only if nothing runs when it is put in.
        let standing =
            if head.lineage.is_on_probation() { Standing::Probation(None) } else { Standing::Proven };
        Ok(Replacement { spec, kept, standing, written: Some((digest, head)), if_refused })
    }

    /// Sends the changes, if there are any, to the cycle, and notes their outcome. `kind` is `None` at a start.
    pub(super) fn hand_over(&mut self, mut batch: Batch, kind: Option<ScanKind>, ticks: BetweenTicks<'_>) {
        let is_open = |rejected: &&RejectedPhase| !batch.replaces(&rejected.name);
        let rejected: Vec<RejectedPhase> = self.slots.rejected().filter(is_open).cloned().collect();
        let is_empty = batch.puts.is_empty() && batch.removals.is_empty();
        if is_empty && self.shown.as_ref() == Some(&rejected) {
            return;
        }
        batch.rejected.clone_from(&rejected);
        let now = unix_seconds(&*self.clock);
        batch.puts.iter_mut().for_each(|put| put.if_refused.since_unix_s = Some(now));
        if let Some(result) = batch.hand_over(ticks) {
            self.shown = Some(rejected).filter(|_| result.refused.is_empty());
            self.settle(result, kind);
        }
    }
}
