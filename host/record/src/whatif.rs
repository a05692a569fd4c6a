//! Runs another phase on a recording, and compares what it asks for with what happened. Its asks have no effect on
//! later beats: these stay as they were recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use groundskeeper_engine::beat::{AppliedPlan, AskOutcome, BeatHeader, RecordedOutcome, RecordedRun};
use groundskeeper_engine::schedule::{Schedule, WakeOn};
use groundskeeper_engine::{Changes, MEMORY_BYTES, PhaseCall, PhaseProgram, Timing};
use groundskeeper_sdk::contract::{KINDS, Kind};
use groundskeeper_sdk::host::{Ask, Frozen, Saved, Table};
use groundskeeper_sdk::phase::Tick;
use groundskeeper_sdk::query;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::beat::RecordedBeat;
use super::file::Recording;
use super::replay::RecordingExtent;

/// A phase to try on a recording.
pub struct WhatIfPhase {
    /// With the name of a recorded phase, it runs in the place of that phase.
    pub name: String,
    /// The program that runs on the recorded views.
    pub body: Arc<dyn PhaseProgram>,
    /// Decides in which recorded beats it is due.
    pub schedule: Schedule,
}

/// What the candidate would have done.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct WhatIfReport {
    /// The beats that were read, and what could not be read.
    pub extent: RecordingExtent,
    /// Name of the candidate.
    pub phase: String,
    /// Whether a recorded phase has its name. It then runs at the place of that phase, and with its seed.
    pub in_place_of_its_namesake: bool,
    /// Beats in which the candidate was due and ran.
    pub runs: u64,
    /// Of these, runs that returned no plan.
    pub failed: u64,
    /// None if every run returned a plan.
    pub first_failure: Option<FailedRun>,
    /// One for each kind of action that the candidate or a recorded phase asked for.
    pub actions: Vec<ActionCount>,
    /// Connections that the candidate would have ended, the most often requested first.
    pub would_drop: Vec<DroppedConnection>,
    /// Connections that recorded phases ended, in order.
    pub did_drop: Vec<DroppedConnection>,
    /// Compares `would_drop` with `did_drop`.
    pub agreement: Agreement,
}

/// A run without a plan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct FailedRun {
    /// Tick of its beat.
    pub tick: u32,
    /// The kind of failure in one word, as in reports and metrics.
    pub how: &'static str,
    /// The error text from the phase or the engine.
    pub text: String,
}

/// How often one action was asked for. A ping counts once per peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct ActionCount {
    /// Name of the action, as in the contract.
    pub action: &'static str,
    /// Asks of the candidate.
    pub would_ask: u64,
    /// Asks of all recorded phases.
    pub did_ask: u64,
    /// The part of `did_ask` that the host applied.
    pub did_apply: u64,
}

/// A connection that was dropped, or would have been.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct DroppedConnection {
    /// Number of the connection.
    pub conn: u32,
    /// Id of the peer; empty if it was not recorded.
    pub id: String,
    /// Address of the peer; empty if it was not recorded.
    pub address: String,
    /// Runs that asked for it.
    pub times: u32,
    /// Tick of the first run that asked for it.
    pub first_tick: u32,
    /// Wall time of that run, in seconds since 1970.
    pub first_unix_s: u32,
    /// The first phase that asked for it.
    pub by: String,
    /// Name of the action that the first ask was for.
    pub action: &'static str,
    /// The reason in the first ask.
    pub reason: String,
    /// Tick at which recorded phases dropped it too. None if they did not.
    pub dropped_at_tick: Option<u32>,
    /// Seconds from the candidate's first ask to that drop; 0 if the drop came first.
    pub dropped_after_s: Option<u32>,
}

/// How many of the candidate's drops the recorded phases made too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Agreement {
    /// The limit for `soon`, in ticks.
    pub within_ticks: u32,
    /// Recorded phases dropped them at most `within_ticks` ticks later, or earlier.
    pub soon: u64,
    /// Recorded phases dropped them after more than `within_ticks` ticks.
    pub later: u64,
    /// Recorded phases did not drop them.
    pub never: u64,
}

/// A connection: the session of its process, and its number.
type RecordedConn = (u64, u32);

/// Runs `candidate` on each recorded beat in which it would have been due, with separate memory. A drop counts as
/// `soon` if the recorded phases made it too, at most `within_ticks` ticks later.
pub fn what_if(recording: &Recording, candidate: &WhatIfPhase, within_ticks: u32) -> WhatIfReport {
    let mut trial = PhaseTrial::new(candidate);
    let extent = RecordingExtent::walk(recording, |beat| {
        trial.run_if_due(candidate, beat);
        trial.note_recorded(beat);
    });
    trial.report(extent, within_ticks)
}

