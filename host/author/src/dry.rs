//! One run of a phase that changes nothing: its asks, its cost, its outcome. Knows no node.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use groundskeeper::engine::{Cost, PhaseCall, PhaseProgram, RunOutcome, RunResult};
use groundskeeper_sdk::host::{Frozen, Level, Metric, MetricChange, Parts, Saved};
use groundskeeper_sdk::phase::Tick;
use serde::Serialize;

/// The result of a dry run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DryRun {
    /// Whether there is a plan. If not, `ended` says why.
    pub ok: bool,
    /// `planned`, or how it failed, with the backtrace if there is one.
    pub ended: String,
    /// One ask per line, in the order in which the phase asked.
    pub asks: Vec<String>,
    /// One changed metric per line: `name + 1` for a counter, `name = 0.5` for a gauge.
    pub metrics: Vec<String>,
    /// The phase's log lines, each as `level: text`.
    pub log: Vec<String>,
    /// What the plan stores for the next run; None if it stores nothing.
    #[serde(skip)]
    pub memory: Option<Saved>,
    /// Size of `memory`.
    pub memory_bytes: Option<usize>,
    /// None for native phases.
    pub fuel: Option<u64>,
    /// Bytes at the end of the run; None for native phases.
    pub linear_memory: Option<u64>,
    /// Wall time of the run, in microseconds.
    pub took_us: u64,
}

impl DryRun {
    /// Runs `body` once over `view`.
    pub fn of(body: &dyn PhaseProgram, tick: Tick, view: Arc<dyn Frozen>) -> Self {
        let begun = Instant::now();
        let RunResult { ended, log, cost: Cost { fuel, memory: linear_memory } } =
            body.run(&PhaseCall { tick, view });
        let took = begun.elapsed();
        let word = |level: Level| match level {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
        };
        let (ok, ended, parts) = match ended {
            RunOutcome::Planned(parts) => (true, "planned".to_owned(), parts),
            RunOutcome::Failed(failure) => (false, failure.to_string(), Parts::default()),
            RunOutcome::Rule(words) => {
                (false, format!("broke a rule of the contract: {words}"), Parts::default())
            }
            RunOutcome::Panicked(words) => (false, format!("panicked: {words}"), Parts::default()),
            RunOutcome::Trapped(words) => (false, format!("trapped: {words}"), Parts::default()),
            RunOutcome::Cut { words, .. } => (false, format!("was cut: it {words}"), Parts::default()),
            RunOutcome::Shortage(words) => (false, format!("was skipped: {words}"), Parts::default()),
            RunOutcome::Overran { limit, .. } => {
                (false, format!("did not come back within {} ms", limit.as_millis()), Parts::default())
            }
        };
        let metric = |metric: &Metric| match metric.change {
            MetricChange::Add(by) => format!("{} + {by}", metric.name),
            MetricChange::Set(value) => format!("{} = {value}", metric.name),
        };
        Self {
            ok,
            ended,
            asks: parts.asks.iter().map(ToString::to_string).collect(),
            metrics: parts.metrics.iter().map(metric).collect(),
            log: log.iter().map(|line| format!("{}: {}", word(line.level), line.text)).collect(),
            memory_bytes: parts.memory.as_ref().map(|saved| saved.bytes.len()),
            memory: parts.memory,
            fuel,
            linear_memory,
            took_us: took.as_micros().try_into().unwrap_or(u64::MAX),
        }
    }

    /// Whether both runs decided the same. Costs may differ.
    pub fn is_same_as(&self, other: &Self) -> bool {
        let decided = |run: &Self| (run.ok, run.asks.clone(), run.metrics.clone(), run.memory.clone());
        decided(self) == decided(other)
    }

    /// The report for a terminal.
    pub fn shown(&self) -> String {
        let mut text = String::new();
        let mut line = |head: &str, words: &str| {
            // Writing to a String cannot fail.
            _ = writeln!(text, "  {head:8} {words}");
        };
        if !self.ok {
            line("ended", &self.ended);
        }
        match self.asks.len() {
            0 if self.ok => line("plan", "nothing"),
            0 => {}
            count => line("plan", &format!("{count} asks")),
        }
        self.asks.iter().for_each(|ask| line("", ask));
        self.metrics.iter().for_each(|metric| line("metric", metric));
        self.log.iter().for_each(|said| line("log", said));
        if let Some(bytes) = self.memory_bytes {
            line("memory", &format!("{bytes} bytes to keep"));
        }
        let mut cost = format!("{} us", self.took_us);
        if let Some(fuel) = self.fuel {
            cost += &format!(", fuel {fuel}");
        }
        if let Some(bytes) = self.linear_memory {
            cost += &format!(", {} KiB of linear memory", bytes >> 10);
        }
        line("cost", &cost);
        text
    }
}
