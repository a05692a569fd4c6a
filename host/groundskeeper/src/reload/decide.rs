//! Decisions about the results of a scan. Pure: states in, decisions out.

use std::time::Duration;

use super::ScanKind;
use super::slot::PhaseSlot;
use crate::data::GenerationRecord;
use crate::registry::Digest;

/// What to do with files that were read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum ReadDecision {
    /// These bytes run already.
    Runs,
    /// These bytes failed here before, for this reason.
    KnownBad(String),
    /// They were refused, and no retry is due.
    StillRefused,
    /// Load them, try them, write them to disk and put them in.
    Stage,
}

/// Decides about the bytes with `digest`, read at `now`.
pub(super) fn on_read(slot: &PhaseSlot, digest: &Digest, kind: ScanKind, now: Duration) -> ReadDecision {
    if slot.running() == Some(*digest) {
        return ReadDecision::Runs;
    }
    match slot.head().lineage.known_bad(digest) {
        Some(why) => ReadDecision::KnownBad(why.to_owned()),
        None if kind != ScanKind::Ordered && slot.was_refused(digest, now) => ReadDecision::StillRefused,
        None => ReadDecision::Stage,
    }
}

/// The state of one phase's files in the tracker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileState {
    pub is_dirty: bool,
    pub is_at_rest: bool,
    /// A retry of the phase is due.
    pub is_due: bool,
}

/// Whether to read the files of a phase.
pub(super) fn reads(kind: ScanKind, state: FileState) -> bool {
    match kind {
        ScanKind::Ordered => true,
        ScanKind::Thorough => state.is_at_rest,
        ScanKind::Hint => state.is_at_rest && (state.is_dirty || state.is_due),
    }
}

/// How long the files of a running phase may be missing before it is taken out. Deployment tools unlink a file and write it
/// again a second later; a phase that was taken out in between would lose its former generation.
pub(super) const GONE_AFTER: Duration = Duration::from_secs(3);

/// Whether to take out a phase with files missing since that time. One scan may see a folder in the middle of a change.
pub(super) fn takes_out(kind: ScanKind, missing_since: Duration, now: Duration) -> bool {
    kind == ScanKind::Ordered || now >= missing_since + GONE_AFTER
}

/// Whether to put in the last good generation of the phase although no file asks for it.
pub(super) fn restores(slot: &PhaseSlot, kind: ScanKind) -> bool {
    let is_ordered = kind == ScanKind::Ordered && slot.head().lineage.current().is_some();
    slot.running().is_none() && (slot.may_restore() || is_ordered)
}

/// What a start does with the bytes in the folder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum StartDecision {
    KnownBad(String),
    /// They ran here before, and run without a trial.
    Continue,
    /// The operator has taken back the generation on probation.
    TakeBack,
    Try,
}

/// Decides about the bytes with `digest` when the node starts.
pub(super) fn on_start(head: &GenerationRecord, digest: &Digest) -> StartDecision {
    let lineage = &head.lineage;
    if let Some(why) = lineage.known_bad(digest) {
        StartDecision::KnownBad(why.to_owned())
    } else if lineage.current() == Some(*digest) {
        StartDecision::Continue
    } else if lineage.taken_back(digest).is_some() {
        StartDecision::TakeBack
    } else {
        StartDecision::Try
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::PhaseRefusal;
    use crate::registry::KeptPhase;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// 1 was good, 2 failed, 3 is on probation.
    fn head() -> GenerationRecord {
        let mut head = GenerationRecord::default();
        head.lineage.offered([1; 32], KeptPhase::default(), ());
        head.lineage.proven();
        head.lineage.offered([2; 32], KeptPhase::default(), ());
        head.lineage.failed("boom".to_owned());
        head.lineage.offered([3; 32], KeptPhase::default(), ());
        head
    }

    #[test]
    fn bytes_that_were_read() {
        let mut slot = PhaseSlot::new(head());
        slot.started();
        let rejected = crate::registry::RejectedPhase { digest: Some([4; 32]), ..Default::default() };
        slot.refuse(PhaseRefusal::Machine("disk full".to_owned()), rejected, ms(0));
        let (hint, ordered) = (ScanKind::Hint, ScanKind::Ordered);
        let table = [
            (3, hint, 0, ReadDecision::Runs),
            (1, hint, 0, ReadDecision::Stage),
            (2, hint, 0, ReadDecision::KnownBad("boom".to_owned())),
            (2, ordered, 0, ReadDecision::KnownBad("boom".to_owned())),
            (4, hint, 0, ReadDecision::StillRefused),
            (4, ScanKind::Thorough, 4_999, ReadDecision::StillRefused),
            (4, hint, 5_000, ReadDecision::Stage),
            (4, ordered, 0, ReadDecision::Stage),
        ];
        for (n, kind, at, decision) in table {
            assert_eq!(on_read(&slot, &[n; 32], kind, ms(at)), decision, "{n}, {kind:?}, {at} ms");
        }
    }

    #[test]
    fn bytes_at_a_start() {
        let table = [
            (1, StartDecision::TakeBack),
            (2, StartDecision::KnownBad("boom".to_owned())),
            (3, StartDecision::Continue),
            (4, StartDecision::Try),
        ];
        for (n, decision) in table {
            assert_eq!(on_start(&head(), &[n; 32]), decision, "{n}");
        }
    }

    #[test]
    fn phases_that_do_not_run() {
        let mut slot = PhaseSlot::new(head());
        assert!(!restores(&slot, ScanKind::Hint) && restores(&slot, ScanKind::Ordered));
        slot.waits_for_restore = true;
        assert!(restores(&slot, ScanKind::Hint));
        slot.started();
        assert!(!restores(&slot, ScanKind::Ordered), "it runs");
        assert!(!restores(&PhaseSlot::default(), ScanKind::Ordered), "it never ran");
        assert!(
            !takes_out(ScanKind::Hint, ms(100), ms(3_099)) && takes_out(ScanKind::Hint, ms(100), ms(3_100))
        );
        assert!(takes_out(ScanKind::Ordered, ms(100), ms(100)));
    }

    #[test]
    fn files_that_are_read() {
        let state = |is_dirty, is_at_rest, is_due| FileState { is_dirty, is_at_rest, is_due };
        for (kind, read, unread) in [
            (
                ScanKind::Hint,
                vec![state(true, true, false), state(false, true, true)],
                state(false, true, false),
            ),
            (ScanKind::Thorough, vec![state(false, true, false)], state(true, false, true)),
            (ScanKind::Ordered, vec![state(true, false, false)], state(true, false, false)),
        ] {
            assert!(read.iter().all(|state| reads(kind, *state)), "{kind:?}");
            assert_eq!(reads(kind, unread), kind == ScanKind::Ordered, "{kind:?}");
        }
    }
}
