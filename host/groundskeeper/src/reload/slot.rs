//! One phase of the drop-in folder: which generation runs, and which candidate is in the folder instead.

use std::path::Path;
use std::time::Duration;

use crate::data::{DataFolder, GenerationRecord};
use crate::loader::{CompileTicket, PhaseRefusal};
use crate::registry::{Digest, KeptPhase, RejectedPhase};

/// Waits before an incomplete file is read again. After the last one it counts as broken.
const TRIES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];

/// Wait before a retry after a failure of the machine, such as a disk error.
const AGAIN: Duration = Duration::from_secs(5);

/// Wait before a retry if others were tried first: they get in meanwhile.
const SOON: Duration = Duration::from_millis(100);

/// The same after a compile that was interrupted: it may have used its minute of CPU time.
const COMPILE_AGAIN: Duration = Duration::from_secs(120);

/// See the module.
#[derive(Default)]
pub(super) struct PhaseSlot {
    /// The record as it is on disk, or must be.
    head: GenerationRecord,
    is_running: bool,
    /// `head` is not on disk: writing it failed.
    is_unsaved: bool,
    /// Its last good generation does not run, and is put in at the next scan.
    pub waits_for_restore: bool,
    /// Its last good generation is being compiled.
    restoring: Option<CompileTicket>,
    /// The process has not put in what its files held at the start, because that is being compiled.
    pub is_starting: bool,
    candidate: Option<CandidateFiles>,
    /// When the files were first found missing.
    missing_since: Option<Duration>,
}

/// Files in the folder that do not run.
struct CandidateFiles {
    rejected: RejectedPhase,
    tries: usize,
    again_at: Option<Duration>,
    compiling: Option<CompileTicket>,
}

impl CandidateFiles {
    fn again_at(&self) -> Option<Duration> {
        self.again_at.or_else(|| ended(self.compiling.as_ref()))
    }
}

/// At once, if the compile has ended.
fn ended(ticket: Option<&CompileTicket>) -> Option<Duration> {
    ticket.filter(|ticket| ticket.is_done()).map(|_| Duration::ZERO)
}

impl PhaseSlot {
    /// A phase that an earlier process knew and that does not run yet.
    pub fn new(head: GenerationRecord) -> Self {
        Self { head, ..Self::default() }
    }

    pub fn head(&self) -> &GenerationRecord {
        &self.head
    }

    /// The generation that runs.
    pub fn running(&self) -> Option<Digest> {
        self.head.lineage.current().filter(|_| self.is_running)
    }

    /// Whether the phase was loaded from this manifest.
    pub fn is_from(&self, manifest: &Path) -> bool {
        self.head.lineage.current().is_some() && self.head.file == manifest
    }

    /// The files in the folder that do not run, and why.
    pub fn rejected(&self) -> Option<&RejectedPhase> {
        self.candidate.as_ref().map(|candidate| &candidate.rejected)
    }

    /// When to scan again even if no file changes.
    pub fn again_at(&self) -> Option<Duration> {
        self.candidate.as_ref()?.again_at()
    }

    /// When to put in the last good generation, if it had to be compiled.
    pub fn restores_at(&self) -> Option<Duration> {
        ended(self.restoring.as_ref())
    }

    /// Whether the last good generation is wanted and can be loaded now.
    pub fn may_restore(&self) -> bool {
        self.waits_for_restore && self.restoring.as_ref().is_none_or(CompileTicket::is_done)
    }

    /// The last good generation could not be loaded: it is wanted later, unless it is bad.
    pub fn restore_later(&mut self, refusal: Option<&PhaseRefusal>) {
        self.waits_for_restore = refusal.is_some_and(PhaseRefusal::is_for_now);
        self.restoring = match refusal {
            Some(PhaseRefusal::Compiling(ticket)) => Some(ticket.clone()),
            _ => None,
        };
    }

    pub fn missing_since(&self) -> Option<Duration> {
        self.missing_since
    }

    /// Whether these bytes were refused before, and no retry is due.
    pub fn was_refused(&self, digest: &Digest, now: Duration) -> bool {
        self.candidate.as_ref().is_some_and(|candidate| {
            candidate.rejected.digest == Some(*digest) && candidate.again_at().is_none_or(|at| now < at)
        })
    }

