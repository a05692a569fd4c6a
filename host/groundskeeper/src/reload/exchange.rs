//! What a scan and the cycle say to each other between two ticks: once at the beginning, and once if something changes.
//!
//! It takes two, not one: a trial needs the node as it is, and a generation is on the disk before it is put in.

use std::collections::BTreeMap;
use std::sync::mpsc::channel;

use crate::cycle::{Cycle, TrialContext};
use crate::data::Head;
use crate::registry::{Digest, Former, KeptPhase, LastRuns, PhaseSpec, RejectedPhase, Verdict};

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
    /// What it has kept, for a phase that does not run yet; else what the generation before had kept at the trial.
    pub kept: KeptPhase,
    /// The generation to go back to, for a phase that does not run yet.
    pub former: Option<Former<PhaseSpec>>,
    /// Of a new generation: its digest, and the head that was written down for it.
    pub written: Option<(Digest, Head)>,
    /// What the node shows if it cannot be put in.
    pub if_refused: RejectedPhase,
}

/// Changes of one scan, all between the same two ticks.
#[derive(Default)]
pub(super) struct Batch {
    pub puts: Vec<Put>,
    /// Phases that run and are taken out.
    pub removals: Vec<String>,
    /// What is wanted and does not run.
    pub rejected: Vec<RejectedPhase>,
    /// When phases ran in an earlier process, for a start.
    pub last_runs: LastRuns,
}

/// What became of a [`Batch`].
pub(super) struct BatchResult {
    /// Of probations that ended before the batch was applied.
    pub verdicts: Vec<SeenVerdict>,
    pub puts: Vec<Put>,
    /// Why phases could not be put in, by name.
    pub refused: BTreeMap<String, String>,
    /// Phases that were to be taken out, and what they kept.
    pub removed: Vec<(String, Option<KeptPhase>)>,
}

/// Fetches what a scan needs. None if there are no more ticks.
pub(super) fn observe(ticks: BetweenTicks<'_>, wants_context: bool) -> Option<Observed> {
    ask(ticks, move |cycle| Observed {
        verdicts: take_verdicts(cycle),
        context: wants_context.then(|| cycle.trial_context()),
    })
}

impl Batch {
    /// Whether a new generation of the phase `name` is on its way in.
    pub fn replaces(&self, name: &str) -> bool {
        self.puts.iter().any(|put| put.written.is_some() && put.if_refused.name == name)
    }

    /// Hands the changes over. None if there are no more ticks.
    pub fn hand_over(self, ticks: BetweenTicks<'_>) -> Option<BatchResult> {
        ask(ticks, move |cycle| self.apply(cycle))
    }

    fn apply(self, cycle: &mut Cycle) -> BatchResult {
        let Self { puts, removals, rejected, last_runs } = self;
        let verdicts = take_verdicts(cycle);
        let refused = put_all(cycle, &puts, &last_runs);
        let mut removed = Vec::new();
        for name in removals {
            let kept = cycle.take_out(&name);
            removed.push((name, kept));
        }
        // Phases that the application could not make have neither file nor digest; they are not ours.
        let is_foreign = |one: &&RejectedPhase| one.file.is_none() && one.digest.is_none();
        let mut all: Vec<RejectedPhase> = cycle.rejected().iter().filter(is_foreign).cloned().collect();
        all.extend(rejected.into_iter().filter(|one| !refused.contains_key(&one.name)));
        for Put { if_refused, .. } in &puts {
            if let Some(why) = refused.get(&if_refused.name) {
                all.push(RejectedPhase { problem: why.clone(), ..if_refused.clone() });
            }
        }
        cycle.set_rejected(all);
        BatchResult { verdicts, puts, refused, removed }
    }
}

/// Puts phases in. Why the others cannot be registered, by name.
fn put_all(cycle: &mut Cycle, puts: &[Put], last_runs: &LastRuns) -> BTreeMap<String, String> {
    // One may wait for another of the same batch: as long as one gets in, the others are tried again.
    let mut waiting: Vec<&Put> = puts.iter().collect();
    loop {
        let before = waiting.len();
        let mut refused = BTreeMap::new();
        waiting.retain(|put| {
            let name = &put.if_refused.name;
            let Put { spec, kept, former, .. } = put;
            if let Err(why) = cycle.put(spec.clone(), kept.clone(), last_runs.clone(), former.clone()) {
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
