//! What the node remembers of itself for `explain` and `journal`: the last runs of each phase, and the journal's files,
//! which are read on threads of their own.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::timeout;

use super::answers::{JournalPast, RunSummary};
use crate::clock::Clock;
use crate::cycle::{BeatReport, PhaseRun};
use crate::disk::on_own_thread;
use crate::journal::{Journal, JournalHistory, ReadLimits, Record};

/// Runs of each phase in memory: people ask for the last few.
const RUNS: usize = 16;

/// Phases with runs in memory. Those that ran longest ago go first.
const PHASES: usize = 1024;

/// Readings of the files at once. A disk that hangs keeps their threads, so there must not be many.
const READINGS: usize = 2;

/// Time for a reading: more than its own limit, less than a client waits.
const PATIENCE: Duration = Duration::from_secs(4);

/// Shared by all answers of a node.
pub struct Past {
    runs: Mutex<BTreeMap<Arc<str>, VecDeque<RunSummary>>>,
    readings: Arc<Semaphore>,
}

impl Default for Past {
    fn default() -> Self {
        Self { runs: Mutex::default(), readings: Arc::new(Semaphore::new(READINGS)) }
    }
}

impl Past {
    /// Notes the runs of every beat until the ticker ends.
    pub(super) async fn follow(&self, mut reports: Receiver<Arc<BeatReport>>, clock: Arc<dyn Clock>) {
        loop {
            match reports.recv().await {
                Ok(report) => self.observe(&report, clock.unix().as_millis() as u64),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn observe(&self, report: &BeatReport, unix_ms: u64) {
        let mut runs = self.runs.lock();
        for run in &report.runs {
            if runs.len() >= PHASES && !runs.contains_key(&run.name) {
                let last = |summaries: &VecDeque<RunSummary>| summaries.back().map(|run| run.unix_ms);
                let oldest = runs.iter().min_by_key(|(_, summaries)| last(summaries));
                let oldest = oldest.map(|(name, _)| Arc::clone(name));
                oldest.map(|name| runs.remove(&name));
            }
            let summaries = runs.entry(Arc::clone(&run.name)).or_default();
            if summaries.len() >= RUNS {
                summaries.pop_front();
            }
            summaries.push_back(summary(report, run, unix_ms));
        }
    }

    /// The last runs of a phase, oldest first.
    pub(super) fn runs(&self, phase: &str) -> Vec<RunSummary> {
        self.runs.lock().get(phase).map(|runs| runs.iter().cloned().collect()).unwrap_or_default()
    }

    /// The newest `limit` records in memory and in the files that `keep` accepts, oldest first. Memory is asked first.
    ///
    /// Waits for the disk for 4 s at most. What is missing then, or for another reason, is in the answer.
    pub(super) async fn find(
        &self,
        journal: &Journal,
        limit: usize,
        mut keep: impl FnMut(&Record) -> bool + Send + 'static,
    ) -> (Vec<Record>, JournalPast) {
        let held = journal.select(limit, &mut keep);
        let mut past = JournalPast { start_unix_ms: journal.start(), ..JournalPast::default() };
        let Some(file) = journal.file() else { return (held, past) };
        past.file = Some(file.display().to_string());
        let history = match self.read(file, limit, keep).await {
            Ok(history) => history,
            Err(why) => {
                past.trouble = Some(why);
                return (held, past);
            }
        };
        past.from_unix_ms = history.from_unix_ms;
        past.unreadable = history.unreadable;
        past.lost = history.lost;
        past.trouble = history.cut.map(ToOwned::to_owned);
        (merged(journal.start(), held, history.records, limit), past)
    }

    async fn read(
        &self,
        file: &Path,
        records: usize,
        keep: impl FnMut(&Record) -> bool + Send + 'static,
    ) -> Result<JournalHistory, String> {
        let path = file.to_owned();
        let read = async {
            let place = Arc::clone(&self.readings).acquire_owned().await.ok()?;
            let limits = ReadLimits { records, ..ReadLimits::default() };
            // A runtime that ends waits for its blocking threads: a disk that hangs must not keep the process alive.
            let reading = on_own_thread("gk-past", move || {
                let history = JournalHistory::read(&path, limits, keep);
                drop(place);
                history
            });
            reading.await.ok()
        };
        match timeout(PATIENCE, read).await {
            Ok(Some(Ok(history))) => Ok(history),
            Ok(Some(Err(error))) => Err(format!("the file cannot be read: {error}")),
            // The system has no thread left, or a record made the reader panic.
            Ok(None) => Err("the file was not read to its end".to_owned()),
            Err(_) => Err(format!("the file was not read within {} s", PATIENCE.as_secs())),
        }
    }
}

/// Records of the file, then those of this start, without the records that both have.
fn merged(start: u64, held: Vec<Record>, read: Vec<Record>, limit: usize) -> Vec<Record> {
    let (own, mut all): (Vec<Record>, Vec<Record>) =
        read.into_iter().partition(|record| record.start == start);
    let own: BTreeMap<u64, Record> = own.into_iter().chain(held).map(|record| (record.seq, record)).collect();
    all.extend(own.into_values());
    all.split_off(all.len().saturating_sub(limit))
}

fn summary(report: &BeatReport, run: &PhaseRun, unix_ms: u64) -> RunSummary {
    let tally = serde_json::to_value(run.tally).and_then(serde_json::from_value::<BTreeMap<String, u32>>);
    RunSummary {
        tick: report.tick,
        urgent: report.urgent,
        unix_ms,
        result: run.result.to_owned(),
        took_us: run.took.as_micros() as u64,
        fuel: run.fuel,
        tally: tally.unwrap_or_default().into_iter().filter(|(_, count)| *count > 0).collect(),
        why: run.words.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TokioClock;
    use crate::journal::{ActionKind, Initiator, JournalFile, JournalLimits, NewRecord};

    /// One start of a node that writes a journal with little room in memory.
    fn start(path: &Path, at: u64, records: u64) -> Arc<Journal> {
        let file = JournalFile::open(path, 1 << 20).unwrap();
        let clock = TokioClock::starting_at(Duration::from_secs(at));
        let journal = Journal::new(clock, JournalLimits { notable: 16, chatter: 8 }, Some(file));
        for n in 0..records {
            journal.record(NewRecord::new(Initiator::Host, ActionKind::Late, format!("{n}")));
        }
        journal
    }

    fn named(records: &[Record]) -> Vec<(u64, u64)> {
        records.iter().map(|record| (record.start / 1000, record.seq)).collect()
    }

    #[tokio::test]
    async fn memory_and_file_are_merged_without_duplicates_across_starts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        drop(start(&path, 10, 5));
        drop(start(&path, 20, 3));
        let journal = start(&path, 30, 12);
        let all: Vec<(u64, u64)> = [(10, 5), (20, 3), (30, 12)]
            .iter()
            .flat_map(|&(start, records)| (1..=records).map(move |seq| (start, seq)))
            .collect();
        let past = Past::default();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        loop {
            // The thread that writes may be behind: memory has the newest four all the same.
            let (records, about) = past.find(&journal, 99, |_| true).await;
            let found = named(&records);
            assert!(found.is_sorted() && found.ends_with(&all[all.len() - 4..]), "{found:?}");
            assert_eq!((about.trouble, about.unreadable), (None, 0));
            if found == all {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{found:?}");
            tokio::task::yield_now().await;
        }
        let (records, _) = past.find(&journal, 2, |record| record.seq != 12).await;
        assert_eq!(named(&records), [(30, 10), (30, 11)]);
    }

    #[tokio::test]
    async fn a_journal_without_a_file_says_from_when_it_knows() {
        let clock = TokioClock::starting_at(Duration::from_secs(7));
        let journal = Journal::new(clock, JournalLimits::default(), None);
        journal.record(NewRecord::new(Initiator::Host, ActionKind::Late, ""));
        let (records, about) = Past::default().find(&journal, 9, |_| true).await;
        assert_eq!((records.len(), about.file, about.start_unix_ms), (1, None, 7_000));
    }

    #[tokio::test]
    async fn a_file_that_cannot_be_read_is_trouble_and_no_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let journal = start(&path, 10, 2);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let (records, about) = Past::default().find(&journal, 9, |_| true).await;
        assert_eq!(named(&records), [(10, 1), (10, 2)]);
        assert!(about.trouble.is_some_and(|why| why.contains("cannot be read")));
    }
}
