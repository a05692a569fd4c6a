//! What one beat froze and did, as data, and who takes it down while it runs. Reads and writes nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::Naming;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::{Ask, BroadcastTotals, Change, Metric, Parts, Saved};
use groundskeeper_sdk::phase::Tick;

use crate::{Body, Changes, Ended, FailureKind, NameOf, RunFailure};

/// What one beat froze, all columns of it. Does not change once made.
pub trait Recordable: Send + Sync {
    /// A column of the peers, for all rows.
    fn peers(&self, column: PeerColumn) -> &[u32];
    /// A column of the address book, for all rows.
    fn book(&self, column: AddressColumn) -> &[u32];
    fn addresses(&self) -> &[SocketAddr];
    /// Who a row of the peers is, asked while the beat is running; none once its connection has ended.
    fn naming(&self, row: usize) -> Option<Naming>;
}

/// Takes down beats while they run. The beat calls it in this order: `begin`, then for each run `phase`, `ran` and, if
/// there was a plan to apply, `applied`; then `end`.
pub trait BeatRecorder: Send {
    /// Begins a beat that is going to run a phase. Gives the names of its connections as they are now, for the views of
    /// its phases; none if this beat is not recorded, and then nothing of it follows.
    fn begin(&mut self, snapshot: Arc<dyn Recordable>, moment: Moment) -> Option<Arc<NameOf>>;

    /// What is known of the phase `name`, which is the `place`-th and made of `body`. Asks `describe` only if that is
    /// news.
    fn phase(
        &mut self,
        name: &str,
        place: u32,
        body: &Arc<dyn Body>,
        describe: &dyn Fn() -> RunInfo,
    ) -> Arc<RunInfo>;

    /// Notes a run that has ended.
    fn ran(&mut self, run: RecordedRun);

    /// Notes what became of the asks of the last run.
    fn applied(&mut self, fates: Vec<Fate>);

    /// Ends the beat. `after` is what all of its plans have changed.
    fn end(&mut self, after: Arc<Changes>);

    fn counts(&self) -> RecordCounts;
}

/// What a recorder has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordCounts {
    pub beats: u64,
    pub left_out: u64,
    pub bytes: u64,
    /// The disk refused a write, and nothing is recorded any more.
    pub stopped: bool,
}

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

/// How a beat is called in messages.
pub fn called(tick: u32, urgent: u32) -> String {
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
            (Came::Failed { how: one, text }, Came::Failed { how: two, text: other }) => {
                let is_told_by_kind = matches!(one, FailureKind::Trapped | FailureKind::Cut(_));
                one == two && (is_told_by_kind || text == other)
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
