//! Runs one phase, whatever it is made of, and brings back what it asked for or how it failed. Schedules nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::{AnyPhase, Frozen, Parts, Plan, Table, Unwound, View, guard};
use groundskeeper_sdk::phase::{Failure, Tick};

/// One call of a phase.
pub struct Job {
    pub phase: Arc<dyn AnyPhase>,
    pub tick: Tick,
    pub view: Arc<dyn Frozen>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// With a plan, not yet checked.
    Planned(Parts),
    /// By the phase's own word.
    Failed(Failure),
    /// It broke a rule of the contract.
    Rule(String),
    Panicked(String),
    /// It did not come back in time. Until it does, `inside` is true.
    Overran {
        limit: Duration,
        inside: Arc<AtomicBool>,
    },
}

/// One run and what it took.
#[derive(Debug)]
pub struct Run {
    pub ended: Ended,
    pub took: Duration,
}

/// Where phases run.
pub enum Fence {
    /// On the caller's thread: deterministic, for simulations and paused clocks. An endless loop is not cut.
    Inline,
    /// On a thread of its own, which is left behind and replaced when a phase does not come back.
    Thread(PhaseThread),
}

impl Fence {
    /// Calls the phase and waits for it, at most `limit` if it runs on a thread of its own.
    pub fn run(&mut self, job: Job, limit: Duration) -> Run {
        let begun = Instant::now();
        let ended = match self {
            Fence::Inline => call(&job),
            Fence::Thread(thread) => thread.run(job, limit),
        };
        Run { ended, took: begun.elapsed() }
    }
}

fn call(job: &Job) -> Ended {
    // The book is frozen only if the phase looks at it, so rows of it are checked when the plan is applied.
    let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
    let view = View::new(Arc::clone(&job.view));
    let ended = guard(|| job.phase.run(&job.tick, &view, &mut plan));
    match ended {
        Ok(Ok(())) => Ended::Planned(plan.into_parts()),
        Ok(Err(failure)) => Ended::Failed(failure),
        Err(Unwound::Rule(rule)) => Ended::Rule(rule.to_string()),
        Err(Unwound::Panic(text)) => Ended::Panicked(text),
    }
}

struct Call {
    job: Job,
    inside: Arc<AtomicBool>,
    done: std::sync::mpsc::SyncSender<Ended>,
}

/// A thread that runs phases one at a time.
pub struct PhaseThread {
    calls: Option<Sender<Call>>,
}

impl PhaseThread {
    pub fn new() -> Self {
        Self { calls: None }
    }

    fn start() -> std::io::Result<Sender<Call>> {
        let (calls, waiting) = channel::<Call>();
        std::thread::Builder::new().name("gk-phases".into()).spawn(move || {
            while let Ok(Call { job, inside, done }) = waiting.recv() {
                let ended = call(&job);
                inside.store(false, Ordering::Release);
                // Nobody listens any more if the run was given up.
                _ = done.send(ended);
            }
        })?;
        Ok(calls)
    }

    fn run(&mut self, job: Job, limit: Duration) -> Ended {
        let calls = match &self.calls {
            Some(calls) => calls.clone(),
            None => match Self::start() {
                Ok(calls) => self.calls.insert(calls).clone(),
                Err(error) => {
                    return Ended::Failed(Failure::transient(format!("no thread to run it on: {error}")));
                }
            },
        };
        let inside = Arc::new(AtomicBool::new(true));
        let (done, answer) = sync_channel(1);
        if calls.send(Call { job, inside: Arc::clone(&inside), done }).is_err() {
            self.calls = None;
            return Ended::Panicked("the phase thread ended".to_owned());
        }
        match answer.recv_timeout(limit) {
            Ok(ended) => ended,
            Err(RecvTimeoutError::Timeout) => {
                // The stuck thread keeps its queue, which is empty; the next run starts another thread.
                self.calls = None;
                Ended::Overran { limit, inside }
            }
            Err(RecvTimeoutError::Disconnected) => {
                self.calls = None;
                Ended::Panicked("the phase thread ended".to_owned())
            }
        }
    }
}

impl Default for PhaseThread {
    fn default() -> Self {
        Self::new()
    }
}

/// A circuit breaker counted in due runs: after three failures in a row it lets 1, 2, 4 ... due runs pass, then tries
/// once. Built-ins have nothing harder than this.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: u32,
    pause: u32,
    skip: u32,
}

/// Failures in a row that open a breaker.
pub const BREAKER_FAILURES: u32 = 3;
/// No pause is longer: a built-in that works again is back within this many due runs.
const BREAKER_MAX_PAUSE: u32 = 32;

impl Breaker {
    /// Whether a due run may happen. Counts the run as let pass if not.
    pub fn admit(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    pub fn failed(&mut self) {
        self.failures += 1;
        if self.failures >= BREAKER_FAILURES {
            self.pause = (self.pause * 2).clamp(1, BREAKER_MAX_PAUSE);
            self.skip = self.pause;
        }
    }

    pub fn failures_in_row(&self) -> u32 {
        self.failures
    }

    pub fn is_open(&self) -> bool {
        self.skip > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_at_three_and_doubles_its_pause() {
        let mut breaker = Breaker::default();
        let mut ran = Vec::new();
        for due in 0..40 {
            if breaker.admit() {
                ran.push(due);
                breaker.failed();
            }
        }
        assert_eq!(ran, [0, 1, 2, 4, 7, 12, 21, 38]);
        breaker.succeeded();
        assert!(breaker.admit() && !breaker.is_open() && breaker.failures_in_row() == 0);
    }
}
