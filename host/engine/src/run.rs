//! One run of a phase: its input, its outcome, its cost.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::{AnyPhase, Frozen, LogLine, NativeExit, Parts, Plan, Table, View, guard};
use groundskeeper_sdk::phase::{Failure, Tick};
use serde::Serialize;

use crate::PhaseThread;

/// A phase of any kind, together with its settings.
pub trait PhaseProgram: Send + Sync {
    /// What it does, in one line.
    fn summary(&self) -> &str;
    /// Checks the settings.
    ///
    /// # Errors
    /// What is wrong, as the phase says it.
    fn check(&self) -> Result<(), String>;
    /// Runs it once. A WebAssembly guest returns in bounded time; native code, built in or loaded, may never return.
    fn run(&self, job: &PhaseCall) -> RunResult;
    /// SHA-256 of the module that it was loaded from; none if it is compiled in.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }
    /// Whether each run ends in bounded time by itself, so that it may run on a thread that must come back.
    fn always_returns(&self) -> bool {
        false
    }
    /// Runs it once and keeps nothing that a later run could see. A guest is cut after `wall`, if its own limit is longer.
    fn run_on_trial(&self, job: &PhaseCall, wall: Duration) -> RunResult {
        _ = wall;
        self.run(job)
    }
    /// Its settings as JSON, if it can show them. Without them a recording of it cannot be run again.
    fn settings(&self) -> Option<String> {
        None
    }
}

/// One call of a phase.
pub struct PhaseCall {
    /// Number and time of the tick, and the seed for the phase's random choices.
    pub tick: Tick,
    /// The tables that the phase reads.
    pub view: Arc<dyn Frozen>,
}

/// How a run ended.
#[derive(Debug)]
pub enum RunOutcome {
    /// It returned a plan, which is not checked yet. Its log lines are in [`RunResult::log`].
    Planned(Parts),
    /// The phase returned an error.
    Failed(Failure),
    /// It broke a rule of the contract.
    Rule(String),
    /// Native code panicked. The text is the panic message, or says that the phase thread ended.
    Panicked(String),
    /// A guest did something that its sandbox forbids. The text has a backtrace.
    Trapped(String),
    /// A guest reached one of its limits.
    Cut {
        /// The limit that it reached.
        limit: GuestLimit,
        /// For the operator: the limit's value, and the place in the guest.
        words: String,
    },
    /// It did not return in time. `inside` is true until it does.
    Overran {
        /// How long the caller waited.
        limit: Duration,
        /// Set to false by the phase thread when the phase returns.
        inside: Arc<AtomicBool>,
    },
    /// The machine had no memory, thread or descriptor for it. Says nothing about the phase.
    Shortage(String),
}

impl RunOutcome {
    /// The outcome of a native run that returned `returned` and left `parts`.
    pub(super) fn of(returned: Result<groundskeeper_sdk::phase::Result, NativeExit>, parts: Parts) -> Self {
        match returned {
            Ok(Ok(())) => Self::Planned(parts),
            Ok(Err(failure)) => Self::Failed(failure),
            Err(NativeExit::Rule(rule)) => Self::Rule(rule.to_string()),
            Err(NativeExit::Panic(text)) => Self::Panicked(text),
        }
    }

    /// The plan, or how the run failed.
    ///
    /// # Errors
    /// The kind of failure, and its text from the phase or the engine.
    pub fn plan(&self) -> Result<&Parts, RunFailure<'_>> {
        let (kind, text) = match self {
            Self::Planned(parts) => return Ok(parts),
            Self::Failed(Failure::Transient(text)) => (FailureKind::Transient, text),
            Self::Failed(Failure::Permanent(text)) => (FailureKind::Permanent, text),
            Self::Rule(text) => (FailureKind::Rule, text),
            Self::Panicked(text) => (FailureKind::Panicked, text),
            Self::Trapped(text) => (FailureKind::Trapped, text),
            Self::Cut { limit, words } => (FailureKind::Cut(*limit), words),
            Self::Shortage(text) => (FailureKind::Shortage, text),
            Self::Overran { limit, .. } => {
                let text = format!("did not come back within {} ms", limit.as_millis());
                return Err(RunFailure { kind: FailureKind::Overran, text: text.into() });
            }
        };
        Err(RunFailure { kind, text: text.into() })
    }

    /// The outcome in one word, as in reports and metrics.
    pub fn result(&self) -> &'static str {
        match self.plan() {
            Ok(_) => "ok",
            Err(failure) => failure.kind.as_str(),
        }
    }

    /// What went wrong, for the operator; empty after a success.
    pub fn words(&self) -> String {
        match self.plan() {
            Ok(_) => String::new(),
            Err(RunFailure { kind: FailureKind::Rule, text }) => {
                format!("broke a rule of the contract: {text}")
            }
            Err(RunFailure { kind: FailureKind::Panicked, text }) => format!("panicked: {text}"),
            Err(RunFailure { kind: FailureKind::Shortage, text }) => format!("skipped: {text}"),
            Err(RunFailure { text, .. }) => text.into_owned(),
        }
    }
}

/// A run that returned no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFailure<'e> {
    /// What happened, as in reports and metrics.
    pub kind: FailureKind,
    /// From the phase or the engine, without the kind.
    pub text: Cow<'e, str>,
}

