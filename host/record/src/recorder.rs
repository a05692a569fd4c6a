//! Records beats while they run. The beat hands over its snapshot unchanged; a separate thread encodes and writes it.
//! If the disk is too slow, beats are left out, and the gap is recorded.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{fmt, io};

use groundskeeper_base::peer::PeerLabel;
use groundskeeper_engine::beat::{
    AppliedPlan, AskOutcome, BeatHeader, BeatRecorder, RecordCounts, Recordable, RecordedOutcome,
    RecordedRun, RunInfo,
};
use groundskeeper_engine::{Changes, NameOf, PhaseProgram};
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::{Name, clean};
use hashbrown::HashMap;

use super::encoder::BeatContents;
use super::file::{Gap, ReadError};
use super::output::{RecordSink, RecordingOutput};
use super::writer::{PeerLabels, Writer, WriterCommand, WriterCounts, prune};

/// Beats that may wait for the disk.
const WAITING: usize = 4;

/// Maximum time that dropping a recorder waits for the beats that still wait for the disk.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Why a recording cannot start.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    #[error("cannot record into {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("another process is recording into {}; name another file", path.display())]
    Busy { path: PathBuf },
    #[error("{0}; it is left as it is: name another file to record into")]
    NotOurs(ReadError),
}

/// Size and timing of a recording.
#[derive(Clone, Copy, Debug)]
pub struct RecorderOptions {
    /// Maximum size in bytes of the file and the one before it, `FILE.1`, together.
    pub max_bytes: u64,
    /// One beat in this many is written in full, so that a reader can start there.
    pub whole_every: u32,
    /// How long a beat waits for the disk before it is left out.
    pub patience: Duration,
}

impl Default for RecorderOptions {
    /// 1 GiB; one beat in full per hour at ticks of 30 s; 50 ms.
    fn default() -> Self {
        Self { max_bytes: 1 << 30, whole_every: 120, patience: Duration::from_millis(50) }
    }
}

/// Writes snapshots, runs and outcomes of beats to a file. Dropping it waits up to 2 s for the last beats.
pub struct Recorder {
    jobs: Option<Sender<WriterCommand>>,
    /// Holds one item per free place in the queue. Disconnected when the writer ends.
    places: Receiver<()>,
    writer: Option<JoinHandle<()>>,
    patience: Duration,
    counts: Arc<WriterCounts>,
    /// Names of the connections of the last beat. Shared with views that are still in use.
    names: Arc<PeerLabels>,
    /// Connections with a name that was not sent to the writer yet.
    untold: Vec<u32>,
    gap: Option<Gap>,
    phases: HashMap<String, (Weak<dyn PhaseProgram>, Arc<RunInfo>)>,
    /// The beat that is running.
    taking: Option<BeatContents>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Records into `path`: creates the file, or appends to an earlier recording.
    ///
    /// # Errors
    /// [`RecordError`]; a file that is not a recording is not changed.
    pub fn start(path: &Path, options: RecorderOptions) -> Result<Self, RecordError> {
        let (output, number) = RecordingOutput::open(path, options.max_bytes)?;
        Self::into_sink(Box::new(output), number, options)
            .map_err(|source| RecordError::Open { path: path.to_owned(), source })
    }

    pub(super) fn into_sink(
        sink: Box<dyn RecordSink>,
        number: u32,
        options: RecorderOptions,
    ) -> io::Result<Self> {
        let counts = Arc::<WriterCounts>::default();
        let (jobs, waiting) = channel();
        let (free, places) = channel();
        (0..WAITING).for_each(|_| _ = free.send(()));
        let writer = Writer::new(sink, number, options.whole_every, Arc::clone(&counts))?;
        let thread = std::thread::Builder::new();
        let writer = thread.name("gk-record".into()).spawn(move || writer.drain(&waiting, &free))?;
        Ok(Self {
            jobs: Some(jobs),
            places,
            writer: Some(writer),
            patience: options.patience,
            counts,
            names: Arc::default(),
            untold: Vec::new(),
            gap: None,
            phases: HashMap::new(),
            taking: None,
        })
    }

    /// Number of names held, and of those not sent to the writer yet.
    #[cfg(test)]
    pub(super) fn held(&self) -> (usize, usize) {
        (self.names.len(), self.untold.len())
    }

    fn send(&mut self, job: WriterCommand) {
        if let Some(jobs) = &self.jobs {
            // Sending fails if the writer has ended. The next beat notices that.
            if let Some(gap) = self.gap.take() {
                _ = jobs.send(WriterCommand::Gap(gap));
            }
            _ = jobs.send(job);
        }
    }
}

