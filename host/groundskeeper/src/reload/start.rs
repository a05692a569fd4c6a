//! A start: compares the folder with what ran when the last process ended.

use std::io;
use std::time::Duration;

use super::decide::{self, StartDecision};
use super::exchange::{self, Batch, BetweenTicks, Replacement};
use super::reloader::PhaseReloader;
use super::scanner::{FoundFiles, UnusableFiles};
use super::slot::PhaseSlot;
use crate::config::ManifestFile;
use crate::cycle::TrialContext;
use crate::data::{DataError, GenerationRecord};
use crate::loader::PhaseRefusal;
use crate::registry::{Former, LastRuns, Rollback, Standing};

/// How much a starting node takes from its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartFrom {
    /// The files in the folder.
    Folder,
    /// The former generations: the last starts failed early.
    Former,
    /// Nothing.
    Nothing,
}

/// After this many starts that failed early, the node takes the former generations ...
const STARTS_BEFORE_FORMER: u32 = 3;
/// ... and after this many, nothing from the folder.
const STARTS_BEFORE_NOTHING: u32 = 6;

/// How soon a start that could not read the records tries again without a tick: a disk that fails over takes seconds.
const READ_AGAIN: Duration = Duration::from_secs(5);

/// A start that could not read the records of the generations. Until it can, nothing may be written over them.
pub(super) struct UnreadStart {
    from: StartFrom,
    last_runs: LastRuns,
    /// When to try again without a tick, as monotonic time.
    pub again_at: Duration,
}

impl StartFrom {
    /// `starts` is the number of starts that failed early, as counted by
    /// [`DataFolder::note_start`](crate::data::DataFolder::note_start).
    pub fn after(starts: u32) -> Self {
        match starts {
            STARTS_BEFORE_NOTHING.. => Self::Nothing,
            STARTS_BEFORE_FORMER.. => Self::Former,
            _ => Self::Folder,
        }
    }
}

