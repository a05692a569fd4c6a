//! Repeats recorded runs and compares the outcomes. Applies nothing; finds phases only by the given lookup.

use std::sync::Arc;

use data_encoding::HEXLOWER;
use groundskeeper_engine::beat::{AppliedPlan, RecordedOutcome, RecordedRun, RunInfo};
use groundskeeper_engine::{BUILT_IN, FailureKind, PhaseCall, PhaseProgram};
use groundskeeper_sdk::column::{Address, Peer, Row};
use groundskeeper_sdk::host::{Ask, AskField, Frozen, Metric, MetricChange, Saved, Table};
use serde::Serialize;

use super::beat::RecordedBeat;
use super::file::{Damage, Event, Gap, Recording};

/// The built-in phase of `info`, with its recorded settings. None if `info` is not of a built-in phase, or if its
/// settings were not recorded or do not fit this version.
pub fn builtin(info: &RunInfo) -> Option<Arc<dyn PhaseProgram>> {
    let settings = info.settings.as_deref().filter(|_| info.kind == BUILT_IN)?;
    groundskeeper_engine::builtin(&info.name, settings)
}

/// Finds the program of a recorded phase. Use [`builtin`] for built-in phases.
pub type Lookup<'l> = dyn Fn(&RunInfo) -> Option<Arc<dyn PhaseProgram>> + 'l;

/// Differences that a report shows in full; the others are only counted.
const TOLD: usize = 10;
/// Maximum lines of each side of a difference.
const LINES: usize = 20;

/// The range of a recording, and what could not be read.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct RecordingExtent {
    /// Path of the recording, as given.
    pub recording: String,
    /// Beats that were read.
    pub beats: u64,
    /// Of these, beats between two ticks.
    pub urgent: u64,
    /// Tick of the first beat that was read; 0 if there is none.
    pub first_tick: u32,
    /// Tick of the last beat that was read; may be below `first_tick`, because a new process starts at 1.
    pub last_tick: u32,
    /// Wall time of the first beat, in seconds since 1970.
    pub first_unix_s: u32,
    /// Wall time of the last beat, in seconds since 1970.
    pub last_unix_s: u32,
    /// Number of processes that recorded.
    pub sessions: u32,
    /// Beats that the recorder left out, in order.
    pub gaps: Vec<Gap>,
    /// Records that cannot be read, in order.
    pub damage: Vec<Damage>,
    /// Bytes of a record that was being written when the process was killed.
    pub torn_bytes: u64,
    #[serde(skip)]
    session: Option<u64>,
}

impl RecordingExtent {
    /// Reads the whole recording, and passes each beat to `each`.
    pub(super) fn walk(recording: &Recording, mut each: impl FnMut(&RecordedBeat)) -> Self {
        let (name, torn_bytes) = (recording.name().to_owned(), recording.torn_bytes());
        let mut extent = Self { recording: name, torn_bytes, ..Self::default() };
        for event in recording.events() {
            match event {
                Event::Beat(beat) => {
                    extent.note(&beat);
                    each(&beat);
                }
                Event::Gap(gap) => extent.gaps.push(gap),
                Event::Damaged(damage) => extent.damage.push(damage),
            }
        }
        extent
    }

    fn note(&mut self, beat: &RecordedBeat) {
        if self.beats == 0 {
            self.first_tick = beat.moment.tick;
            self.first_unix_s = beat.moment.unix_s();
        }
        self.last_tick = beat.moment.tick;
        self.last_unix_s = beat.moment.unix_s();
        self.beats += 1;
        self.urgent += u64::from(beat.moment.urgent > 0);
        if self.session.replace(beat.session) != Some(beat.session) {
            self.sessions += 1;
        }
    }

    /// Whether no beat was left out, and every recorded beat could be read.
    pub fn is_complete(&self) -> bool {
        self.gaps.is_empty() && self.damage.is_empty() && self.torn_bytes == 0
    }
}

