//! What a scan and the cycle say to each other between two ticks: once at the beginning, and once if something changes.
//!
//! It takes two, not one: a trial needs the node as it is, and a generation is on the disk before it is put in.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use crate::cycle::{Cycle, TrialContext};
use crate::registry::{Former, KeptPhase, LastRuns, PhaseSpec, RejectedPhase, Verdict};

/// What is done between two ticks.
#[doc(hidden)]
pub type CycleChange = Box<dyn FnOnce(&mut Cycle) + Send>;

/// Has something done between two ticks, and returns when it is done. False if there are no more ticks.
#[doc(hidden)]
pub type BetweenTicks<'a> = &'a mut dyn FnMut(CycleChange) -> bool;

/// How a probation ended, and what the phase has kept since.
pub(super) type SeenVerdict = (Verdict, Option<KeptPhase>);

/// What a scan needs of the cycle.
pub(super) struct Observed {
    pub verdicts: Vec<SeenVerdict>,
    /// If it was asked for.
    pub context: Option<TrialContext>,
}

/// A phase on its way in.
pub(super) struct Put {
    pub spec: PhaseSpec,
    /// What it has kept, for a phase that does not run yet.
    pub kept: KeptPhase,
    /// The generation to go back to, for a phase that does not run yet.
    pub former: Option<Former<PhaseSpec>>,
    pub last_runs: LastRuns,
    /// What the node shows if it cannot be put in.
    pub if_refused: RejectedPhase,
}

/// Changes of one scan, all between the same two ticks.
#[derive(Default)]
pub(super) struct Batch {
    pub puts: Vec<Put>,
    pub removals: Vec<String>,
    /// What is wanted and does not run.
    pub rejected: Vec<RejectedPhase>,
}

/// What became of a [`Batch`].
pub(super) struct BatchResult {
    /// Of probations that ended before the batch was applied.
    pub verdicts: Vec<SeenVerdict>,
    /// Why phases could not be put in, by name.
    pub refused: BTreeMap<String, String>,
    /// What phases kept that were taken out, by name.
    pub removed: BTreeMap<String, KeptPhase>,
}

/// Fetches what a scan needs. None if there are no more ticks.
pub(super) fn observe(ticks: BetweenTicks<'_>, wants_context: bool) -> Option<Observed> {
    ask(ticks, move |cycle| Observed {
        verdicts: take_verdicts(cycle),
        context: wants_context.then(|| cycle.trial_context()),
    })
}

impl Batch {
    /// Hands the changes over. None if there are no more ticks.
    pub fn hand_over(self, ticks: BetweenTicks<'_>) -> Option<BatchResult> {
        ask(ticks, move |cycle| self.apply(cycle))
    }

    fn apply(self, cycle: &mut Cycle) -> BatchResult {
        let verdicts = take_verdicts(cycle);
        let mut rejected = self.rejected;
        let mut refused = BTreeMap::new();
        for (put, why) in put_all(cycle, self.puts) {
            let name = put.if_refused.name.clone();
            rejected.retain(|one| one.name != name);
            rejected.push(RejectedPhase { problem: why.clone(), ..put.if_refused });
            refused.insert(name, why);
        }
        let mut removed = BTreeMap::new();
        for name in self.removals {
            if let Some(kept) = cycle.take_out(&name) {
                removed.insert(name, kept);
            }
        }
        // Phases that the application could not make have neither file nor digest; they are not ours.
        let is_foreign = |one: &&RejectedPhase| one.file.is_none() && one.digest.is_none();
        let mut all: Vec<RejectedPhase> = cycle.rejected().iter().filter(is_foreign).cloned().collect();
        all.extend(rejected);
        cycle.set_rejected(all);
        BatchResult { verdicts, refused, removed }
    }
}

/// Puts phases in, and returns those that cannot be registered, with the reason.
fn put_all(cycle: &mut Cycle, mut puts: Vec<Put>) -> Vec<(Put, String)> {
    // One may wait for another of the same batch: as long as one gets in, the others are tried again.
    loop {
        let before = puts.len();
        let mut refused = Vec::new();
        for put in puts {
            match cycle.put(put.spec.clone(), put.kept.clone(), put.last_runs.clone()) {
                Ok(()) => {
                    if let Some(former) = put.former {
                        cycle.resume_probation(&put.spec.name, former);
                    }
                }
                Err(why) => refused.push((put, why)),
            }
        }
        if refused.is_empty() || refused.len() == before {
            return refused;
        }
        puts = refused.into_iter().map(|(put, _)| put).collect();
    }
}

fn take_verdicts(cycle: &mut Cycle) -> Vec<SeenVerdict> {
    // A generation that is back may have run since, and what it stored then is on the disk already.
    let verdicts = cycle.take_verdicts().into_iter();
    verdicts.map(|verdict| (verdict.clone(), cycle.snapshot(&verdict.phase))).collect()
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
