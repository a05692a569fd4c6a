//! The protocol: from files that have come to rest to a phase that runs, and back if it does badly. Does what [`decide`]
//! says.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::PhaseFactory;
use super::decide::{self, OnRead};
use super::exchange::{self, Batch, BatchResult, BetweenTicks, Put, SeenVerdict};
use super::loading::GenerationLoader;
use super::log::ReloadLog;
use super::report::{Change, ReloadCounts, ReloadEvent, ReloadReport};
use super::restore::Restore;
use super::scanner::{FolderScan, FolderScanner, Found};
use super::slot::Refusal;
use super::slots::PhaseSlots;
use super::start::{Start, StartFrom, Started};
use super::store::GenerationStore;
use crate::clock::{Clock, unix_seconds};
use crate::config::Require;
use crate::cycle::TrialContext;
use crate::data::{DataError, DataFolder, Generation, Head};
use crate::engine::Fence;
use crate::registry::{Digest, Judged, KeptPhase, LastRuns, RejectedPhase, Verdict};

/// How a reloader works.
#[derive(Clone, Debug)]
pub struct ReloadOptions {
    /// The drop-in folder.
    pub dir: PathBuf,
    /// Native phases are replaced while the node runs: for their authors.
    pub reload_native: bool,
    pub require: Require,
    /// What signatures are checked against.
    pub public_key: Option<String>,
}

impl ReloadOptions {
    /// Nothing is required of what lies in `dir`.
    pub fn trusting(dir: PathBuf) -> Self {
        Self { dir, reload_native: false, require: Require::Nothing, public_key: None }
    }
}

/// Why a scan is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScanKind {
    /// Something may have changed, or some time has passed: only what has come to rest is read.
    Hint,
    /// From time to time everything is read, in case a change had no trace.
    Thorough,
    /// The operator says so: everything is read as it is now, and what was refused is tried again.
    Ordered,
}

/// Keeps the phases that were dropped in.
pub struct PhaseReloader {
    scanner: FolderScanner,
    loader: GenerationLoader,
    store: GenerationStore,
    slots: PhaseSlots,
    log: ReloadLog,
    clock: Arc<dyn Clock>,
    /// Why the folder could not be listed at the last scan.
    trouble: Option<String>,
    /// What the node shows as rejected, if that is known.
    shown: Option<Vec<RejectedPhase>>,
}

/// What a scan comes to.
#[derive(Default)]
struct Changes {
    puts: Vec<Put>,
    /// Of those that are new generations, by name.
    written: BTreeMap<String, Written>,
    /// Phases that run and are taken out.
    removals: Vec<String>,
    /// Phases that are put in are events.
    notes_applied: bool,
}

