//! One beat, read from a recording.

use std::sync::Arc;

use groundskeeper_engine::beat::{BeatHeader, RecordedRun};
use groundskeeper_engine::{Changes, PhaseView};
use groundskeeper_sdk::host::{Frozen, Saved};
use groundskeeper_sdk::phase::Tick;

use super::snapshot::RecordedSnapshot;

/// One recorded beat.
#[derive(Clone, Debug)]
pub struct RecordedBeat {
    /// Identifies the process that recorded it.
    pub session: u64,
    /// Its tick and time, and the node's numbers that are not in its tables.
    pub moment: BeatHeader,
    /// The tables at the start of the beat.
    pub(super) snapshot: Arc<RecordedSnapshot>,
    /// The runs, in order.
    pub runs: Vec<RecordedRun>,
    /// All changes at the end of the beat.
    pub after: Arc<Changes>,
}

impl RecordedBeat {
    /// The view at the start of the beat, with `memory` as the phase's memory.
    pub fn view(&self, memory: Option<Saved>) -> Arc<dyn Frozen> {
        self.view_with(&Arc::default(), memory)
    }

    /// The view after `changes`: [`RecordedRun::before`] or [`RecordedBeat::after`] of this beat. Panics if they
    /// change rows that do not exist.
    pub(super) fn view_with(&self, changes: &Arc<Changes>, memory: Option<Saved>) -> Arc<dyn Frozen> {
        Arc::new(PhaseView::new(Arc::clone(&self.snapshot), Arc::clone(changes), memory))
    }

    /// The view that a recorded run had.
    pub fn view_of(&self, run: &RecordedRun) -> Arc<dyn Frozen> {
        self.view_with(&run.before, run.memory.clone())
    }

    /// A tick for a phase that did not run in this beat: the beat's time, and `seed`.
    pub(super) fn tick(&self, seed: [u32; 2]) -> Tick {
        Tick {
            number: self.moment.tick,
            late: self.moment.late,
            unix_s: self.moment.unix_s(),
            seed,
            ..Tick::default()
        }
    }
}
