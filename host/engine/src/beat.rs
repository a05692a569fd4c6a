//! The data of one beat (tables, runs, outcomes) and the trait that records it. Does no I/O.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::PeerLabel;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::{Ask, BroadcastTotals, Metric, MetricChange, Parts, Saved};
use groundskeeper_sdk::phase::Tick;

use crate::{Changes, FailureKind, NameOf, PhaseProgram, RunFailure, RunOutcome};

/// All columns of the tables that one beat runs on. Never changes after it is created.
pub trait Recordable: Send + Sync {
    /// A column of the peers, for all rows.
    fn peers(&self, column: PeerColumn) -> &[u32];
    /// A column of the address book, for all rows.
    fn book(&self, column: AddressColumn) -> &[u32];
    fn addresses(&self) -> &[SocketAddr];
    /// The peer in a row of the peers. Called while the beat is running; none if the connection has ended.
    fn naming(&self, row: usize) -> Option<PeerLabel>;
}

/// Records beats while they run. The beat calls it in this order: `begin`; for each run `phase`, `ran` and, if there
/// was a plan to apply, `applied`; then `end`.
pub trait BeatRecorder: Send {
    /// Begins a beat that will run at least one phase. Returns the current names of its connections, for the views of
    /// its phases. None if this beat is not recorded; the other methods are then not called for it.
    fn begin(&mut self, snapshot: Arc<dyn Recordable>, moment: BeatHeader) -> Option<Arc<NameOf>>;

    /// Returns what is known about the phase `name`, which is at `place` in the order and runs `body`. Calls `describe`
    /// only if the recorder does not know this phase yet.
    fn phase(
        &mut self,
        name: &str,
        place: u32,
        body: &Arc<dyn PhaseProgram>,
        describe: &dyn Fn() -> RunInfo,
    ) -> Arc<RunInfo>;

    /// Records a run that has ended.
    fn ran(&mut self, run: RecordedRun);

    /// Records the outcome of each ask of the last run.
    fn applied(&mut self, ask_outcomes: Vec<AskOutcome>);

    /// Ends the beat. `after` holds all changes by its plans.
    fn end(&mut self, after: Arc<Changes>);

    fn counts(&self) -> RecordCounts;
}

/// What a recorder has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordCounts {
    pub beats: u64,
    pub left_out: u64,
    pub bytes: u64,
    /// A write failed, and recording has ended.
    pub stopped: bool,
}

/// The time of a beat, and the node's numbers that are not in its tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BeatHeader {
    pub tick: u32,
    /// 0 for the tick itself, else the number of the urgent beat after that tick.
    pub urgent: u32,
    pub late: bool,
    /// Ticks that were skipped since the last one.
    pub skipped: u32,
    pub slept_ms: u64,
    pub lateness_ms: u64,
    /// Monotonic time since the node's clock was created.
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

impl BeatHeader {
    pub fn unix_s(&self) -> u32 {
        u32::try_from(self.unix_ms / 1000).unwrap_or(u32::MAX)
    }

    /// `tick 7`, or `tick 7 urgent 2`.
    pub fn called(&self) -> String {
        called(self.tick, self.urgent)
    }
}

/// The name of a beat in messages.
pub fn called(tick: u32, urgent: u32) -> String {
    if urgent == 0 { format!("tick {tick}") } else { format!("tick {tick} urgent {urgent}") }
}

/// A phase as it ran: everything needed to run it again.
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
    /// The tick that the phase got.
    pub tick: Tick,
    pub memory: Option<Saved>,
    /// What earlier plans of the beat had changed when it ran.
    pub before: Arc<Changes>,
    pub took_us: u64,
    pub fuel: Option<u64>,
    pub outcome: RecordedOutcome,
}

/// The outcome of a run.
#[derive(Clone, PartialEq, Debug)]
pub enum RecordedOutcome {
    Planned(AppliedPlan),
    /// The run produced no plan.
    Failed {
        how: FailureKind,
        text: String,
    },
}

/// A plan and the outcome of its asks.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct AppliedPlan {
    pub asks: Vec<Ask>,
    pub memory: Option<Saved>,
    pub metrics: Vec<Metric>,
    /// One for each ask; empty if the plan was not applied.
    pub ask_outcomes: Vec<AskOutcome>,
}

/// The outcome of one ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AskOutcome {
    Applied,
    /// Not needed or not possible any longer, because the node changed after the snapshot.
    Void,
    /// Not allowed, or not possible.
    Refused,
    /// Not applied because the phase is in shadow mode.
    Shadow,
    /// Applied in part: `granted` peers were pinged, or entries forgotten. The rest was refused.
    Partial {
        granted: u32,
    },
}

impl RecordedOutcome {
    /// The outcome of a run. The outcomes of a plan's asks are not known yet.
    pub fn of(ended: &RunOutcome) -> Self {
        match ended.plan() {
            Ok(Parts { asks, memory, log: _, metrics }) => RecordedOutcome::Planned(AppliedPlan {
                asks: asks.clone(),
                memory: memory.clone(),
                metrics: metrics.clone(),
                ask_outcomes: Vec::new(),
            }),
            Err(RunFailure { kind, text }) => RecordedOutcome::Failed { how: kind, text: text.into_owned() },
        }
    }

    /// Whether another run had the same outcome, bit for bit. Of traps and limits only the kind is compared: their
    /// texts name places in compiled code, which depend on the compiler.
    pub fn is_same_as(&self, other: &RecordedOutcome) -> bool {
        match (self, other) {
            (RecordedOutcome::Planned(one), RecordedOutcome::Planned(two)) => {
                one.asks == two.asks && one.memory == two.memory && same_metrics(&one.metrics, &two.metrics)
            }
            (
                RecordedOutcome::Failed { how: one, text },
                RecordedOutcome::Failed { how: two, text: other },
            ) => {
                let is_told_by_kind =
                    matches!(one, FailureKind::Trapped | FailureKind::Cut(_) | FailureKind::Shortage);
                one == two && (is_told_by_kind || text == other)
            }
            (RecordedOutcome::Planned(_), RecordedOutcome::Failed { .. })
            | (RecordedOutcome::Failed { .. }, RecordedOutcome::Planned(_)) => false,
        }
    }
}

/// Compares gauges by their bits, so that NaN equals itself.
fn same_metrics(one: &[Metric], two: &[Metric]) -> bool {
    let bits = |change: MetricChange| match change {
        MetricChange::Add(by) => (0, u64::from(by)),
        MetricChange::Set(value) => (1, value.to_bits()),
    };
    one.len() == two.len()
        && one.iter().zip(two).all(|(one, two)| one.name == two.name && bits(one.change) == bits(two.change))
}