/// How a run failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// The phase returned an error that may not occur in the next run.
    Transient,
    /// The phase returned an error that lasts until the phase or its settings change.
    Permanent,
    /// The phase broke a rule of the contract.
    Rule,
    /// Native code panicked.
    Panicked,
    /// A guest panicked, or did something that its sandbox forbids.
    Trapped,
    /// A guest reached this limit.
    Cut(GuestLimit),
    /// The phase did not return in time.
    Overran,
    /// The machine could not run it.
    Shortage,
}

impl FailureKind {
    /// The name in reports, metrics and the journal.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Transient | Self::Permanent => "failed",
            Self::Rule => "rule",
            Self::Panicked => "panicked",
            Self::Trapped => "trapped",
            Self::Cut(_) => "cut",
            Self::Overran => "overran",
            Self::Shortage => "shortage",
        }
    }
}

/// The limits that can end a guest's run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GuestLimit {
    /// Executed instructions, roughly: `[limits] fuel`.
    Fuel,
    /// Time inside the guest: `[limits] wall`.
    Wall,
    /// Linear memory: `[limits] memory`. Or elements of tables, with a fixed limit.
    Memory,
    /// Stack, with a fixed limit.
    Stack,
}

/// What a run used. None where it is not measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    /// Fuel that a WebAssembly guest used: instructions, roughly.
    pub fuel: Option<u64>,
    /// Bytes of linear memory at the end of the run. Linear memory never shrinks.
    pub memory: Option<u64>,
}

/// The result of a run.
#[derive(Debug)]
pub struct RunResult {
    /// The plan, or how the run failed.
    pub ended: RunOutcome,
    /// Its log lines, also after a failure; empty if it did not return.
    pub log: Vec<LogLine>,
    /// Nothing is measured for native code.
    pub cost: Cost,
}

impl From<RunOutcome> for RunResult {
    fn from(ended: RunOutcome) -> Self {
        Self { ended, log: Vec::new(), cost: Cost::default() }
    }
}

/// One run and its duration.
#[derive(Debug)]
pub struct FinishedRun {
    /// Outcome, log lines and cost.
    pub done: RunResult,
    /// Wall time from the start of the call until the caller stopped waiting.
    pub took: Duration,
}

/// Where phases run.
pub enum Executor {
    /// On the caller's thread: deterministic, for simulations and paused clocks. Cannot stop an endless native loop.
    Inline,
    /// On a separate thread, which is abandoned and replaced if a phase does not return.
    Thread(PhaseThread),
}

impl Executor {
    /// Threads that were left behind with a phase that has not returned.
    pub fn stuck(&self) -> usize {
        match self {
            Executor::Inline => 0,
            Executor::Thread(thread) => thread.stuck(),
        }
    }

    /// Runs the phase and waits for it; at most `limit` if it runs on a separate thread.
    pub fn run(&mut self, body: &Arc<dyn PhaseProgram>, job: PhaseCall, limit: Duration) -> FinishedRun {
        let begun = Instant::now();
        let done = match self {
            Executor::Inline => body.run(&job),
            Executor::Thread(thread) => thread.run(Arc::clone(body), job, limit),
        };
        FinishedRun { done, took: begun.elapsed() }
    }
}

/// A phase of which each run is a trial.
pub struct TrialRun {
    /// The phase.
    pub body: Arc<dyn PhaseProgram>,
    /// A guest is cut after this time.
    pub wall: Duration,
}

impl PhaseProgram for TrialRun {
    fn summary(&self) -> &str {
        self.body.summary()
    }

    fn check(&self) -> Result<(), String> {
        self.body.check()
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        self.body.run_on_trial(job, self.wall)
    }

    fn always_returns(&self) -> bool {
        self.body.always_returns()
    }
}

/// A phase written in Rust and compiled in.
pub struct BuiltIn {
    phase: Arc<dyn AnyPhase>,
    settings: Option<String>,
}

impl BuiltIn {
    /// A phase that shows no settings.
    pub fn new(phase: Arc<dyn AnyPhase>) -> Self {
        Self { phase, settings: None }
    }

    /// A phase that serializes to its settings, so that a recording of it can be run again. Shows no settings if it
    /// cannot be written as JSON.
    pub fn with_settings<P: AnyPhase + Serialize + 'static>(phase: Arc<P>) -> Self {
        let settings = serde_json::to_string(&*phase).ok();
        Self { phase, settings }
    }
}

impl PhaseProgram for BuiltIn {
    fn summary(&self) -> &str {
        self.phase.summary()
    }

    fn check(&self) -> Result<(), String> {
        self.phase.check()
    }

    fn settings(&self) -> Option<String> {
        self.settings.clone()
    }

    fn run(&self, job: &PhaseCall) -> RunResult {
        // The book is copied only if the phase reads it, so rows of the book are checked when the plan is applied.
        let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
        let view = View::new(Arc::clone(&job.view));
        let returned = guard(|| self.phase.run(&job.tick, &view, &mut plan));
        let mut parts = plan.into_parts();
        let log = std::mem::take(&mut parts.log);
        RunResult { ended: RunOutcome::of(returned, parts), log, cost: Cost::default() }
    }
}
