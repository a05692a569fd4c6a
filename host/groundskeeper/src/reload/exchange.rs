//! The exchange between a scan and the cycle between two ticks: once at the start, and once more if something changes.
//!
//! It takes two steps: a trial needs the node's current state, and a generation must be on disk before it is put in.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use crate::cycle::{Cycle, TrialContext};
use crate::data::GenerationRecord;
use crate::registry::{
    Digest, Judgement, KeptPhase, LastRuns, PhaseSpec, ProbationVerdict, RejectedPhase, Standing,
};

/// A function to run between two ticks.
#[doc(hidden)]
pub type CycleChange = Box<dyn FnOnce(&mut Cycle) + Send>;

/// Runs a function between two ticks, and returns when it is done. False if there are no more ticks.
#[doc(hidden)]
pub type BetweenTicks<'a> = &'a mut dyn FnMut(CycleChange) -> bool;

/// The result of a probation, and what the phase has kept since.
pub(super) struct SeenVerdict {
    pub verdict: ProbationVerdict,
    pub kept: Option<KeptPhase>,
    /// Beats before this was seen: what a later beat kept is newer.
    pub beats: u64,
}

/// What a scan needs from the cycle.
pub(super) struct CycleObservation {
    pub verdicts: Vec<SeenVerdict>,
    /// Present if the scan asked for it.
    pub context: Option<TrialContext>,
}

/// A phase to be put in.
pub(super) struct Replacement {
    pub spec: PhaseSpec,
    /// What a phase that does not run yet has kept. Otherwise what the running generation had kept at the trial.
    pub kept: KeptPhase,
    /// Whether a phase that does not run yet is on probation.
    pub standing: Standing,
    /// For a new generation: its digest, and the record that was written for it.
    pub written: Option<(Digest, GenerationRecord)>,
    /// What the node shows if the phase cannot be put in.
    pub if_refused: RejectedPhase,
}

/// The changes of one scan, all between the same two ticks.
#[derive(Default)]
pub(super) struct Batch {
    pub puts: Vec<Replacement>,
    /// Running phases to be taken out.
    pub removals: Vec<String>,
    /// Phases that are wanted but do not run.
    pub rejected: Vec<RejectedPhase>,
    /// When phases ran in an earlier process, for a start.
    pub last_runs: LastRuns,
}

/// The outcome of a [`Batch`].
pub(super) struct BatchResult {
    /// Results of probations that ended before the batch was applied.
    pub verdicts: Vec<SeenVerdict>,
    pub puts: Vec<Replacement>,
    /// Why phases could not be put in, by name.
    pub refused: BTreeMap<String, String>,
    /// Phases that were to be removed, and what they kept.
    pub removed: Vec<(String, Option<KeptPhase>)>,
}

/// Fetches what a scan needs. `None` if there are no more ticks.
pub(super) fn observe(ticks: BetweenTicks<'_>, wants_context: bool) -> Option<CycleObservation> {
    ask(ticks, move |cycle| CycleObservation {
        verdicts: take_verdicts(cycle),
        context: wants_context.then(|| cycle.trial_context()),
    })
}

impl Batch {
    /// Whether a new generation of the phase `name` is in the batch.
    pub fn replaces(&self, name: &str) -> bool {
        self.puts.iter().any(|put| put.written.is_some() && put.if_refused.name == name)
    }

    /// Applies the changes between two ticks. `None` if there are no more ticks.
    pub fn hand_over(self, ticks: BetweenTicks<'_>) -> Option<BatchResult> {
        ask(ticks, move |cycle| self.apply(cycle))
    }

    fn apply(self, cycle: &mut Cycle) -> BatchResult {
        let Self { mut puts, removals, rejected, last_runs } = self;
        let verdicts = take_verdicts(cycle);
        forget_taken_out(&mut puts, &verdicts);
        let refused = put_all(cycle, &puts, &last_runs);
        let mut removed = Vec::new();
        for name in removals {
            let kept = cycle.take_out(&name);
            removed.push((name, kept));
        }
        // Phases that the application could not make have neither file nor digest. They are not part of the folder.
        let is_foreign = |one: &&RejectedPhase| one.file.is_none() && one.digest.is_none();
        let mut all: Vec<RejectedPhase> = cycle.rejected().iter().filter(is_foreign).cloned().collect();
        all.extend(rejected.into_iter().filter(|one| !refused.contains_key(&one.name)));
        for Replacement { if_refused, .. } in &puts {
            if let Some(why) = refused.get(&if_refused.name) {
                all.push(RejectedPhase { problem: why.clone(), ..if_refused.clone() });
            }
        }
        cycle.set_rejected(all);
        BatchResult { verdicts, puts, refused, removed }
    }
}

/// A generation that failed on probation since the trial leaves nothing to the one that takes its place.
fn forget_taken_out(puts: &mut [Replacement], verdicts: &[SeenVerdict]) {
    for SeenVerdict { verdict: ProbationVerdict { phase, outcome, .. }, .. } in verdicts {
        let Judgement::TakenOut { kept, .. } = outcome else { continue };
        for put in puts.iter_mut().filter(|put| *put.spec.name == **phase) {
            put.kept = kept.clone();
        }
    }
}

/// Puts phases in. Returns why the others cannot be registered, by name.
fn put_all(cycle: &mut Cycle, puts: &[Replacement], last_runs: &LastRuns) -> BTreeMap<String, String> {
    // One phase may wait for another of the same batch: while any gets in, the others are tried again.
    let mut waiting: Vec<&Replacement> = puts.iter().collect();
    loop {
        let before = waiting.len();
        let mut refused = BTreeMap::new();
        waiting.retain(|put| {
            let name = &put.if_refused.name;
            let Replacement { spec, kept, standing, .. } = put;
            if let Err(why) = cycle.put(spec.clone(), kept.clone(), last_runs.clone(), standing.clone()) {
                refused.insert(name.clone(), why);
            }
            refused.contains_key(name)
        });
        if refused.is_empty() || refused.len() == before {
            return refused;
        }
    }
}

fn take_verdicts(cycle: &mut Cycle) -> Vec<SeenVerdict> {
    // A restored generation may have run since, and has then saved newer memory than the verdict holds.
    let verdicts = cycle.take_verdicts().into_iter();
    verdicts
        .map(|verdict| {
            let kept = cycle.snapshot(&verdict.phase);
            SeenVerdict { verdict, kept, beats: cycle.beats() }
        })
        .collect()
}

/// [`BetweenTicks`] with an answer.
fn ask<R: Send + 'static>(
    ticks: BetweenTicks<'_>,
    change: impl FnOnce(&mut Cycle) -> R + Send + 'static,
) -> Option<R> {
    let (result_tx, result_rx) = channel();
    // The receiver is below; it only fails if this thread is gone.
    let is_done = ticks(Box::new(move |cycle| _ = result_tx.send(change(cycle))));
    if is_done { result_rx.recv().ok() } else { None }
}