/// Results of the repeated runs of one phase.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct PhaseReport {
    /// The name under which it was recorded.
    pub name: String,
    /// The phase's own version, as recorded.
    pub version: String,
    /// `built-in`, `wasm`, `native`, or an application's own word.
    pub kind: String,
    /// SHA-256 of its module in hexadecimal, if it has one.
    pub digest: Option<String>,
    /// Recorded runs, skipped ones included.
    pub runs: u64,
    /// Runs with the recorded outcome.
    pub identical: u64,
    /// Runs with another outcome.
    pub different: u64,
    /// Runs that were not repeated: no program was found, or the recorded run did not return in time.
    pub skipped: u64,
    /// Why some runs were skipped.
    pub why: Option<String>,
}

/// One run with another outcome than recorded.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Difference {
    /// Tick of the beat.
    pub tick: u32,
    /// 0 for the tick itself.
    pub urgent: u32,
    /// Wall time of the beat, in seconds since 1970.
    pub unix_s: u32,
    /// Name of the phase.
    pub phase: String,
    /// `-`: the recorded outcome. `+`: the outcome now.
    pub lines: Vec<String>,
}

/// The result of a replay.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// What was read of the recording.
    pub extent: RecordingExtent,
    /// By first appearance. A phase that changed its version, module or settings has one entry for each.
    pub phases: Vec<PhaseReport>,
    /// The first differences.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Number of runs with another outcome than recorded.
    pub fn different(&self) -> u64 {
        self.phases.iter().map(|phase| phase.different).sum()
    }
}

/// A phase during the replay.
struct ReplayedPhase {
    info: RunInfo,
    body: Option<Arc<dyn PhaseProgram>>,
    report: PhaseReport,
}

/// Repeats every recorded run for which `lookup` finds the phase, with the recorded tick, view and memory. Takes about
/// as long as the runs took, plus reading the file.
pub fn replay(recording: &Recording, lookup: &Lookup<'_>) -> Report {
    let mut phases: Vec<ReplayedPhase> = Vec::new();
    let mut differences = Vec::new();
    let extent = RecordingExtent::walk(recording, |beat| {
        for run in &beat.runs {
            let same = |known: &ReplayedPhase| {
                RunInfo { place: run.phase.place, ..known.info.clone() } == *run.phase
            };
            let at = phases.iter().position(same).unwrap_or_else(|| {
                phases.push(ReplayedPhase::new(&run.phase, lookup));
                phases.len() - 1
            });
            if let Some(difference) = phases[at].again(beat, run)
                && differences.len() < TOLD
            {
                differences.push(difference);
            }
        }
    });
    Report { extent, phases: phases.into_iter().map(|known| known.report).collect(), differences }
}

impl ReplayedPhase {
    fn new(info: &RunInfo, lookup: &Lookup<'_>) -> Self {
        let body = lookup(info);
        let report = PhaseReport {
            name: info.name.clone(),
            version: info.version.clone(),
            kind: info.kind.clone(),
            digest: info.digest.as_ref().map(|digest| HEXLOWER.encode(digest)),
            why: body.is_none().then(|| why_not_found(info)),
            ..PhaseReport::default()
        };
        Self { info: info.clone(), body, report }
    }

    fn again(&mut self, beat: &RecordedBeat, run: &RecordedRun) -> Option<Difference> {
        self.report.runs += 1;
        let skip = |report: &mut PhaseReport, why: Option<&str>| {
            report.skipped += 1;
            if let Some(why) = why {
                report.why.get_or_insert_with(|| why.to_owned());
            }
            None
        };
        let Some(body) = &self.body else { return skip(&mut self.report, None) };
        if let RecordedOutcome::Failed { how: how @ (FailureKind::Overran | FailureKind::Shortage), .. } =
            run.outcome
        {
            let why = if how == FailureKind::Overran {
                "it did not return in time, which depends on the clock"
            } else {
                "the machine was short of memory, threads or descriptors"
            };
            return skip(&mut self.report, Some(why));
        }
        let view = beat.view_of(run);
        let done = body.run(&PhaseCall { tick: run.tick, view: Arc::clone(&view) });
        let now = RecordedOutcome::of(&done.ended);
        if run.outcome.is_same_as(&now) {
            self.report.identical += 1;
            return None;
        }
        self.report.different += 1;
        Some(Difference {
            tick: beat.moment.tick,
            urgent: beat.moment.urgent,
            unix_s: beat.moment.unix_s(),
            phase: run.phase.name.clone(),
            lines: compare(&lines(&run.outcome, &*view), &lines(&now, &*view)),
        })
    }
}

