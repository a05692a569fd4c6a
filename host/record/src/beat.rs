//! One beat as it is read back from a recording.

use std::sync::Arc;

use groundskeeper_engine::beat::{Moment, RecordedRun};
use groundskeeper_engine::{Changes, PhaseView};
use groundskeeper_sdk::host::{Frozen, Saved};
use groundskeeper_sdk::phase::Tick;

use super::snapshot::RecordedSnapshot;

/// One beat, read back.
#[derive(Clone, Debug)]
pub struct RecordedBeat {
    /// Tells one process that recorded from another.
    pub session: u64,
    pub moment: Moment,
    /// What was frozen when it began.
    pub(super) snapshot: Arc<RecordedSnapshot>,
    /// The runs in their order.
    pub runs: Vec<RecordedRun>,
    /// What the whole beat had changed.
    pub after: Arc<Changes>,
}

impl RecordedBeat {
    /// The view at the start of the beat, with `memory` for the phase that is to read it.
    pub fn view(&self, memory: Option<Saved>) -> Arc<dyn Frozen> {
        self.view_with(&Arc::default(), memory)
    }

    /// The view as it was when `changes` had been made: [`RecordedRun::before`] or [`RecordedBeat::after`]
    /// of this beat; a view of rows that are not there panics.
    pub(super) fn view_with(&self, changes: &Arc<Changes>, memory: Option<Saved>) -> Arc<dyn Frozen> {
        Arc::new(PhaseView::new(Arc::clone(&self.snapshot), Arc::clone(changes), memory))
    }

    /// The view that a recorded run had.
    pub fn view_of(&self, run: &RecordedRun) -> Arc<dyn Frozen> {
        self.view_with(&run.before, run.memory.clone())
    }

    /// A tick for a phase that did not run in this beat: its time, and `seed`.
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