/// A generation that was loaded, tried and written down.
struct Written {
    file: PathBuf,
    digest: Digest,
    /// Of the generation before, when this one was tried.
    kept: KeptPhase,
    head: Head,
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
            store: GenerationStore(folder),
            slots: PhaseSlots::default(),
            log: ReloadLog::new(Arc::clone(&clock)),
            clock,
            trouble: None,
            shown: None,
        }
    }

    /// Everything that happens to phases from now on.
    pub fn events(&self) -> broadcast::Sender<ReloadEvent> {
        self.log.sender()
    }

    pub fn counts(&self) -> ReloadCounts {
        self.log.counts
    }

    /// Every file that was there at the last scan.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.scanner.files()
    }

    /// When to scan again without a hint, as monotonic time: something is not at rest, or is tried again.
    pub fn next(&self) -> Option<Duration> {
        self.scanner.next(&self.slots)
    }

    /// Gives bytes of the phase `name` that have failed another chance.
    pub fn forgive(&mut self, name: &str) {
        if let Some(slot) = self.slots.get_mut(name) {
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
            store: &self.store,
            slots: &mut self.slots,
            from,
            now: self.clock.mono(),
        };
        let Started { mut puts, refused } = start.run(context.as_ref())?;
        for unusable in refused {
            self.refuse(unusable.refusal, unusable.rejected);
        }
        puts.iter_mut().for_each(|put| put.last_runs.clone_from(last_runs));
        self.hand_over(Changes { puts, ..Changes::default() }, ScanKind::Hint, ticks);
        self.store.save_heads(&mut self.slots);
        self.store.prune(&self.slots);
        // A start is no change: only the log has it.
        self.log.take_events();
        Ok(())
    }

    /// Takes note of probations that have ended, and scans nothing.
    pub fn judge_only(&mut self, ticks: BetweenTicks<'_>) -> ReloadReport {
        if let Some(observed) = exchange::observe(ticks, false) {
            self.judge(observed.verdicts);
            self.store.save_heads(&mut self.slots);
            self.hand_over(Changes::default(), ScanKind::Hint, ticks);
        }
        ReloadReport { events: self.log.take_events(), ..ReloadReport::default() }
    }

    /// Scans the folder and does what follows from it.
    pub fn scan(&mut self, ticks: BetweenTicks<'_>, kind: ScanKind) -> ReloadReport {
        self.log.counts.looks += 1;
        let now = self.clock.mono();
        let scanned = self.scanner.scan(&self.slots, kind, now);
        let wants_context = matches!(&scanned, Ok(Some(scan)) if scan.read.iter().any(Result::is_ok));
        if let Some(observed) = exchange::observe(ticks, wants_context) {
            self.judge(observed.verdicts);
            self.store.save_heads(&mut self.slots);
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
        let events = self.log.take_events();
        let is_whole = self.trouble.is_none() && self.slots.rejected().next().is_none();
        self.log.scanned(is_whole, &events);
        let running = self.slots.count_running() as u32;
        ReloadReport { events, running, trouble: self.trouble.clone(), config: None }
    }

    /// A folder that cannot be read takes nothing away: whatever is wrong with it, the phases are not.
    fn cannot_scan(&mut self, error: &io::Error) {
        let is_nothing = error.kind() == io::ErrorKind::NotFound && self.slots.count_running() == 0;
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
            self.slots.entry(&name).postpone();
        }
        for read in scan.read {
            match (read, context) {
                (Ok(found), Some(context)) => self.consider(found, context, kind, now, changes),
                (Ok(_), None) => unreachable!("the context is asked for if anything was read"),
                (Err(unusable), _) => self.refuse(unusable.refusal, unusable.rejected),
            }
        }
        for name in self.slots.gone(&scan.files, kind, now) {
            if self.slots.running(&name).is_some() {
                changes.removals.push(name);
            } else {
                self.forget(&name);
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
        let slot = self.slots.entry(&found.name);
        slot.found();
        let rejected = found.rejected();
        match decide::on_read(slot, &found.digest, kind, now) {
            OnRead::Runs => slot.runs_from(&found.file),
            OnRead::StillRefused => {}
            OnRead::KnownBad(why) => self.refuse(Refusal::known_bad(&why), rejected),
            OnRead::Stage => {
                if let Err(refusal) = self.stage(found, context, changes) {
                    self.refuse(refusal, rejected);
                }
            }
        }
    }

    /// Loads a generation, tries it, and writes it down as the one that runs: a crash after it is put in finds it there.
    fn stage(&mut self, found: Found, context: &TrialContext, changes: &mut Changes) -> Result<(), Refusal> {
        let if_refused = found.rejected();
        let Found { name, file, text, manifest, module, bytes, digest } = found;
        let replaces = self.slots.running(&name).is_some();
        let spec = self.loader.load(&manifest, &text, &module, &bytes, replaces)?;
        let kept = match context.kept(&name) {
            Some(kept) => kept.clone(),
            None => self.store.load_kept(&name)?,
        };
        let slot = self.slots.entry(&name);
        // One that is taken back gets its own memory back, whatever the newer one has made of it.
        let taken_back = slot.head().lineage.taken_back(&digest);
        self.loader.try_out(context, &spec, taken_back.map_or(&kept, |former| &former.kept))?;
        let head = slot.head_with(&file, digest, &kept);
        let generation = Generation { manifest: text, module: bytes };
        if let Err(refusal) = self.store.save_with_head(&name, &head, &generation) {
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
        for name in self.slots.names(is_idle) {
            let slot = self.slots.entry(&name);
            slot.restoring();
            let mut restore = Restore { store: &self.store, loader: &mut self.loader };
            changes.puts.extend(restore.last_good(&name, slot));
        }
    }

    /// Hands the changes to the cycle, and takes note of what became of them. Nothing is handed over if nothing changes.
    fn hand_over(&mut self, changes: Changes, kind: ScanKind, ticks: BetweenTicks<'_>) {
        let Changes { mut puts, written, removals, notes_applied } = changes;
        let is_open = |rejected: &&RejectedPhase| !written.contains_key(&rejected.name);
        let rejected: Vec<RejectedPhase> = self.slots.rejected().filter(is_open).cloned().collect();
        if !puts.is_empty() || !removals.is_empty() || self.shown.as_ref() != Some(&rejected) {
            let now = unix_seconds(&*self.clock);
            puts.iter_mut().for_each(|put| put.if_refused.since_unix_s = Some(now));
            let offered: Vec<RejectedPhase> = puts.iter().map(|put| put.if_refused.clone()).collect();
            let batch = Batch { puts, removals: removals.clone(), rejected: rejected.clone() };
            if let Some(result) = batch.hand_over(ticks) {
                self.shown = Some(rejected).filter(|_| result.refused.is_empty());
                self.settle(offered, written, &removals, result, kind, notes_applied);
            }
        }
        self.log.counts.digests = self.scanner.digests();
        self.log.counts.libraries = self.loader.libraries().into();
        self.log.counts.generations = self.slots.count_generations() as u64;
    }

    /// Takes note of what became of a batch, in the order in which the cycle did it.
    fn settle(
        &mut self,
        offered: Vec<RejectedPhase>,
        mut written: BTreeMap<String, Written>,
        removals: &[String],
        result: BatchResult,
        kind: ScanKind,
        notes_applied: bool,
    ) {
        let BatchResult { verdicts, refused, removed } = result;
        self.judge(verdicts);
        for rejected in offered {
            let written = written.remove(&rejected.name);
            if let Some(why) = refused.get(&rejected.name) {
                if let Some(written) = written {
                    self.give_up(&rejected.name, &written, kind);
                }
                self.refuse(Refusal::Bad(why.clone()), rejected);
                continue;
            }
            match written {
                Some(written) => self.replaced(&rejected.name, &written),
                None => self.slots.entry(&rejected.name).started(),
            }
            if notes_applied {
                self.log.note(&rejected.name, Change::Applied, rejected.digest, None);
            }
        }
        for name in removals {
            let running = self.slots.running(name);
            if let Some(kept) = removed.get(name) {
                self.store.save_kept(name, kept);
            }
            self.forget(name);
            self.log.note(name, Change::Removed, running, None);
        }
    }

    /// A new generation was put in.
    fn replaced(&mut self, name: &str, written: &Written) {
        let slot = self.slots.entry(name);
        let before: Vec<Digest> =
            slot.head().lineage.digests().chain(written.head.lineage.digests()).collect();
        // Anew: a probation may have ended after it was written, and the lineage in memory went the same way.
        let head = slot.head_with(&written.file, written.digest, &written.kept);
        slot.replaced(head.clone(), &written.head);
        if slot.is_unsaved() {
            self.store.save_heads(&mut self.slots);
        }
        self.store.remove_generations(before.into_iter().filter(|digest| !head.lineage.names(digest)));
    }

    /// A new generation could not be put in: the disk goes back to the one before.
    fn give_up(&mut self, name: &str, written: &Written, kind: ScanKind) {
        let slot = self.slots.entry(name);
        slot.must_save();
        if kind == ScanKind::Ordered && decide::restores(slot, kind) {
            slot.restore_later();
        }
        let is_unused = !slot.head().lineage.names(&written.digest);
        self.store.save_heads(&mut self.slots);
        self.store.remove_generations(Some(written.digest).filter(|_| is_unused).into_iter());
    }

    fn forget(&mut self, name: &str) {
        if let Some(slot) = self.slots.remove(name) {
            self.store.forget(name, slot.head());
        }
    }

    /// Takes note of probations that have ended.
    fn judge(&mut self, verdicts: Vec<SeenVerdict>) {
        for (Verdict { phase, digest, outcome }, now_kept) in verdicts {
            let Some(slot) = self.slots.get_mut(&phase) else { continue };
            match outcome {
                Judged::Good => {
                    slot.proven();
                    self.store.save_heads(&mut self.slots);
                    self.log.note(&phase, Change::Proven, Some(digest), None);
                }
                Judged::Returned { why, to, kept } => {
                    // First what it remembers: a crash in between tries the newer one again, on what it began with.
                    self.store.save_kept(&phase, &now_kept.unwrap_or(kept));
                    slot.failed(why.clone());
                    debug_assert_eq!(slot.head().lineage.current(), to, "memory and disk go the same way");
                    let rejected = RejectedPhase {
                        name: phase.to_string(),
                        file: Some(slot.file()),
                        digest: Some(digest),
                        since_unix_s: Some(unix_seconds(&*self.clock)),
                        ..RejectedPhase::default()
                    };
                    let why = format!("it failed on probation, and the generation before runs again: {why}");
                    slot.refuse(Refusal::Bad(why.clone()), rejected, self.clock.mono());
                    self.store.save_heads(&mut self.slots);
                    self.store.remove_generations([digest].into_iter());
                    self.log.note(&phase, Change::Returned, Some(digest), Some(why));
                }
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, mut rejected: RejectedPhase) {
        rejected.since_unix_s = Some(unix_seconds(&*self.clock));
        let (name, digest) = (rejected.name.clone(), rejected.digest);
        let slot = self.slots.entry(&name);
        let is_news = slot.refuse(refusal, rejected, self.clock.mono());
        let Some(rejected) = slot.rejected() else { return };
        let change = if rejected.is_pending { Change::Pending } else { Change::Rejected };
        let why = Some(rejected.problem.clone());
        if is_news {
            self.log.note(&name, change, digest, why);
        } else {
            self.log.repeat(&name, change, digest, why);
        }
    }
}
