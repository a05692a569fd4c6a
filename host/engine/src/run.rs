//! One run of a phase: what it is called with, how it ended, what it cost.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use groundskeeper_sdk::host::{AnyPhase, Frozen, LogLine, Parts, Plan, Table, Unwound, View, guard};
use groundskeeper_sdk::phase::{Failure, Tick};
use serde::Serialize;

use crate::PhaseThread;

/// A phase together with its settings, whatever it is made of.
pub trait Body: Send + Sync {
    /// One line: what it does.
    fn summary(&self) -> &str;
    /// Says what is wrong with the settings.
    ///
    /// # Errors
    /// The phase's own words.
    fn check(&self) -> Result<(), String>;
    /// Runs it once. Comes back in bounded time if it is a guest; may not come back if it is native.
    fn run(&self, job: &Job) -> Done;
    /// SHA-256 of the module that it was loaded from, if it was loaded.
    fn digest(&self) -> Option<[u8; 32]> {
        None
    }
    /// Its settings as JSON, if it can show them: without them a recording of it cannot be run again.
    fn settings(&self) -> Option<String> {
        None
    }
}

/// One call of a phase.
pub struct Job {
    pub tick: Tick,
    pub view: Arc<dyn Frozen>,
}

/// How a run ended.
#[derive(Debug)]
pub enum Ended {
    /// With a plan, not yet checked. Its log lines are in [`Done::log`].
    Planned(Parts),
    /// By the phase's own word.
    Failed(Failure),
    /// It broke a rule of the contract.
    Rule(String),
    Panicked(String),
    /// A guest did what its sandbox does not let it do; with a backtrace.
    Trapped(String),
    /// A guest used up what its manifest allows.
    Cut {
        limit: Limit,
        words: String,
    },
    /// It did not come back in time. Until it does, `inside` is true.
    Overran {
        limit: Duration,
        inside: Arc<AtomicBool>,
    },
}

impl Ended {
    /// How a native run ended that left `parts`.
    pub(super) fn of(returned: Result<groundskeeper_sdk::phase::Result, Unwound>, parts: Parts) -> Self {
        match returned {
            Ok(Ok(())) => Self::Planned(parts),
            Ok(Err(failure)) => Self::Failed(failure),
            Err(Unwound::Rule(rule)) => Self::Rule(rule.to_string()),
            Err(Unwound::Panic(text)) => Self::Panicked(text),
        }
    }

    /// The plan, or how it failed.
    ///
    /// # Errors
    /// The kind of failure and its text, as the phase or the engine put it.
    pub fn plan(&self) -> Result<&Parts, RunFailure<'_>> {
        let (kind, text) = match self {
            Self::Planned(parts) => return Ok(parts),
            Self::Failed(Failure::Transient(text)) => (FailureKind::Transient, text),
            Self::Failed(Failure::Permanent(text)) => (FailureKind::Permanent, text),
            Self::Rule(text) => (FailureKind::Rule, text),
            Self::Panicked(text) => (FailureKind::Panicked, text),
            Self::Trapped(text) => (FailureKind::Trapped, text),
            Self::Cut { limit, words } => (FailureKind::Cut(*limit), words),
            Self::Overran { limit, .. } => {
                let text = format!("did not come back within {} ms", limit.as_millis());
                return Err(RunFailure { kind: FailureKind::Overran, text: text.into() });
            }
        };
        Err(RunFailure { kind, text: text.into() })
    }

    /// In one word, as reports and metrics have it.
    pub fn result(&self) -> &'static str {
        match self.plan() {
            Ok(_) => "ok",
            Err(failure) => failure.kind.as_str(),
        }
    }

    /// What went wrong, for the operator; nothing if nothing did.
    pub fn words(&self) -> String {
        match self.plan() {
            Ok(_) => String::new(),
            Err(RunFailure { kind: FailureKind::Rule, text }) => {
                format!("broke a rule of the contract: {text}")
            }
            Err(RunFailure { kind: FailureKind::Panicked, text }) => format!("panicked: {text}"),
            Err(RunFailure { text, .. }) => text.into_owned(),
        }
    }
}

/// A run that left no plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RunFailure<'e> {
    pub kind: FailureKind,
    pub text: Cow<'e, str>,
}

/// How a run failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    Transient,
    Permanent,
    Rule,
    Panicked,
    Trapped,
    Cut(Limit),
    Overran,
}

impl FailureKind {
    /// As reports, metrics and the journal call it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient | Self::Permanent => "failed",
            Self::Rule => "rule",
            Self::Panicked => "panicked",
            Self::Trapped => "trapped",
            Self::Cut(_) => "cut",
            Self::Overran => "overran",
        }
    }
}

/// What a guest can use up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Limit {
    Fuel,
    Wall,
    Memory,
    Stack,
}

/// What a run used, where it is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cost {
    pub fuel: Option<u64>,
    /// Bytes of linear memory at the end of the run; it never shrinks.
    pub memory: Option<u64>,
}

/// What a run left behind.
#[derive(Debug)]
pub struct Done {
    pub ended: Ended,
    /// Kept however the run ended.
    pub log: Vec<LogLine>,
    pub cost: Cost,
}

impl From<Ended> for Done {
    fn from(ended: Ended) -> Self {
        Self { ended, log: Vec::new(), cost: Cost::default() }
    }
}

/// One run and what it took.
#[derive(Debug)]
pub struct Run {
    pub done: Done,
    pub took: Duration,
}

/// Where phases run.
pub enum Fence {
    /// On the caller's thread: deterministic, for simulations and paused clocks. An endless native loop is not cut.
    Inline,
    /// On a thread of its own, which is left behind and replaced when a phase does not come back.
    Thread(PhaseThread),
}

impl Fence {
    /// Calls the phase and waits for it, at most `limit` if it runs on a thread of its own.
    pub fn run(&mut self, body: &Arc<dyn Body>, job: Job, limit: Duration) -> Run {
        let begun = Instant::now();
        let done = match self {
            Fence::Inline => body.run(&job),
            Fence::Thread(thread) => thread.run(Arc::clone(body), job, limit),
        };
        Run { done, took: begun.elapsed() }
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

    /// A phase that is its settings, so that a recording of it can be run again. Shows none if they do not become JSON.
    pub fn with_settings<P: AnyPhase + Serialize + 'static>(phase: Arc<P>) -> Self {
        let settings = serde_json::to_string(&*phase).ok();
        Self { phase, settings }
    }
}

impl Body for BuiltIn {
    fn summary(&self) -> &str {
        self.phase.summary()
    }

    fn check(&self) -> Result<(), String> {
        self.phase.check()
    }

    fn settings(&self) -> Option<String> {
        self.settings.clone()
    }

    fn run(&self, job: &Job) -> Done {
        // The book is frozen only if the phase looks at it, so rows of it are checked when the plan is applied.
        let mut plan = Plan::within(job.view.rows(Table::Peers), u32::MAX);
        let view = View::new(Arc::clone(&job.view));
        let returned = guard(|| self.phase.run(&job.tick, &view, &mut plan));
        let mut parts = plan.into_parts();
        let log = std::mem::take(&mut parts.log);
        Done { ended: Ended::of(returned, parts), log, cost: Cost::default() }
    }
}
