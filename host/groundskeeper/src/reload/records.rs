//! What is known of each phase, in memory and on disk, and what is said about it. Follows what the cycle has done.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::decide;
use super::exchange::{BatchResult, Put, SeenVerdict};
use super::log::ReloadLog;
use super::options::ScanKind;
use super::report::Change;
use super::slot::Refusal;
use super::slots::PhaseSlots;
use super::store::GenerationStore;
use crate::clock::{Clock, unix_seconds};
use crate::data::{DataFolder, Head};
use crate::registry::{Digest, Judged, KeptPhase, RejectedPhase, Verdict};

/// What a scan comes to.
#[derive(Default)]
pub(super) struct Changes {
    pub puts: Vec<Put>,
    /// Of those that are new generations, by name.
    pub written: BTreeMap<String, Written>,
    /// Phases that run and are taken out.
    pub removals: Vec<String>,
    /// Phases that are put in are events.
    pub notes_applied: bool,
}

/// A generation that was loaded, tried and written down.
pub(super) struct Written {
    pub file: PathBuf,
    pub digest: Digest,
    /// Of the generation before, when this one was tried.
    pub kept: KeptPhase,
    pub head: Head,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.removals.is_empty()
    }
}

/// See the module.
pub(super) struct PhaseRecords {
    pub store: GenerationStore,
    pub slots: PhaseSlots,
    pub log: ReloadLog,
    clock: Arc<dyn Clock>,
}

impl PhaseRecords {
    pub fn new(folder: Arc<DataFolder>, clock: Arc<dyn Clock>) -> Self {
        let log = ReloadLog::new(Arc::clone(&clock));
        Self { store: GenerationStore(folder), slots: PhaseSlots::default(), log, clock }
    }

    /// Takes note of what became of a batch, in the order in which the cycle did it.
    pub fn settle(
        &mut self,
        offered: Vec<RejectedPhase>,
        mut changes: Changes,
        result: BatchResult,
        kind: ScanKind,
    ) {
        let BatchResult { verdicts, refused, removed } = result;
        self.judge(verdicts);
        for rejected in offered {
            let written = changes.written.remove(&rejected.name);
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
            if changes.notes_applied {
                self.log.note(&rejected.name, Change::Applied, rejected.digest, None);
            }
        }
        for name in &changes.removals {
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

    pub fn forget(&mut self, name: &str) {
        if let Some(slot) = self.slots.by_name.remove(name) {
            self.store.forget(name, slot.head());
        }
    }

    /// Takes note of probations that have ended.
    pub fn judge(&mut self, verdicts: Vec<SeenVerdict>) {
        for (Verdict { phase, digest, outcome }, now_kept) in verdicts {
            let Some(slot) = self.slots.by_name.get_mut(&*phase) else { continue };
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

    /// Notes why files do not run.
    pub fn refuse(&mut self, refusal: Refusal, mut rejected: RejectedPhase) {
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