#[derive(Default)]
struct PhaseTrial {
    /// Holds every kind of action, at its number.
    report: WhatIfReport,
    /// None before the first beat.
    timing: Option<Timing>,
    session: Option<u64>,
    last_run_unix: Option<u32>,
    last_accepted: Option<BeatHeader>,
    memory: Option<Saved>,
    /// Place of the recorded phase with its name.
    place: Option<u32>,
    would_drop: BTreeMap<RecordedConn, DroppedConnection>,
    did_drop: BTreeMap<RecordedConn, DroppedConnection>,
    order: Vec<RecordedConn>,
}

impl PhaseTrial {
    fn new(candidate: &WhatIfPhase) -> Self {
        let action = |kind: &Kind| ActionCount { action: kind.name, would_ask: 0, did_ask: 0, did_apply: 0 };
        let actions = KINDS.iter().map(action).collect();
        let report = WhatIfReport { phase: candidate.name.clone(), actions, ..WhatIfReport::default() };
        Self { report, ..Self::default() }
    }

    /// When the candidate ran last, in ticks of the beat's process.
    fn timing(&mut self, candidate: &WhatIfPhase, beat: &RecordedBeat) -> Timing {
        let BeatHeader { tick, interval_ms, .. } = beat.moment;
        let is_new = self.session.replace(beat.session) != Some(beat.session);
        let timing = match (self.timing, self.last_run_unix) {
            (Some(timing), _) if !is_new => timing,
            // Ticks restart with the process, time does not.
            (Some(_), Some(unix)) => {
                let ago_ms = u64::from(beat.moment.unix_s().saturating_sub(unix)) * 1000;
                Timing {
                    last_run: i64::from(tick) - (ago_ms / interval_ms.max(1)) as i64,
                    again_at: None,
                    not_due_at: None,
                }
            }
            // As if the process had started at the tick before.
            _ => {
                let timing = Timing::never(&candidate.schedule, 0);
                Timing { last_run: timing.last_run + i64::from(tick) - 1, ..timing }
            }
        };
        self.timing = Some(timing);
        timing
    }

    fn run_if_due(&mut self, candidate: &WhatIfPhase, beat: &RecordedBeat) {
        let BeatHeader { tick, urgent, late, .. } = beat.moment;
        let mut timing = self.timing(candidate, beat);
        let namesake = beat.runs.iter().find(|run| run.phase.name == candidate.name);
        self.place = namesake.map(|run| run.phase.place).or(self.place);
        let changes = self.changes(beat);
        let view = beat.view_with(changes, self.memory.clone());
        let connected = view.rows(Table::Peers);
        let every = candidate.schedule.cadence.every_n_ticks(connected);
        let due = if urgent > 0 {
            candidate.schedule.wake_on.contains(&WakeOn::Isolated) && connected == 0
        } else {
            timing.is_due(tick, every)
        };
        if !due {
            if urgent == 0 {
                self.timing = Some(Timing { not_due_at: Some(tick), ..timing });
            }
            return;
        }
        let ran_before = self.last_run_unix.is_some();
        let job = PhaseCall {
            tick: Tick {
                since_last_s: self.last_accepted.as_ref().map(|last| seconds_between(last, beat)),
                missed: if urgent == 0 && ran_before { timing.missed(tick, every, 0) } else { 0 },
                late,
                ..beat.tick(namesake.map_or_else(|| seed(beat, &candidate.name), |run| run.tick.seed))
            },
            view: Arc::clone(&view),
        };
        self.report.runs += 1;
        let mut again_in = None;
        match RecordedOutcome::of(&candidate.body.run(&job).ended) {
            RecordedOutcome::Planned(AppliedPlan { asks, memory, .. }) => {
                self.last_accepted = Some(beat.moment);
                if let Some(memory) = memory.filter(|memory| memory.bytes.len() <= MEMORY_BYTES) {
                    self.memory = Some(memory);
                }
                for ask in &asks {
                    if let Ask::AgainIn { ticks } = ask {
                        again_in = Some(*ticks);
                    }
                    self.report.actions[ask.number()].would_ask += amount(ask, &*view);
                }
                let dropped = drops(&asks, &*view, beat, &candidate.name);
                for (conn, one) in dropped {
                    self.would_drop.entry(conn).and_modify(|known| known.times += 1).or_insert(one);
                }
            }
            RecordedOutcome::Failed { how, text } => {
                self.report.failed += 1;
                self.report.first_failure.get_or_insert_with(|| FailedRun { tick, how: how.as_str(), text });
            }
        }
        if urgent == 0 {
            timing.ran(tick, again_in);
            self.timing = Some(timing);
            self.last_run_unix = Some(beat.moment.unix_s());
        }
    }

