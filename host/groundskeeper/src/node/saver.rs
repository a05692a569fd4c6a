//! State that outlives the process: read at the start, written after ticks that changed it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::NodeState;
use super::maintenance::Options;
use crate::cycle::{BeatReport, Cycle, KeptLimits};
use crate::data::{DataError, DataFolder};
use crate::disk::{StateValue, StateWriter};
use crate::engine::policy::Trust;
use crate::registry::{KeptPhase, PhaseSpec, RejectedPhase};
use crate::reload::StartFrom;
use crate::ticker::AfterTick;

/// The last run of a phase with a longer period is saved at once: losing it to a crash would cost a whole period.
const PERIOD_WORTH_SAVING: Duration = Duration::from_secs(300);

/// At most this often, or once a tick if ticks are rarer, the schedule and what guests have used are saved although no
/// rare phase ran. A crash may make an age wrong by this much.
const SAVE_EVERY: Duration = Duration::from_secs(10);

/// A start counts as good once it reaches this tick.
const FAR: u32 = 2;

/// Loads the addresses that an earlier process knew, and its bans, into `state`. Before the first connection is accepted.
pub(super) fn restore_book(folder: &DataFolder, state: &NodeState) -> Result<(), DataError> {
    state.book.restore(folder.load_book()?.logged(None));
    folder.load_limits()?.logged(None).ban_again(&state.pool);
    Ok(())
}

/// Loads what an earlier process left of `phases` into `options`, and has it saved from now on. Returns what a start takes.
pub(super) fn restore_phases(
    folder: &Arc<DataFolder>,
    writer: &Arc<StateWriter>,
    phases: &mut Vec<PhaseSpec>,
    options: &mut Options,
) -> Result<StartFrom, DataError> {
    options.last_runs = folder.load_schedule()?.logged(None);
    options.used_ceilings = folder.load_limits()?.logged(None).used;
    options.kept = kept(folder, phases, &mut options.rejected)?;
    let (mut save, mut own) = (saver(Arc::clone(writer)), options.after_tick.take());
    options.after_tick = Some(Box::new(move |cycle, report| {
        save(cycle, report);
        own.iter_mut().for_each(|own| own(cycle, report));
    }));
    let earlier = folder.note_start();
    let from = StartFrom::after(earlier);
    if from != StartFrom::Folder {
        let runs = if from == StartFrom::Former { "former generations" } else { "built-in phases only" };
        tracing::error!(starts = earlier, runs, "the last starts did not reach their second tick");
    }
    Ok(from)
}

/// Has everything that changed written, after maintenance has stopped at `tick`, and waits for it at most `deadline`.
///
/// # Errors
/// What could not be written, or not in time.
pub(super) fn save_all(
    writer: Arc<StateWriter>,
    state: &NodeState,
    cycle: Option<&Cycle>,
    tick: u32,
    deadline: Duration,
) -> impl Future<Output = Result<(), String>> + Send + use<> {
    if let Some(cycle) = cycle {
        for (name, kept, _) in cycle.kept().filter(|(_, _, changes)| *changes > 0) {
            writer.put(StateValue::Phase(Arc::clone(name), kept.clone()), cycle.beats());
        }
        writer.put(StateValue::Schedule(cycle.last_runs(tick)), cycle.beats());
        writer.put(StateValue::Limits(cycle.kept_limits()), cycle.beats());
    }
    writer.put(StateValue::Book(state.book.entries()), u64::MAX);
    // The wait has a deadline, so the runtime may wait for this thread.
    let finishing = tokio::task::spawn_blocking(move || writer.finish(deadline));
    async { finishing.await.map_err(|error| error.to_string())? }
}

/// What each phase has kept. A guest with an unusable file is rejected: it would start from nothing, and overwrite what a
/// newer version of this program left.
fn kept(
    folder: &DataFolder,
    phases: &mut Vec<PhaseSpec>,
    rejected: &mut Vec<RejectedPhase>,
) -> Result<BTreeMap<String, KeptPhase>, DataError> {
    let mut kept = BTreeMap::new();
    let mut refused = Vec::new();
    for (at, phase) in phases.iter().enumerate() {
        match folder.load_phase(&phase.name) {
            Ok(loaded) => _ = kept.insert(phase.name.clone(), loaded.logged(Some(&phase.name))),
            Err(error) if phase.policy.trust == Trust::Guest => refused.push((at, error)),
            Err(error) => return Err(error),
        }
    }
    for (at, error) in refused.into_iter().rev() {
        let PhaseSpec { name, kind, .. } = phases.remove(at);
        let problem = error.to_string();
        rejected.push(RejectedPhase { name, kind: kind.into(), problem, ..RejectedPhase::default() });
    }
    Ok(kept)
}

/// Hands over the state that a crash must not lose, after ticks in which it changed. Never waits for the disk.
fn saver(writer: Arc<StateWriter>) -> AfterTick {
    let mut saved_changes = 0;
    let mut schedule_saved_at: Option<Duration> = None;
    let mut saved_limits = KeptLimits::default();
    let mut came_far = false;
    let mut saved_phases: HashMap<Arc<str>, u64> = HashMap::new();
    Box::new(move |cycle: &Cycle, report: &BeatReport| {
        let order = cycle.beats();
        let book = &cycle.world().state.book;
        let changes = book.changes();
        if changes != saved_changes {
            writer.put(StateValue::Book(book.entries()), order);
            saved_changes = changes;
        }
        for (name, kept, changes) in cycle.kept() {
            if changes != saved_phases.get(name).copied().unwrap_or(0) {
                writer.put(StateValue::Phase(Arc::clone(name), kept.clone()), order);
                saved_phases.insert(Arc::clone(name), changes);
            }
        }
        // At or after it: a slow start skips ticks.
        if !came_far && report.tick >= FAR {
            writer.put(StateValue::Starts(0), order);
            came_far = true;
        }
        saved_phases.retain(|name, _| cycle.kept().any(|(known, ..)| known == name));
        writer.forget_phases(|name| saved_phases.contains_key(name));
        let now = cycle.world().state.clock.mono();
        let is_old = schedule_saved_at.is_none_or(|at| now.saturating_sub(at) >= SAVE_EVERY);
        if is_old || cycle.ran_rare(report, PERIOD_WORTH_SAVING) {
            writer.put(StateValue::Schedule(cycle.last_runs(report.tick)), order);
            schedule_saved_at = Some(now);
        }
        let limits = cycle.kept_limits();
        if limits.differs(&saved_limits) || (is_old && !limits.is_empty()) {
            writer.put(StateValue::Limits(limits.clone()), order);
            saved_limits = limits;
        }
    })
}
