//! State that outlives the process: read at the start, written after ticks that changed it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::NodeState;
use super::maintenance::Options;
use crate::cycle::{BeatReport, Cycle, KeptLimits};
use crate::data::{DataError, DataFolder};
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

/// Loads what an earlier process left of `phases` into `options`, and saves it from now on. Returns what a start takes.
pub(super) fn restore_phases(
    folder: &Arc<DataFolder>,
    phases: &mut Vec<PhaseSpec>,
    options: &mut Options,
) -> Result<StartFrom, DataError> {
    options.last_runs = folder.load_schedule()?.logged(None);
    options.used_ceilings = folder.load_limits()?.logged(None).used;
    options.kept = kept(folder, phases, &mut options.rejected)?;
    let (mut save, mut own) = (saver(Arc::clone(folder)), options.after_tick.take());
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

/// Writes everything that changed, off the async threads, after maintenance has stopped at `tick`.
///
/// # Errors
/// What could not be written.
pub(super) fn save_all(
    folder: Arc<DataFolder>,
    state: &NodeState,
    cycle: Option<&Cycle>,
    tick: u32,
) -> impl Future<Output = Result<(), String>> + Send + use<> {
    let changed = cycle.into_iter().flat_map(Cycle::kept).filter(|(_, _, changes)| *changes > 0);
    let kept: Vec<_> = changed.map(|(name, kept, _)| (Arc::clone(name), kept.clone())).collect();
    let last_runs = cycle.map(|cycle| cycle.last_runs(tick));
    let limits = cycle.map(Cycle::kept_limits);
    let entries = state.book.entries();
    let saving = tokio::task::spawn_blocking(move || {
        let book = folder.save_book(&entries);
        let schedule = last_runs.map_or(Ok(()), |last_runs| folder.save_schedule(&last_runs));
        let limits = limits.map_or(Ok(()), |limits| folder.save_limits(&limits));
        let phases = kept.iter().try_for_each(|(name, kept)| folder.save_phase(name, kept));
        book.and(schedule).and(limits).and(phases)
    });
    async { saving.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string()) }
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

/// Writes the state that a crash must not lose, after ticks in which it changed.
fn saver(folder: Arc<DataFolder>) -> AfterTick {
    let mut saved_changes = 0;
    let mut schedule_saved_at: Option<Duration> = None;
    let mut saved_limits = KeptLimits::default();
    let mut came_far = false;
    let mut saved_phases: HashMap<Arc<str>, u64> = HashMap::new();
    Box::new(move |cycle: &Cycle, report: &BeatReport| {
        let book = &cycle.world().state.book;
        let changes = book.changes();
        if changes != saved_changes {
            match folder.save_book(&book.entries()) {
                Ok(()) => saved_changes = changes,
                Err(error) => tracing::error!(%error, "cannot save the address book; it is kept in memory"),
            }
        }
        for (name, kept, changes) in cycle.kept() {
            if changes == saved_phases.get(name).copied().unwrap_or(0) {
                continue;
            }
            match folder.save_phase(name, kept) {
                Ok(()) => _ = saved_phases.insert(Arc::clone(name), changes),
                Err(error) => tracing::error!(%error, phase = &**name, "cannot save what it remembers"),
            }
        }
        // At or after it: a slow start skips ticks.
        if !came_far && report.tick >= FAR {
            folder.note_far();
            came_far = true;
        }
        saved_phases.retain(|name, _| cycle.snapshot(name).is_some());
        let now = cycle.world().state.clock.mono();
        let is_old = schedule_saved_at.is_none_or(|at| now.saturating_sub(at) >= SAVE_EVERY);
        if is_old || cycle.ran_rare(report, PERIOD_WORTH_SAVING) {
            match folder.save_schedule(&cycle.last_runs(report.tick)) {
                Ok(()) => schedule_saved_at = Some(now),
                Err(error) => tracing::error!(%error, "cannot save when phases ran"),
            }
        }
        let limits = cycle.kept_limits();
        if limits.differs(&saved_limits) || (is_old && !limits.is_empty()) {
            match folder.save_limits(&limits) {
                Ok(()) => saved_limits = limits,
                Err(error) => tracing::error!(%error, "cannot save bans and what guests have used"),
            }
        }
    })
}