    /// The changes before the candidate's place in the order; all changes if it has no place.
    fn changes<'b>(&self, beat: &'b RecordedBeat) -> &'b Arc<Changes> {
        let Some(place) = self.place else { return &beat.after };
        let behind = |run: &&RecordedRun| run.phase.place >= place;
        beat.runs.iter().find(behind).map_or(&beat.after, |run| &run.before)
    }

    fn note_recorded(&mut self, beat: &RecordedBeat) {
        for run in &beat.runs {
            let RecordedOutcome::Planned(AppliedPlan { asks, ask_outcomes: fates, .. }) = &run.outcome else {
                continue;
            };
            if asks.is_empty() {
                continue;
            }
            let view = beat.view_of(run);
            let mut applied = Vec::new();
            for (at, ask) in asks.iter().enumerate() {
                let amount = amount(ask, &*view);
                let action = &mut self.report.actions[ask.number()];
                action.did_ask += amount;
                match fates.get(at) {
                    Some(AskOutcome::Applied) => {
                        action.did_apply += amount;
                        applied.push(ask);
                    }
                    Some(AskOutcome::Partial { granted }) => {
                        action.did_apply += amount.min((*granted).into());
                    }
                    Some(AskOutcome::Void | AskOutcome::Refused | AskOutcome::Shadow) | None => {}
                }
            }
            for (conn, one) in drops(applied, &*view, beat, &run.phase.name) {
                self.did_drop.entry(conn).or_insert_with(|| {
                    self.order.push(conn);
                    one
                });
            }
        }
    }

    fn report(mut self, extent: RecordingExtent, within_ticks: u32) -> WhatIfReport {
        let mut agreement = Agreement { within_ticks, ..Agreement::default() };
        let mut would_drop: Vec<DroppedConnection> = Vec::with_capacity(self.would_drop.len());
        for (conn, mut one) in self.would_drop {
            match self.did_drop.get(&conn) {
                None => agreement.never += 1,
                Some(did) => {
                    one.dropped_at_tick = Some(did.first_tick);
                    one.dropped_after_s = Some(did.first_unix_s.saturating_sub(one.first_unix_s));
                    if did.first_tick <= one.first_tick.saturating_add(within_ticks) {
                        agreement.soon += 1;
                    } else {
                        agreement.later += 1;
                    }
                }
            }
            would_drop.push(one);
        }
        // Stable: among equal counts, the older connection comes first.
        would_drop.sort_by_key(|one| std::cmp::Reverse(one.times));
        self.report.actions.retain(|action| action.would_ask + action.did_ask > 0);
        WhatIfReport {
            extent,
            in_place_of_its_namesake: self.place.is_some(),
            would_drop,
            did_drop: self.order.iter().filter_map(|conn| self.did_drop.get(conn).cloned()).collect(),
            agreement,
            ..self.report
        }
    }
}

/// Counts as the host does: by monotonic time within a process, else by wall time.
fn seconds_between(last: &BeatHeader, beat: &RecordedBeat) -> u32 {
    let mono_ms = beat.moment.mono_ms.checked_sub(last.mono_ms);
    let seconds = mono_ms.map(|ms| ms / 1000);
    let seconds = seconds.unwrap_or_else(|| beat.moment.unix_s().saturating_sub(last.unix_s()).into());
    u32::try_from(seconds).unwrap_or(u32::MAX - 1)
}

/// The seed of a phase that was not recorded: the same each time and everywhere the recording is replayed.
fn seed(beat: &RecordedBeat, phase: &str) -> [u32; 2] {
    let mut hasher = Sha256::new();
    hasher.update(beat.session.to_le_bytes());
    hasher.update(beat.moment.tick.to_le_bytes());
    hasher.update(beat.moment.urgent.to_le_bytes());
    hasher.update(beat.moment.unix_ms.to_le_bytes());
    hasher.update(phase.as_bytes());
    let digest = hasher.finalize();
    let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|byte| digest[at + byte]));
    [half(0), half(4)]
}

/// How much an ask counts: a ping once per peer, everything else once.
fn amount(ask: &Ask, view: &dyn Frozen) -> u64 {
    match ask {
        Ask::Ping { peers } => peers.len() as u64,
        // A test on a column that was not recorded pings no peer.
        Ask::PingMatching { tests } => query::try_count(view, Table::Peers, tests).unwrap_or(0).into(),
        _ => 1,
    }
}

/// The connections that a plan ends, each once.
fn drops<'a>(
    asks: impl IntoIterator<Item = &'a Ask>,
    view: &dyn Frozen,
    beat: &RecordedBeat,
    by: &str,
) -> BTreeMap<RecordedConn, DroppedConnection> {
    let mut dropped = BTreeMap::new();
    for ask in asks {
        let (Ask::Disconnect { peer, reason }
        | Ask::DisconnectIfSilent { peer, reason }
        | Ask::Ban { peer, reason, .. }) = ask
        else {
            continue;
        };
        let conn = view.column(Table::Peers, "conn").and_then(|conns| conns.get(*peer as usize));
        let Some(&conn) = conn else { continue };
        dropped.entry((beat.session, conn)).or_insert_with(|| {
            let name = view.name(Table::Peers, *peer);
            DroppedConnection {
                conn,
                id: name.id,
                address: name.address,
                times: 1,
                first_tick: beat.moment.tick,
                first_unix_s: beat.moment.unix_s(),
                by: by.to_owned(),
                action: ask.kind(),
                reason: reason.clone(),
                dropped_at_tick: None,
                dropped_after_s: None,
            }
        });
    }
    dropped
}