fn why_not_found(info: &RunInfo) -> String {
    match &info.digest {
        Some(digest) => format!("no module with the digest {} was found", HEXLOWER.encode(digest)),
        None if info.kind != BUILT_IN => "this program has no phase of that kind and name".to_owned(),
        None if info.settings.is_none() => "it was recorded without its settings".to_owned(),
        None => "this version has no built-in of that name with such settings".to_owned(),
    }
}

/// An ask as the journal writes it, with the name of its row.
fn told(ask: &Ask, view: &dyn Frozen) -> String {
    match of_row(ask) {
        Some((table, row)) if row < view.rows(table) => {
            let name = view.name(table, row);
            let id: String = name.id.chars().take(10).collect();
            let between = if id.is_empty() { "" } else { " " };
            format!("{ask}  [{id}{between}{}]", name.address)
        }
        _ => ask.to_string(),
    }
}

/// The one row that an ask is about, if there is one.
fn of_row(ask: &Ask) -> Option<(Table, u32)> {
    ask.fields().find_map(|field| match field {
        AskField::Peer(row) => Some((Peer::TABLE, *row)),
        AskField::Address(row) => Some((Address::TABLE, *row)),
        _ => None,
    })
}

/// The outcome of a run, line by line.
fn lines(came: &RecordedOutcome, view: &dyn Frozen) -> Vec<String> {
    match came {
        RecordedOutcome::Planned(AppliedPlan { asks, memory, metrics, .. }) => {
            let mut lines: Vec<String> = asks.iter().map(|ask| told(ask, view)).collect();
            lines.extend(memory.as_ref().map(memory_line));
            lines.extend(metrics.iter().map(|Metric { name, change }| match change {
                MetricChange::Add(by) => format!("metric {name} +{by}"),
                MetricChange::Set(value) => format!("metric {name} = {value}"),
            }));
            lines
        }
        RecordedOutcome::Failed { how, text } => vec![format!("{}: {text}", how.as_str())],
    }
}

fn memory_line(memory: &Saved) -> String {
    /// Enough to see a number that changed.
    const SHOWN: usize = 200;
    let Saved { version, bytes } = memory;
    let text = String::from_utf8_lossy(bytes);
    let shown: String = groundskeeper_sdk::host::clean(&text).chars().take(SHOWN).collect();
    format!("memory version {version}, {} bytes: {shown}", bytes.len())
}

/// The lines of both, without the common lines at the start and at the end.
fn compare(was: &[String], is: &[String]) -> Vec<String> {
    let same = was.iter().zip(is).take_while(|(was, is)| was == is).count();
    let (was, is) = (&was[same..], &is[same..]);
    let end = was.iter().rev().zip(is.iter().rev()).take_while(|(was, is)| was == is).count();
    let (was, is) = (&was[..was.len() - end], &is[..is.len() - end]);
    let signed = |sign: char, lines: &[String]| -> Vec<String> {
        let mut signed: Vec<String> = lines.iter().take(LINES).map(|line| format!("{sign} {line}")).collect();
        if lines.len() > LINES {
            signed.push(format!("{sign} ... {} more", lines.len() - LINES));
        }
        signed
    };
    [signed('-', was), signed('+', is)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_shows_what_differs_and_no_more() {
        let lines = |text: &str| text.chars().map(String::from).collect::<Vec<_>>();
        assert_eq!(compare(&lines("abcd"), &lines("axxd")), ["- b", "- c", "+ x", "+ x"]);
        assert_eq!(compare(&lines("ab"), &lines("abab")), ["+ a", "+ b"]);
        assert_eq!(compare(&lines("aaa"), &lines("aa")), ["- a"]);
        assert_eq!(compare(&lines(&"a".repeat(30)), &[]).last().unwrap(), "- ... 10 more");
    }
}
