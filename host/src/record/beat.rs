//! What a recording says of one beat: when it was, what was frozen, which phases ran on what, and what came of it.
//! Plain data; reads and writes nothing.

use std::sync::Arc;

use groundskeeper_sdk::host::{Ask, BroadcastTotals, Change, Frozen, Metric, Parts, Saved};
use groundskeeper_sdk::phase::Tick;

use super::snapshot::RecordedSnapshot;
use crate::engine::{Changes, Ended, FailureKind, PhaseView, RunFailure};

/// When a beat was, and the node's numbers beside its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    pub tick: u32,
    /// 0 for the tick itself, else the number of the urgent beat after it.
    pub urgent: u32,
    pub late: bool,
    /// Grid points without a tick since the last one.
    pub skipped: u32,
    pub slept_ms: u64,
    pub lateness_ms: u64,
    /// Monotonic time since the node's clock was made.
    pub mono_ms: u64,
    pub unix_ms: u64,
    pub interval_ms: u64,
    pub dialing: u32,
    /// A connection counts as healthy above this.
    pub healthy_above: u32,
    pub least: u32,
    pub most: u32,
    pub broadcasts: BroadcastTotals,
}

impl Moment {
    pub fn unix_s(&self) -> u32 {
        u32::try_from(self.unix_ms / 1000).unwrap_or(u32::MAX)
    }

    /// `tick 7`, or `tick 7 urgent 2`.
    pub fn called(&self) -> String {
        called(self.tick, self.urgent)
    }
}

pub(super) fn called(tick: u32, urgent: u32) -> String {
    if urgent == 0 { format!("tick {tick}") } else { format!("tick {tick} urgent {urgent}") }
}

/// A phase as it ran: what is needed to run it again.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RunInfo {
    pub name: String,
    pub version: String,
    /// What it is made of: `built-in`, `wasm`, `native`, or an application's own word.
    pub kind: String,
    /// Its place in the order of phases.
    pub place: u32,
    /// SHA-256 of its module, if it has one.
    pub digest: Option<[u8; 32]>,
    /// As JSON, if it can show them.
    pub settings: Option<String>,
}

/// One run of a phase.
#[derive(Clone, PartialEq, Debug)]
pub struct RecordedRun {
    pub phase: Arc<RunInfo>,
    /// As the phase got it.
    pub tick: Tick,
    pub memory: Option<Saved>,
    /// What had been changed in the beat when it ran.
    pub before: Arc<Changes>,
    pub took_us: u64,
    pub fuel: Option<u64>,
    pub came: Came,
}

/// What came of a run.
#[derive(Clone, PartialEq, Debug)]
pub enum Came {
    Planned(Planned),
    /// It left no plan.
    Failed {
        how: FailureKind,
        text: String,
    },
}

/// A plan, and what became of it.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Planned {
    pub asks: Vec<Ask>,
    pub memory: Option<Saved>,
    pub metrics: Vec<Metric>,
    /// One for each ask; empty if nothing was to be applied.
    pub fates: Vec<Fate>,
}

/// What became of one ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Applied,
    /// Overtaken by events.
    Void,
    /// Not allowed, or not possible.
    Refused,
    /// Would have been applied if its phase were not in shadow mode.
    Shadow,
    /// A part was applied, the rest refused: `granted` peers were pinged, or entries forgotten.
    Partial {
        granted: u32,
    },
}

impl Came {
    /// What a run ended with; a plan's fates are not known yet.
    pub fn of(ended: &Ended) -> Self {
        match ended.plan() {
            Ok(Parts { asks, memory, log: _, metrics }) => Came::Planned(Planned {
                asks: asks.clone(),
                memory: memory.clone(),
                metrics: metrics.clone(),
                fates: Vec::new(),
            }),
            Err(RunFailure { kind, text }) => Came::Failed { how: kind, text: text.into_owned() },
        }
    }

    /// Whether another run did the same, bit for bit. Of traps and limits only the kind counts: their words name places
    /// in a module, which are the compiler's.
    pub fn is_same_as(&self, other: &Came) -> bool {
        match (self, other) {
            (Came::Planned(one), Came::Planned(two)) => {
                one.asks == two.asks && one.memory == two.memory && same_metrics(&one.metrics, &two.metrics)
            }
            (
                Came::Failed { how: FailureKind::Trapped, .. },
                Came::Failed { how: FailureKind::Trapped, .. },
            ) => true,
            (
                Came::Failed { how: FailureKind::Cut(one), .. },
                Came::Failed { how: FailureKind::Cut(two), .. },
            ) => one == two,
            (Came::Failed { how: one, text }, Came::Failed { how: two, text: other }) => {
                one == two && text == other
            }
            (Came::Planned(_), Came::Failed { .. }) | (Came::Failed { .. }, Came::Planned(_)) => false,
        }
    }
}

/// By bits, so that a gauge that is not a number equals itself.
fn same_metrics(one: &[Metric], two: &[Metric]) -> bool {
    let bits = |change: Change| match change {
        Change::Add(by) => (0, u64::from(by)),
        Change::Set(value) => (1, value.to_bits()),
    };
    one.len() == two.len()
        && one.iter().zip(two).all(|(one, two)| one.name == two.name && bits(one.change) == bits(two.change))
}

/// One beat, read back.
#[derive(Clone, Debug)]
pub struct RecordedBeat {
    /// Tells one process that recorded from another.
    pub session: u64,
    pub moment: Moment,
    /// What was frozen when it began.
    pub snapshot: Arc<RecordedSnapshot>,
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
    pub fn view_with(&self, changes: &Arc<Changes>, memory: Option<Saved>) -> Arc<dyn Frozen> {
        Arc::new(PhaseView::new(Arc::clone(&self.snapshot), Arc::clone(changes), memory))
    }

    /// The view that a recorded run had.
    pub fn view_of(&self, run: &RecordedRun) -> Arc<dyn Frozen> {
        self.view_with(&run.before, run.memory.clone())
    }

    /// A tick for a phase that did not run in this beat: its time, and `seed`.
    pub fn tick(&self, seed: [u32; 2]) -> Tick {
        Tick {
            number: self.moment.tick,
            since_last_s: None,
            missed: 0,
            late: self.moment.late,
            unix_s: self.moment.unix_s(),
            seed,
        }
    }
}
