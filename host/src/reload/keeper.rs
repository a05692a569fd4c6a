//! The protocol: from files that have come to rest to a phase that runs, and back if it does badly.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use super::look::Looks;
use super::reading::Found;
use super::report::{Change, ReloadCounts, ReloadEvent, ReloadReport};
use super::unit::{Refusal, Unit};
use super::{Desk, Stage, ask};
use crate::clock::{Clock, unix_seconds};
use crate::config::{Declared, Manifest, ManifestFile, Require, Runtime};
use crate::cycle::Scene;
use crate::data::{DataError, DataFolder, Generation, Head, KeptPhase};
use crate::engine::Fence;
use crate::loader::Unfit;
use crate::registry::{Former, Judged, LastRuns, PhaseSpec, RejectedPhase, Verdict, short_digest};

/// What a run on trial may take, if it is not cut by its own limits.
pub(super) const TRIAL_LIMIT: Duration = Duration::from_secs(2);

/// Shared libraries are never unloaded: so many loads, and then the node has to be started anew.
const MOST_LIBRARIES: u32 = 16;

/// Events kept for a listener that lags.
const EVENTS_KEPT: usize = 256;

/// How a keeper works.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// The drop-in folder.
    pub dir: PathBuf,
    /// Native phases are replaced while the node runs: for whoever writes them.
    pub reload_native: bool,
    pub require: Require,
    /// What signatures are checked against.
    pub public_key: Option<String>,
}

impl KeeperOptions {
    /// Nothing is required of what lies in `dir`.
    pub fn trusting(dir: PathBuf) -> Self {
        Self { dir, reload_native: false, require: Require::Nothing, public_key: None }
    }
}

/// Why a look is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mood {
    /// Something may have changed, or some time has passed: only what has come to rest is read.
    Hint,
    /// From time to time everything is read, in case a change had no trace.
    Thorough,
    /// The operator says so: everything is read as it is now, and what was refused is tried again.
    Ordered,
}

/// Keeps the phases that were dropped in.
pub struct Keeper {
    pub(super) options: KeeperOptions,
    pub(super) folder: Arc<DataFolder>,
    stage: Box<dyn Stage>,
    pub(super) fence: Fence,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) looks: Looks,
    /// Manifests as they were last read: most looks are about one file, and parsing is what they would be spent on.
    pub(super) parsed: BTreeMap<PathBuf, ManifestFile>,
    /// Manifests that could not be read at the last look: that says nothing about what is in them.
    pub(super) unread: BTreeSet<PathBuf>,
    pub(super) units: BTreeMap<String, Unit>,
    libraries: u32,
    pub(super) counts: ReloadCounts,
    events: broadcast::Sender<ReloadEvent>,
    trouble: Option<String>,
}

/// A generation that was loaded, tried and written down.
struct Staged {
    name: String,
    spec: PhaseSpec,
    kept: KeptPhase,
    /// Of the phase before this generation.
    head: Head,
}

/// A phase on its way in.
pub(super) struct Put {
    pub spec: PhaseSpec,
    /// What it has kept, for a phase that does not run yet.
    pub kept: KeptPhase,
    /// The generation to go back to, for a phase that does not run yet.
    pub former: Option<Former<PhaseSpec>>,
    pub last_runs: LastRuns,
}

/// Puts phases in, all between the same two beats. None if there are no more beats.
pub(super) fn put(desk: &mut dyn Desk, puts: Vec<Put>) -> Option<Vec<Result<(), String>>> {
    ask(desk, move |cycle| {
        let mut results: Vec<Result<(), String>> = puts.iter().map(|_| Err(String::new())).collect();
        // One may wait for another that comes with it.
        loop {
            let mut progress = false;
            for (put, result) in puts.iter().zip(&mut results).filter(|(_, result)| result.is_err()) {
                *result = cycle.put(put.spec.clone(), put.kept.clone(), put.last_runs.clone());
                progress |= result.is_ok();
            }
            if !progress || results.iter().all(Result::is_ok) {
                break;
            }
        }
        for Put { spec, former, .. } in puts {
            if let Some(former) = former {
                cycle.resume_probation(&spec.name, former);
            }
        }
        results
    })
}

