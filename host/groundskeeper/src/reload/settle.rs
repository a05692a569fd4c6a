//! Notes results in memory, on disk and in the log: what the cycle has done, and files that cannot be used.

use super::ScanKind;
use super::decide;
use super::exchange::{BatchResult, Replacement, SeenVerdict};
use super::reloader::PhaseReloader;
use super::report::PhaseChange;
use crate::clock::unix_seconds;
use crate::data::GenerationRecord;
use crate::loader::PhaseRefusal;
use crate::registry::{Digest, Judgement, KeptPhase, ProbationVerdict, RejectedPhase};

impl PhaseReloader {
    /// Notes the outcome of a batch, in the order in which the cycle applied it. `kind` is `None` at a start.
    pub(super) fn settle(&mut self, result: BatchResult, kind: Option<ScanKind>) {
        let BatchResult { verdicts, puts, mut refused, removed } = result;
        self.judge(verdicts);
        for put in puts {
            let Replacement { kept, written, if_refused, .. } = put;
            let name = &if_refused.name;
            if let Some(why) = refused.remove(name) {
                if let Some((digest, _)) = written {
                    self.give_up(name, digest, kind);
                }
                self.refuse(PhaseRefusal::Bad(why), if_refused);
                continue;
            }
            match written {
                Some((digest, head)) => self.replaced(name, digest, &kept, &head),
                None => self.slots.entry(name).started(),
            }
            // A start is no change.
            if kind.is_some() {
                self.log.note(name, PhaseChange::Applied, if_refused.digest, None);
            }
        }
        for (name, kept) in removed {
            let running = self.slots.running(&name);
            if let Some(kept) = kept {
                self.slots.save_kept(&name, kept, None);
            }
            self.slots.forget(&name);
            self.log.note(&name, PhaseChange::Removed, running, None);
        }
    }

    /// A new generation has replaced one that had `kept` this.
    fn replaced(&mut self, name: &str, digest: Digest, kept: &KeptPhase, written: &GenerationRecord) {
        let slot = self.slots.entry(name);
        let before: Vec<Digest> = slot.head().lineage.digests().chain(written.lineage.digests()).collect();
        // Computed again: a probation may have ended after `written` was saved, and the lineage in memory has changed
        // with it.
        let head = slot.head_with(&written.file, digest, kept);
        if slot.replaced(head.clone(), written) {
            self.slots.save_heads();
        }
        let unused = before.into_iter().filter(|digest| !head.lineage.names(digest));
        self.slots.folder.remove_generations(unused);
    }

    /// A new generation could not be put in: restores the record on disk.
    fn give_up(&mut self, name: &str, digest: Digest, kind: Option<ScanKind>) {
        let slot = self.slots.entry(name);
        slot.must_save();
        if kind == Some(ScanKind::Ordered) && decide::restores(slot, ScanKind::Ordered) {
            slot.waits_for_restore = true;
        }
        let is_unused = !slot.head().lineage.names(&digest);
        self.slots.save_heads();
        self.slots.folder.remove_generations(Some(digest).filter(|_| is_unused));
    }

    /// Notes probations that have ended.
    pub(super) fn judge(&mut self, verdicts: Vec<SeenVerdict>) {
        for SeenVerdict { verdict, kept: now_kept, beats } in verdicts {
            let ProbationVerdict { phase, digest, outcome } = verdict;
            let Some(slot) = self.slots.by_name.get_mut(&*phase) else { continue };
            match outcome {
                Judgement::Good => {
                    slot.head_mut().lineage.proven();
                    self.slots.save_heads();
                    self.log.note(&phase, PhaseChange::Proven, Some(digest), None);
                }
                Judgement::TakenOut { why, kept } => {
                    self.taken_out(&phase, digest, why, now_kept.unwrap_or(kept), beats);
                }
                Judgement::Returned { why, to, kept } => {
                    // Memory first: after a crash in between, the newer generation is tried again with the memory it
                    // started with.
                    self.slots.save_kept(&phase, now_kept.unwrap_or(kept), Some(beats));
                    let slot = self.slots.entry(&phase);
                    let head = slot.head_mut();
                    head.lineage.failed(why.clone());
                    debug_assert_eq!(head.lineage.current(), to, "memory and disk go the same way");
                    let rejected = RejectedPhase {
                        name: phase.to_string(),
                        file: Some(head.file.clone()),
                        digest: Some(digest),
                        since_unix_s: Some(unix_seconds(&*self.clock)),
                        ..RejectedPhase::default()
                    };
                    let why = format!("it failed on probation, and the generation before runs again: {why}");
                    slot.refuse(PhaseRefusal::Bad(why.clone()), rejected, self.clock.mono());
                    self.slots.save_heads();
                    self.slots.folder.remove_generations([digest]);
                    self.log.note(&phase, PhaseChange::Returned, Some(digest), Some(why));
                }
            }
        }
    }

    /// The first generation of a phase has failed on probation: none runs now.
    fn taken_out(&mut self, name: &str, digest: Digest, why: String, kept: KeptPhase, beats: u64) {
        self.slots.save_kept(name, kept, Some(beats));
        let slot = self.slots.entry(name);
        slot.stopped();
        let head = slot.head_mut();
        head.lineage.failed(why.clone());
        let rejected = RejectedPhase {
            name: name.to_owned(),
            file: Some(head.file.clone()),
            digest: Some(digest),
            ..RejectedPhase::default()
        };
        self.slots.save_heads();
        self.slots.folder.remove_generations([digest]);
        let why = format!("it failed on probation, and there is no generation before it: {why}");
        self.refuse(PhaseRefusal::Bad(why), rejected);
    }

    /// Notes why files do not run.
    pub(super) fn refuse(&mut self, refusal: PhaseRefusal, mut rejected: RejectedPhase) {
        let now = unix_seconds(&*self.clock);
        rejected.since_unix_s = Some(now);
        let (name, digest) = (rejected.name.clone(), rejected.digest);
        let slot = self.slots.entry(&name);
        let is_news = slot.refuse(refusal, rejected, self.clock.mono());
        let Some(rejected) = slot.rejected() else { return };
        let change = match rejected {
            RejectedPhase { is_compiling: true, .. } => PhaseChange::Compiling,
            RejectedPhase { is_pending: true, .. } => PhaseChange::Pending,
            _ => PhaseChange::Rejected,
        };
        let why = match (change, rejected.since_unix_s) {
            (PhaseChange::Compiling, Some(since)) if !is_news => {
                Some(format!("still compiling, for {} s", now.saturating_sub(since)))
            }
            _ => Some(rejected.problem.clone()),
        };
        if is_news {
            self.log.note(&name, change, digest, why);
        } else {
            self.log.repeat(&name, change, digest, why);
        }
    }
}