impl BeatRecorder for Recorder {
    fn begin(&mut self, snapshot: Arc<dyn Recordable>, moment: BeatHeader) -> Option<Arc<NameOf>> {
        if self.counts.stopped.load(Relaxed) {
            return None;
        }
        PeerColumn::ALL.into_iter().for_each(|column| _ = snapshot.peers(column));
        AddressColumn::ALL.into_iter().for_each(|column| _ = snapshot.book(column));
        let conns = snapshot.peers(PeerColumn::Conn);
        let names = Arc::make_mut(&mut self.names);
        for (row, conn) in conns.iter().enumerate() {
            if !names.contains_key(conn)
                && let Some(naming) = snapshot.naming(row)
            {
                let agent = clean(&naming.agent).into_owned();
                names.insert(*conn, Arc::new(PeerLabel { agent, ..naming }));
                self.untold.push(*conn);
            }
        }
        prune(names, conns);
        if self.untold.len() > names.len() {
            // The disk hangs, while connections come and go.
            self.untold.retain(|conn| names.contains_key(conn));
        }
        let names = Arc::clone(&self.names);
        self.taking = Some(BeatContents { snapshot, moment, runs: Vec::new(), after: Arc::default() });
        Some(Arc::new(move |conn| match names.get(&conn) {
            Some(naming) => Name {
                id: naming.id.to_string(),
                address: naming.address.to_string(),
                agent: naming.agent.clone(),
            },
            None => Name::default(),
        }))
    }

    fn phase(
        &mut self,
        name: &str,
        place: u32,
        body: &Arc<dyn PhaseProgram>,
        describe: &dyn Fn() -> RunInfo,
    ) -> Arc<RunInfo> {
        if let Some((known, info)) = self.phases.get(name)
            && info.place == place
            && std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(body))
        {
            return Arc::clone(info);
        }
        let info = Arc::new(describe());
        self.phases.insert(name.to_owned(), (Arc::downgrade(body), Arc::clone(&info)));
        info
    }

    fn ran(&mut self, run: RecordedRun) {
        if let Some(taking) = &mut self.taking {
            taking.runs.push(run);
        }
    }

    fn applied(&mut self, became: Vec<AskOutcome>) {
        let last = self.taking.as_mut().and_then(|taking| taking.runs.last_mut());
        if let Some(RecordedRun {
            outcome: RecordedOutcome::Planned(AppliedPlan { ask_outcomes: fates, .. }),
            ..
        }) = last
        {
            *fates = became;
        }
    }

    /// Hands the beat to the writer. Leaves it out if no place in the queue is free within the recorder's patience.
    fn end(&mut self, after: Arc<Changes>) {
        let Some(beat) = self.taking.take() else { return };
        let tick = beat.moment.tick;
        // Waited for once: while the disk hangs, beats go on without a wait.
        let patience = if self.gap.is_some() { Duration::ZERO } else { self.patience };
        match self.places.recv_timeout(patience) {
            Ok(()) => {
                let named = |conn| Some((conn, Arc::clone(self.names.get(&conn)?)));
                let news = self.untold.drain(..).filter_map(named).collect();
                self.send(WriterCommand::Beat(BeatContents { after, ..beat }, news));
            }
            Err(RecvTimeoutError::Timeout) => {
                if self.gap.is_none() {
                    tracing::warn!(tick, "the disk is too slow for the recording; beats are left out");
                }
                let gap = self.gap.get_or_insert(Gap { beats: 0, first_tick: tick, last_tick: tick });
                gap.beats += 1;
                gap.last_tick = tick;
                self.counts.left_out.fetch_add(1, Relaxed);
            }
            // The writer logged the reason when it ended.
            Err(RecvTimeoutError::Disconnected) => self.counts.stopped.store(true, Relaxed),
        }
    }

    fn counts(&self) -> RecordCounts {
        let WriterCounts { beats, left_out, bytes, stopped } = &*self.counts;
        RecordCounts {
            beats: beats.load(Relaxed),
            left_out: left_out.load(Relaxed),
            bytes: bytes.load(Relaxed),
            stopped: stopped.load(Relaxed),
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let (Some(jobs), Some(gap)) = (&self.jobs, self.gap.take()) {
            _ = jobs.send(WriterCommand::Gap(gap));
        }
        self.jobs = None;
        // A disk that hangs must not block the shutdown of the node.
        let until = Instant::now() + LAST_WAIT;
        loop {
            match self.places.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(writer) = self.writer.take() {
            // If the writer panicked, its panic message has already been printed.
            _ = writer.join();
        }
    }
}