    /// Notes why a candidate does not run. True if this is news.
    pub fn refuse(&mut self, refusal: PhaseRefusal, mut rejected: RejectedPhase, now: Duration) -> bool {
        let before = self.candidate.take();
        let same = before.as_ref().filter(|before| before.rejected.digest == rejected.digest);
        let tries = same.map_or(0, |before| before.tries);
        let why = refusal.to_string();
        let (wait, compiling) = match refusal {
            PhaseRefusal::Unfinished(_) => (TRIES.get(tries).copied(), None),
            PhaseRefusal::Bad(_) => (None, None),
            PhaseRefusal::NotCompiled(_) => (Some(COMPILE_AGAIN), None),
            PhaseRefusal::Machine(_) => (Some(AGAIN), None),
            PhaseRefusal::Waits => (Some(SOON), None),
            PhaseRefusal::Compiling(ticket) => (None, Some(ticket)),
        };
        rejected.problem = why;
        rejected.is_pending = wait.is_some();
        rejected.is_compiling = compiling.is_some();
        if let Some(before) = same.filter(|before| before.rejected.problem == rejected.problem) {
            rejected.since_unix_s = before.rejected.since_unix_s;
        }
        let is_news = before.as_ref().is_none_or(|CandidateFiles { rejected: before, .. }| {
            (&before.problem, before.is_pending, before.digest)
                != (&rejected.problem, rejected.is_pending, rejected.digest)
        });
        let again_at = wait.map(|wait| now + wait);
        self.candidate = Some(CandidateFiles { rejected, tries: tries + 1, again_at, compiling });
        is_news
    }

    /// The files of a candidate changed before its retry. It waits until they are at rest.
    pub fn postpone(&mut self) {
        if let Some(candidate) = &mut self.candidate {
            candidate.again_at = None;
            candidate.compiling = None;
        }
    }

    /// The files of the phase are there.
    pub fn found(&mut self) {
        self.missing_since = None;
    }

    /// The files of the phase are missing. Returns since when.
    pub fn missing(&mut self, now: Duration) -> Duration {
        *self.missing_since.get_or_insert(now)
    }

    /// `file` holds what runs. A candidate that was there in between is gone.
    pub fn runs_from(&mut self, file: &Path) {
        self.candidate = None;
        if self.head.file != file {
            self.head.file = file.to_owned();
            self.is_unsaved = true;
        }
    }

    /// The record after `digest`, read from `file`, has replaced the running generation, which leaves `kept`.
    pub fn head_with(&self, file: &Path, digest: Digest, kept: &KeptPhase) -> GenerationRecord {
        let mut head = self.head.clone();
        head.file = file.to_owned();
        if self.is_running {
            head.lineage.offered(digest, kept.clone(), ());
        } else {
            head.lineage.began(digest);
        }
        head
    }

    /// No generation runs now.
    pub fn stopped(&mut self) {
        self.is_running = false;
    }

    /// The current generation has started to run.
    pub fn started(&mut self) {
        self.is_running = true;
        self.waits_for_restore = false;
        self.restoring = None;
        self.is_starting = false;
    }

    /// The generation of `head` runs, and `written` is on disk. True if they differ.
    pub fn replaced(&mut self, head: GenerationRecord, written: &GenerationRecord) -> bool {
        self.is_unsaved = head != *written;
        self.head = head;
        self.candidate = None;
        self.started();
        self.is_unsaved
    }

    /// The phase starts with `head`. It is written unless it is unchanged.
    pub fn set_head(&mut self, head: GenerationRecord) {
        self.is_unsaved |= self.head != head;
        self.head = head;
    }

    /// The record, for a change that must be written.
    pub fn head_mut(&mut self) -> &mut GenerationRecord {
        self.is_unsaved = true;
        &mut self.head
    }

    /// The disk may hold a record that was given up, so this one must be written.
    pub fn must_save(&mut self) {
        self.is_unsaved = true;
    }

    /// Whether the disk has the record as it is in memory.
    pub fn is_saved(&self) -> bool {
        !self.is_unsaved
    }

    /// Writes the record of the phase `name`, unless it is on disk.
    pub fn save(&mut self, name: &str, folder: &DataFolder) {
        if !self.is_unsaved {
            return;
        }
        match folder.save_head(name, &self.head) {
            Ok(()) => self.is_unsaved = false,
            Err(error) => {
                tracing::error!(%error, phase = name, "cannot save which generation runs; will try again");
            }
        }
    }

    /// Lets failed bytes run again.
    pub fn forgive(&mut self) {
        self.is_unsaved |= self.head.lineage.forgiven();
        self.candidate = None;
    }
}