impl PhaseReloader {
    /// Loads the phases that the node starts with: for each, the files in the folder, or else the last good generation.
    /// Only bytes that have not run here before are tried. `last_runs` continues the cadence of an earlier process.
    ///
    /// # Errors
    /// If the data folder cannot be read. Each later scan then begins again first, and changes nothing until that succeeds.
    pub fn begin(
        &mut self,
        ticks: BetweenTicks<'_>,
        from: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<(), DataError> {
        let heads = match self.slots.folder.load_heads() {
            Ok(heads) => heads,
            Err(error) => {
                let again_at = self.clock.mono() + READ_AGAIN;
                self.unbegun = Some(UnreadStart { from, last_runs: last_runs.clone(), again_at });
                return Err(error);
            }
        };
        self.unbegun = None;
        let context = exchange::observe(ticks, true).and_then(|observed| observed.context);
        let context = context.map(|context| context.continuing(last_runs));
        for (name, head) in heads {
            self.slots.by_name.insert(name, PhaseSlot::new(head));
        }
        if from == StartFrom::Former {
            self.go_back();
        }
        let (mut puts, mut refused) = (Vec::new(), Vec::new());
        if let (Some(files), Some(context)) = (self.files_at_start(), &context) {
            let there: Vec<String> = files.iter().map(|file| self.slots.name_of(file)).collect();
            for name in self.slots.names(|name, _| !there.iter().any(|there| there == name)) {
                self.slots.forget(&name);
            }
            for file in files.iter().filter(|file| !file.is_built_in) {
                match self.begin_with(file, from, context) {
                    Ok(put) => puts.push(put),
                    Err(unusable) => refused.push(unusable),
                }
            }
            self.scanner.settle_all();
        }
        if from != StartFrom::Nothing {
            let is_begun = |name: &str| puts.iter().any(|put| put.spec.name == name);
            for name in self.slots.names(|name, _| !is_begun(name)) {
                puts.extend(self.last_good(&name));
            }
        }
        for UnusableFiles { refusal, rejected } in refused {
            self.slots.entry(&rejected.name).is_starting = matches!(refusal, PhaseRefusal::Compiling(_));
            self.refuse(refusal, *rejected);
        }
        let batch = Batch { puts, last_runs: last_runs.clone(), ..Batch::default() };
        self.hand_over(batch, None, ticks);
        self.slots.save_heads();
        self.slots.prune_generations();
        // A start is no change: it is logged, but sends no events.
        self.log.events.clear();
        Ok(())
    }

    /// Begins, if the start could not.
    ///
    /// # Errors
    /// What to report of a scan that changes nothing: the records still cannot be read.
    pub(super) fn begin_again(&mut self, ticks: BetweenTicks<'_>) -> Result<(), String> {
        let Some(UnreadStart { from, last_runs, .. }) = self.unbegun.take() else { return Ok(()) };
        self.begin(ticks, from, &last_runs).map_err(|error| {
            format!("cannot read which phases ran, so no phase of the folder is put in: {error}")
        })?;
        tracing::info!("read which phases of the drop-in folder ran; they are put in now");
        Ok(())
    }

    /// The manifests of the folder. `None` if it cannot be read.
    fn files_at_start(&mut self) -> Option<Vec<ManifestFile>> {
        match self.scanner.scan_all(self.clock.mono()) {
            Ok(files) => Some(files),
            Err(error) => {
                let dir = self.scanner.dir();
                // Phases loaded from there may still be wanted: a volume that is not mounted yet is no order to stop.
                self.slots.by_name.retain(|_, slot| slot.head().file.parent() == Some(dir));
                if error.kind() != io::ErrorKind::NotFound || !self.slots.by_name.is_empty() {
                    let dir = dir.display();
                    tracing::warn!("{dir}: {error}; the last good generations of its phases run");
                }
                None
            }
        }
    }

    /// Makes the former generation of each phase the current one.
    fn go_back(&mut self) {
        for name in self.slots.names(|_, slot| slot.head().lineage.former().is_some()) {
            let why = "the node did not get through its first ticks with it".to_owned();
            if let Some(Rollback::ToFormer(former)) = self.slots.entry(&name).head_mut().lineage.failed(why) {
                self.slots.save_kept(&name, former.kept, None);
            }
        }
    }

    fn begin_with(
        &mut self,
        file: &ManifestFile,
        from: StartFrom,
        context: &TrialContext,
    ) -> Result<Replacement, UnusableFiles> {
        let name = self.slots.name_of(file);
        let read = self.scanner.read(file, &name);
        if from == StartFrom::Nothing {
            // With the digest of its bytes, so that only an ordered scan puts them in.
            let rejected = read.map_or_else(|unusable| unusable.rejected, |found| Box::new(found.rejected()));
            let why = "the last starts failed early, so no phase of the folder runs; `groundskeeper reload` tries again";
            return Err(UnusableFiles { refusal: PhaseRefusal::Bad(why.to_owned()), rejected });
        }
        let found = read?;
        let rejected = found.rejected();
        self.put_of(found, context).map_err(|refusal| UnusableFiles { refusal, rejected: Box::new(rejected) })
    }

    /// A phase with the files that the process has found at its start, also if they had to be compiled since.
    pub(super) fn put_of(
        &mut self,
        found: FoundFiles,
        context: &TrialContext,
    ) -> Result<Replacement, PhaseRefusal> {
        let FoundFiles { name, file, manifest, generation, digest } = found;
        let mut head = self.slots.entry(&name).head().clone();
        let decision = decide::on_start(&head, &digest);
        if let StartDecision::KnownBad(why) = decision {
            return Err(PhaseRefusal::known_bad(&why));
        }
        let spec = self.loader.load(&file, &manifest, &generation, false)?;
        let mut kept = self.slots.load_kept(&name)?;
        if decision == StartDecision::Try {
            self.loader.try_out(context, &spec, &kept)?;
        }
        head.file = file;
        let is_new = decision != StartDecision::Continue;
        let taken_back = if is_new { head.lineage.offered(digest, kept.clone(), ()) } else { None };
        let standing = self.resumed(&name, &mut head)?;
        if let Some(former) = taken_back {
            kept = former.kept;
            self.slots.save_kept(&name, kept.clone(), None);
        }
        if decision == StartDecision::Try {
            self.slots.folder.save_generation(&name, &generation);
        }
        let slot = self.slots.entry(&name);
        slot.set_head(head);
        Ok(Replacement { standing, ..Replacement::restored(spec, kept, slot) })
    }

    /// Whether the phase is on probation, with its former generation. If that is gone or bad, the probation ends.
    ///
    /// # Errors
    /// It cannot be loaded now: the disk failed, the machine is short of something, or it is being compiled.
    fn resumed(&mut self, name: &str, head: &mut GenerationRecord) -> Result<Standing, PhaseRefusal> {
        if !head.lineage.is_on_probation() {
            return Ok(Standing::Proven);
        }
        let Some(Former { digest, kept, .. }) = head.lineage.former().cloned() else {
            return Ok(Standing::Probation(None));
        };
        match self.load_kept_generation(name, &head.file, &digest) {
            Ok(Some(held)) => Ok(Standing::Probation(Some(Former { digest, kept, held }))),
            // Nothing is known about it yet: the phase is tried again, with its probation.
            Err(later) => Err(later),
            Ok(None) => {
                head.lineage.former_lost();
                Ok(Standing::Proven)
            }
        }
    }
}