impl Keeper {
    /// A keeper that keeps nothing yet: see [`Keeper::begin`].
    pub fn new(
        options: KeeperOptions,
        folder: Arc<DataFolder>,
        stage: Box<dyn Stage>,
        fence: Fence,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let (events, _) = broadcast::channel(EVENTS_KEPT);
        Self {
            options,
            folder,
            stage,
            fence,
            clock,
            looks: Looks::default(),
            parsed: BTreeMap::new(),
            unread: BTreeSet::new(),
            units: BTreeMap::new(),
            libraries: 0,
            counts: ReloadCounts { last_successful: true, ..ReloadCounts::default() },
            events,
            trouble: None,
        }
    }

    /// Everything that happens to phases from now on.
    pub fn events(&self) -> broadcast::Sender<ReloadEvent> {
        self.events.clone()
    }

    pub fn counts(&self) -> ReloadCounts {
        self.counts
    }

    /// Every file that was there at the last look.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.looks.there()
    }

    /// When to look again without a hint, as monotonic time: something is not at rest, or is tried again.
    pub fn next(&self) -> Option<Duration> {
        let waiting = self.units.values().filter_map(Unit::again_at);
        let missing = self.units.values().filter_map(|unit| unit.missing_since).map(|at| at + super::QUIET);
        waiting.chain(missing).chain(self.looks.next()).min()
    }

    /// Takes note of probations that have ended, and looks at nothing.
    pub fn only_judge(&mut self, desk: &mut dyn Desk) -> ReloadReport {
        let mut report = ReloadReport::default();
        self.judge(desk, &mut report);
        self.save_unsaved();
        self.tell(desk);
        report
    }

    /// Looks at the folder and does what follows from it.
    pub fn step(&mut self, desk: &mut dyn Desk, mood: Mood) -> ReloadReport {
        let mut report = ReloadReport::default();
        self.counts.looks += 1;
        self.judge(desk, &mut report);
        self.save_unsaved();
        let now = self.clock.mono();
        match self.folder.files().list(&self.options.dir) {
            Ok(listed) => {
                self.trouble = None;
                self.looks.look(listed, now);
                let files = self.arrange(mood, now);
                let found = self.examine(&files, mood, now, &mut report);
                self.put_in(found, desk, &mut report);
                self.take_out(files.as_deref(), mood, now, desk, &mut report);
            }
            Err(error) => self.cannot_look(&error),
        }
        self.bring_back(mood, desk, &mut report);
        self.tell(desk);
        report.trouble.clone_from(&self.trouble);
        report.running = self.units.values().filter(|unit| unit.running.is_some()).count() as u32;
        // What runs is what the files say, whatever it took.
        let whole = self.trouble.is_none() && self.units.values().all(|unit| unit.candidate.is_none());
        if whole && (!report.events.is_empty() || !self.counts.last_successful) {
            self.counts.last_successful_unix_s = unix_seconds(&*self.clock);
        }
        self.counts.last_successful = whole;
        report
    }

    /// A folder that cannot be read takes nothing away: whatever is wrong with it, the phases are not.
    fn cannot_look(&mut self, error: &io::Error) {
        let runs = self.units.values().any(|unit| unit.running.is_some());
        let is_nothing = error.kind() == io::ErrorKind::NotFound && !runs;
        let dir = self.options.dir.display();
        let trouble = (!is_nothing).then(|| format!("{dir}: {error}; what was loaded from it runs on"));
        if trouble.is_some() && trouble != self.trouble {
            tracing::warn!("{}", trouble.as_deref().unwrap_or_default());
        }
        self.trouble = trouble;
    }

    /// Whether there is something to do about these files.
    pub(super) fn is_news(
        &mut self,
        found: &Found,
        mood: Mood,
        now: Duration,
        report: &mut ReloadReport,
    ) -> bool {
        let unit = self.units.entry(found.name.clone()).or_default();
        unit.missing_since = None;
        if unit.running == Some(found.digest) {
            // Whatever lay there in between is gone.
            unit.candidate = None;
            if unit.head.file != found.file {
                unit.head.file.clone_from(&found.file);
                unit.is_unsaved = true;
            }
            return false;
        }
        if let Some(why) = unit.head.lineage.known_bad(&found.digest) {
            let why = format!("these very bytes have failed: {why}");
            let told = found.told();
            self.refuse(Refusal::Bad(why), told, report);
            return false;
        }
        mood == Mood::Ordered || !unit.was_refused(found.digest, now)
    }

    pub(super) fn refuse(&mut self, refusal: Refusal, mut told: RejectedPhase, report: &mut ReloadReport) {
        told.since_unix_s = Some(unix_seconds(&*self.clock));
        let now = self.clock.mono();
        let unit = self.units.entry(told.name.clone()).or_default();
        let (name, digest) = (told.name.clone(), told.digest);
        let is_news = unit.refuse(refusal, told, now);
        let Some(candidate) = &unit.candidate else { return };
        let change = if candidate.told.is_pending { Change::Pending } else { Change::Rejected };
        let why = candidate.told.problem.clone();
        if is_news {
            self.note(&name, change, digest, Some(why), report);
        } else {
            report.events.push(self.event(&name, change, digest, Some(why)));
        }
    }

    /// Loads, tries and writes down, and puts in all that is good at once.
    fn put_in(&mut self, found: Vec<Found>, desk: &mut dyn Desk, report: &mut ReloadReport) {
        if found.is_empty() {
            return;
        }
        let Some(scene) = ask(desk, |cycle| cycle.scene()) else { return };
        let mut staged = Vec::new();
        for new in found {
            let told = new.told();
            match self.prepare(new, &scene) {
                Ok(one) => staged.push(one),
                Err(refusal) => self.refuse(refusal, told, report),
            }
        }
        let puts = staged.iter().map(|one| Put {
            spec: one.spec.clone(),
            kept: one.kept.clone(),
            former: None,
            last_runs: LastRuns::new(),
        });
        let Some(results) = put(desk, puts.collect()) else { return };
        for (one, result) in staged.into_iter().zip(results) {
            self.settle(one, result, report);
        }
    }

    /// Loads a generation, tries it, and writes it down as the one that runs.
    fn prepare(&mut self, new: Found, scene: &Scene) -> Result<Staged, Refusal> {
        let running = self.units.get(&new.name).and_then(|unit| unit.running);
        let spec = self.load(&new.manifest, &new.text, &new.module, &new.bytes, running.is_some())?;
        let kept = match scene.kept(&new.name) {
            Some(kept) => kept.clone(),
            None => self.kept(&new.name)?,
        };
        let Found { name, file, text, bytes, digest, .. } = new;
        let old = self.units.get(&name).map(|unit| unit.head.clone()).unwrap_or_default();
        let taken_back = old.lineage.taken_back(&digest);
        // One that is taken back gets its own memory back, whatever the newer one has made of it.
        let trial_on = taken_back.map_or(&kept, |former| &former.kept);
        let trial = scene.trial(&spec, trial_on, &mut self.fence, TRIAL_LIMIT);
        trial.map_err(|why| Refusal::Bad(format!("on trial: {why}")))?;
        let unit = self.units.entry(name.clone()).or_default();
        unit.head.file = file;
        if running.is_some() {
            unit.head.lineage.offered(digest, kept.clone(), ());
        } else {
            unit.head.lineage.started(Some(digest));
        }
        let generation = Generation { manifest: text, module: bytes };
        if let Err(error) = self.folder.save_with_head(&name, &unit.head, &generation) {
            unit.head = old;
            // The disk may have taken the new head and failed after that.
            unit.is_unsaved = true;
            return Err(Refusal::Machine(format!("it cannot be kept, so it is not put in: {error}")));
        }
        Ok(Staged { name, spec, kept, head: old })
    }

    /// What a phase kept that does not run.
    pub(super) fn kept(&self, name: &str) -> Result<KeptPhase, Refusal> {
        let loaded = self.folder.load_phase(name).map_err(|error| match error {
            DataError::Newer { .. } => Refusal::Bad(error.to_string()),
            _ => Refusal::Machine(error.to_string()),
        })?;
        if let Some(warning) = loaded.warning {
            tracing::warn!(phase = name, "{warning}");
        }
        Ok(loaded.value)
    }

    pub(super) fn load(
        &mut self,
        manifest: &Manifest,
        text: &str,
        module: &Path,
        bytes: &[u8],
        replaces: bool,
    ) -> Result<PhaseSpec, Refusal> {
        let Declared::Guest(guest) = &manifest.body else {
            return Err(Refusal::Bad("it is a built-in phase".to_owned()));
        };
        if guest.runtime == Runtime::Native && replaces {
            if !self.options.reload_native {
                return Err(Refusal::Bad(
                    "a native phase is replaced when the node starts anew; for development, set \
                     guests.reload_native = true"
                        .to_owned(),
                ));
            }
            if self.libraries >= MOST_LIBRARIES {
                return Err(Refusal::Bad(format!(
                    "{MOST_LIBRARIES} shared libraries are loaded, and none can be unloaded; start the node anew"
                )));
            }
        }
        self.libraries += u32::from(guest.runtime == Runtime::Native);
        let stage = &mut self.stage;
        let loaded = catch_unwind(AssertUnwindSafe(|| stage.load(manifest, guest, text, module, bytes)));
        match loaded {
            Ok(Ok(spec)) => Ok(spec),
            Ok(Err(Unfit::Unfinished(why))) => Err(Refusal::Unfinished(why)),
            Ok(Err(Unfit::Bad(why))) => Err(Refusal::Bad(why)),
            Err(_) => Err(Refusal::Bad("loading it panicked; what it says is in the log".to_owned())),
        }
    }

    /// After it was put in, or could not be.
    fn settle(&mut self, one: Staged, result: Result<(), String>, report: &mut ReloadReport) {
        let Staged { name, spec, head: old, .. } = one;
        let Some(unit) = self.units.get_mut(&name) else { return };
        let digest = unit.head.lineage.current();
        match result {
            Ok(()) => {
                unit.running = digest;
                unit.candidate = None;
                let gone: Vec<[u8; 32]> =
                    old.lineage.digests().filter(|digest| !unit.head.lineage.names(digest)).collect();
                self.remove_generations(&gone);
                self.note(&name, Change::Applied, digest, None, report);
            }
            Err(why) => {
                let told = RejectedPhase {
                    name: name.clone(),
                    kind: spec.kind.to_owned(),
                    file: Some(unit.head.file.clone()),
                    digest,
                    ..RejectedPhase::default()
                };
                unit.head = old;
                unit.is_unsaved = true;
                self.save_unsaved();
                self.remove_generations(digest.as_slice());
                self.refuse(Refusal::Bad(why), told, report);
            }
        }
    }

    /// Leftovers are removed at the next start.
    fn remove_generations(&self, digests: &[[u8; 32]]) {
        for digest in digests {
            if let Err(error) = self.folder.remove_generation(digest) {
                tracing::debug!(%error, "an old generation stays on disk for now");
            }
        }
    }

    /// Takes out phases whose files were gone at two looks.
    fn take_out(
        &mut self,
        files: Option<&[ManifestFile]>,
        mood: Mood,
        now: Duration,
        desk: &mut dyn Desk,
        report: &mut ReloadReport,
    ) {
        let Some(files) = files else { return };
        let manifests = files.iter().filter(|file| file.path.extension().is_some_and(|end| end == "toml"));
        let names: Vec<String> = manifests.map(|file| self.name_of(file)).collect();
        let orphans: Vec<String> = files.iter().map(|file| self.name_of(file)).collect();
        let mut gone = Vec::new();
        for (name, unit) in &mut self.units {
            let is_there = names.contains(name) || unit.running.is_none() && orphans.contains(name);
            if is_there {
                unit.missing_since = None;
                continue;
            }
            let since = *unit.missing_since.get_or_insert(now);
            if mood == Mood::Ordered || now >= since + super::QUIET {
                gone.push(name.clone());
            }
        }
        for name in gone {
            let Some(running) = self.units.get(&name).and_then(|unit| unit.running) else {
                self.forget(&name);
                continue;
            };
            let called = name.clone();
            let Some(kept) = ask(desk, move |cycle| cycle.take_out(&called)) else { return };
            if let Some(kept) = kept
                && let Err(error) = self.folder.save_phase(&name, &kept)
            {
                tracing::error!(%error, phase = name, "cannot save what it remembers");
            }
            self.forget(&name);
            self.note(&name, Change::Removed, Some(running), None, report);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        let Some(unit) = self.units.remove(name) else { return };
        let digests: Vec<[u8; 32]> = unit.head.lineage.digests().collect();
        if let Err(error) = self.folder.remove_head(name) {
            tracing::error!(%error, phase = name, "cannot forget it on disk");
        }
        self.remove_generations(&digests);
    }

    /// Takes note of probations that have ended.
    fn judge(&mut self, desk: &mut dyn Desk, report: &mut ReloadReport) {
        let verdicts = ask(desk, |cycle| {
            let verdicts = cycle.take_verdicts().into_iter();
            // The generation that is back may have run since, and what it stored then is on the disk already.
            verdicts.map(|verdict| (cycle.snapshot(&verdict.phase), verdict)).collect::<Vec<_>>()
        });
        for (now_kept, Verdict { phase, digest, outcome }) in verdicts.unwrap_or_default() {
            let Some(unit) = self.units.get_mut(&*phase) else { continue };
            match outcome {
                Judged::Good => {
                    unit.head.lineage.proven();
                    unit.is_unsaved = true;
                    self.save_unsaved();
                    self.note(&phase, Change::Proven, Some(digest), None, report);
                }
                Judged::Returned { why, to, kept } => {
                    // First what it remembers: a crash in between tries the newer one again, on what it began with.
                    if let Err(error) = self.folder.save_phase(&phase, &now_kept.unwrap_or(kept)) {
                        tracing::error!(%error, phase = &*phase, "cannot save what it remembers");
                    }
                    unit.head.lineage.failed(why.clone());
                    debug_assert_eq!(unit.head.lineage.current(), to, "memory and disk go the same way");
                    unit.running = to;
                    unit.is_unsaved = true;
                    let told = RejectedPhase {
                        name: phase.to_string(),
                        file: Some(unit.head.file.clone()),
                        digest: Some(digest),
                        since_unix_s: Some(unix_seconds(&*self.clock)),
                        ..RejectedPhase::default()
                    };
                    let words =
                        format!("it failed on probation, and the generation before runs again: {why}");
                    unit.refuse(Refusal::Bad(words.clone()), told, self.clock.mono());
                    self.save_unsaved();
                    self.remove_generations(&[digest]);
                    self.note(&phase, Change::Returned, Some(digest), Some(words), report);
                }
            }
        }
    }

    pub(super) fn save_unsaved(&mut self) {
        for (name, unit) in self.units.iter_mut().filter(|(_, unit)| unit.is_unsaved) {
            match self.folder.save_head(name, &unit.head) {
                Ok(()) => unit.is_unsaved = false,
                Err(error) => {
                    tracing::error!(%error, phase = name, "cannot write down which generation runs; tried again");
                }
            }
        }
    }

    /// Gives bytes of the phase `name` that have failed another chance.
    pub fn forgive(&mut self, name: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.is_unsaved |= unit.head.lineage.forgiven();
            unit.candidate = None;
        }
    }

    /// Has the node show what does not run.
    pub(super) fn tell(&mut self, desk: &mut dyn Desk) {
        let candidates = self.units.values().filter_map(|unit| unit.candidate.as_ref());
        let rejected: Vec<RejectedPhase> = candidates.map(|candidate| candidate.told.clone()).collect();
        let running = self.units.values().filter(|unit| unit.running.is_some());
        self.counts.libraries = self.libraries.into();
        self.counts.generations =
            running.map(|unit| 1 + u64::from(unit.head.lineage.former().is_some())).sum();
        ask(desk, move |cycle| {
            // Those that the application could not make are none of ours.
            let mut all: Vec<RejectedPhase> = cycle
                .rejected()
                .iter()
                .filter(|one| one.file.is_none() && one.digest.is_none())
                .cloned()
                .collect();
            all.extend(rejected);
            cycle.set_rejected(all);
        });
    }

    fn event(
        &self,
        phase: &str,
        change: Change,
        digest: Option<[u8; 32]>,
        why: Option<String>,
    ) -> ReloadEvent {
        let digest = digest.as_ref().map(short_digest);
        ReloadEvent { phase: phase.to_owned(), change, digest, why, unix_s: unix_seconds(&*self.clock) }
    }

    /// One log line, one count, one event.
    pub(super) fn note(
        &mut self,
        phase: &str,
        change: Change,
        digest: Option<[u8; 32]>,
        why: Option<String>,
        report: &mut ReloadReport,
    ) {
        let event = self.event(phase, change, digest, why);
        let (result, digest) = (change.as_str(), event.digest.as_deref().unwrap_or("-"));
        match &event.why {
            None => tracing::info!(phase, result, digest, "reload"),
            Some(why) if change == Change::Pending => tracing::info!(phase, result, digest, why, "reload"),
            Some(why) => tracing::warn!(phase, result, digest, why, "reload"),
        }
        self.counts.count(change);
        // Nobody has to listen.
        _ = self.events.send(event.clone());
        report.events.push(event);
    }
}
