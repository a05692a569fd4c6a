//! Records beats while they run. The beat hands over what it froze, as it is; a thread of its own makes bytes of it. A
//! beat for which the disk has no time is left out, and the gap is written down.

use std::fmt;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use groundskeeper_sdk::column::{address, peer};
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals, clean};
use hashbrown::HashMap;
use zstd::bulk::Compressor;

use super::beat::{Came, Changes, Fate, Moment, Planned, RecordedRun, RunInfo};
use super::encoder::{Beat, CONN, Encoder, Raw, conn_place};
use super::file::{Gap, Head, Kind, LARGEST_RAW, ReadError};
use super::output::{Output, Sink};
use crate::engine::Body;
use crate::pool::Naming;

/// Beats that may wait for the disk.
const WAITING: usize = 4;

/// How long the end of a recorder waits for the beats that still wait for the disk.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// What is left after foretelling is noise, in which higher levels look for repetitions that are not there: they are up to
/// 2 % worse, and slower.
const ZSTD_LEVEL: i32 = 1;

/// A block's own statistics take up to a hundred bytes, which less than this does not win back.
const LEAST_BLOCK: usize = 768;

/// Why a recording cannot be made.
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

/// How a recording is made.
#[derive(Clone, Copy, Debug)]
pub struct RecorderOptions {
    /// Bytes that the file and the one before it, `FILE.1`, take together at the most.
    pub max_bytes: u64,
    /// Every so many beats one is written whole, so that a reader can start there.
    pub whole_every: u32,
    /// How long a beat waits for the disk before it is left out.
    pub patience: Duration,
}

impl Default for RecorderOptions {
    /// 1 GiB; a whole beat each hour of ticks of 30 s; 50 ms.
    fn default() -> Self {
        Self { max_bytes: 1 << 30, whole_every: 120, patience: Duration::from_millis(50) }
    }
}

/// What one beat froze, all columns of it. Does not change once made.
pub trait Snapshot: Send + Sync {
    /// The column at this place of [`peer::COLUMNS`], for all rows.
    fn peers(&self, place: usize) -> &[u32];
    /// The column at this place of [`groundskeeper_sdk::column::address::COLUMNS`], for all rows.
    fn book(&self, place: usize) -> &[u32];
    fn addresses(&self) -> &[SocketAddr];
    /// Who a row of the peers is, asked while the beat is running; none once its connection has ended.
    fn naming(&self, row: usize) -> Option<Naming>;
}

/// What a recorder has done so far.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RecordCounts {
    pub beats: u64,
    pub left_out: u64,
    pub bytes: u64,
    /// The disk refused a write, and nothing is recorded any more.
    pub stopped: bool,
}

#[derive(Default)]
struct Counts {
    beats: AtomicU64,
    left_out: AtomicU64,
    bytes: AtomicU64,
    stopped: AtomicBool,
}

type Names = HashMap<u32, Arc<Naming>>;

/// Writes what beats froze, and what came of it, into a file. Dropped, it writes what still waits.
pub struct Recorder {
    jobs: Option<Sender<Job>>,
    /// One for each place in the queue that is free. Ends when the writer does.
    places: Receiver<()>,
    writer: Option<JoinHandle<()>>,
    patience: Duration,
    counts: Arc<Counts>,
    /// Who the connections of the last beat are. Shared with views that are still in use.
    names: Arc<Names>,
    /// Connections whose names the writer has not been told.
    untold: Vec<u32>,
    gap: Option<Gap>,
    phases: HashMap<String, (Weak<dyn Body>, Arc<RunInfo>)>,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("counts", &self.counts()).finish_non_exhaustive()
    }
}

/// One beat while it runs.
pub struct Taking {
    snapshot: Arc<dyn Snapshot>,
    moment: Moment,
    names: Arc<Names>,
    runs: Vec<RecordedRun>,
}

impl Recorder {
    /// Records into `path`: a new file, or behind what an earlier process recorded there.
    ///
    /// # Errors
    /// [`RecordError`]; a file that is not a recording is left as it is.
    pub fn start(path: &Path, options: RecorderOptions) -> Result<Self, RecordError> {
        let (output, number) = Output::open(path, options.max_bytes)?;
        Self::into_sink(Box::new(output), number, options)
            .map_err(|source| RecordError::Open { path: path.to_owned(), source })
    }

    pub(super) fn into_sink(sink: Box<dyn Sink>, number: u32, options: RecorderOptions) -> io::Result<Self> {
        let counts = Arc::<Counts>::default();
        let (jobs, waiting) = channel();
        let (free, places) = channel();
        (0..WAITING).for_each(|_| _ = free.send(()));
        let writer = Writer {
            sink,
            number,
            session: rand::random(),
            whole_every: options.whole_every.max(1),
            since_whole: 0,
            encoder: Encoder::default(),
            names: Names::new(),
            compressor: Compressor::new(ZSTD_LEVEL)?,
            counts: Arc::clone(&counts),
        };
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
        })
    }

    pub fn counts(&self) -> RecordCounts {
        let Counts { beats, left_out, bytes, stopped } = &*self.counts;
        RecordCounts {
            beats: beats.load(Relaxed),
            left_out: left_out.load(Relaxed),
            bytes: bytes.load(Relaxed),
            stopped: stopped.load(Relaxed),
        }
    }

    /// Begins a beat that is going to run a phase; none if the recording has stopped. Has every column frozen now, and
    /// asks once for each new connection's name.
    pub fn begin(&mut self, snapshot: Arc<dyn Snapshot>, moment: Moment) -> Option<Taking> {
        if self.counts.stopped.load(Relaxed) {
            return None;
        }
        (0..peer::COLUMNS.len()).for_each(|place| _ = snapshot.peers(place));
        (0..address::COLUMNS.len()).for_each(|place| _ = snapshot.book(place));
        let conns = snapshot.peers(conn_place());
        let names = Arc::make_mut(&mut self.names);
        for (row, conn) in conns.iter().enumerate() {
            if !names.contains_key(conn)
                && let Some(naming) = snapshot.naming(row)
            {
                let agent = clean(&naming.agent).into_owned();
                names.insert(*conn, Arc::new(Naming { agent, ..naming }));
                self.untold.push(*conn);
            }
        }
        prune(names, conns);
        Some(Taking { names: Arc::clone(&self.names), snapshot, moment, runs: Vec::new() })
    }

    /// What is known of the phase `name`, which is the `place`-th and made of `body`; `tell` is asked only if that is
    /// news.
    pub fn phase(
        &mut self,
        name: &str,
        place: u32,
        body: &Arc<dyn Body>,
        tell: impl FnOnce() -> RunInfo,
    ) -> Arc<RunInfo> {
        if let Some((known, info)) = self.phases.get(name)
            && info.place == place
            && std::ptr::addr_eq(known.as_ptr(), Arc::as_ptr(body))
        {
            return Arc::clone(info);
        }
        let info = Arc::new(tell());
        self.phases.insert(name.to_owned(), (Arc::downgrade(body), Arc::clone(&info)));
        info
    }

    /// Hands a beat that has ended to the writer, with what all of its plans have changed. If there is no place in the
    /// queue within the recorder's patience, the beat is left out.
    pub fn commit(&mut self, taking: Taking, after: Arc<Changes>) {
        let Taking { snapshot, moment, names, runs } = taking;
        match self.places.recv_timeout(self.patience) {
            Ok(()) => {
                let news =
                    self.untold.drain(..).filter_map(|conn| Some((conn, Arc::clone(names.get(&conn)?))));
                let news = news.collect();
                let job = Job::Beat { snapshot, moment, news, runs, after };
                self.send(job);
            }
            Err(RecvTimeoutError::Timeout) => {
                if self.gap.is_none() {
                    tracing::warn!(
                        tick = moment.tick,
                        "the disk is too slow for the recording; beats are left out"
                    );
                }
                let tick = moment.tick;
                let gap = self.gap.get_or_insert(Gap { beats: 0, first_tick: tick, last_tick: tick });
                gap.beats += 1;
                gap.last_tick = tick;
                self.counts.left_out.fetch_add(1, Relaxed);
            }
            // It has said why when it ended.
            Err(RecvTimeoutError::Disconnected) => self.counts.stopped.store(true, Relaxed),
        }
    }

    fn send(&mut self, job: Job) {
        if let Some(jobs) = &self.jobs {
            // Nobody takes them any more if the writer has ended, which the next beat will find out.
            if let Some(gap) = self.gap.take() {
                _ = jobs.send(Job::Gap(gap));
            }
            _ = jobs.send(job);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let (Some(jobs), Some(gap)) = (&self.jobs, self.gap.take()) {
            _ = jobs.send(Job::Gap(gap));
        }
        self.jobs = None;
        // A disk that hangs must not hold up the node's end.
        loop {
            match self.places.recv_timeout(LAST_WAIT) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        if let Some(writer) = self.writer.take() {
            // A panicked writer has nothing more to say than its own panic message did.
            _ = writer.join();
        }
    }
}

/// Forgets connections that have ended, now and then.
fn prune(names: &mut Names, conns: &[u32]) {
    /// So that a small pool is not gone through at each beat.
    const SPARE: usize = 64;
    if names.len() > 2 * conns.len() + SPARE {
        let mut kept = Names::with_capacity(conns.len());
        kept.extend(conns.iter().filter_map(|conn| Some((*conn, Arc::clone(names.get(conn)?)))));
        *names = kept;
    }
}

impl Taking {
    /// The view that a phase is to get: the same, except that names are those of the beat's beginning, as every column is.
    pub fn watch(&self, view: Arc<dyn Frozen>) -> Arc<dyn Frozen> {
        Arc::new(Watched { view, names: Arc::clone(&self.names) })
    }

    /// Notes a run that has ended.
    pub fn ran(&mut self, run: RecordedRun) {
        self.runs.push(run);
    }

    /// Notes what became of the asks of the last run.
    pub fn applied(&mut self, became: Vec<Fate>) {
        if let Some(RecordedRun { came: Came::Planned(Planned { fates, .. }), .. }) = self.runs.last_mut() {
            *fates = became;
        }
    }
}

/// A view with names that do not change while it is used.
struct Watched {
    view: Arc<dyn Frozen>,
    names: Arc<Names>,
}

impl Frozen for Watched {
    fn rows(&self, table: Table) -> u32 {
        self.view.rows(table)
    }

    fn column(&self, table: Table, name: &str) -> Option<&[u32]> {
        self.view.column(table, name)
    }

    fn columns(&self, table: Table) -> &[&'static str] {
        self.view.columns(table)
    }

    fn totals(&self) -> Totals {
        self.view.totals()
    }

    fn broadcasts(&self) -> BroadcastTotals {
        self.view.broadcasts()
    }

    fn name(&self, table: Table, row: u32) -> Name {
        if table == Table::Book {
            return self.view.name(table, row);
        }
        let conn = self.view.column(table, CONN).and_then(|conns| conns.get(row as usize));
        conn.and_then(|conn| self.names.get(conn)).map_or_else(Name::default, |naming| Name {
            id: naming.id.to_string(),
            address: naming.address.to_string(),
            agent: naming.agent.clone(),
        })
    }

    fn memory(&self) -> Option<Saved> {
        self.view.memory()
    }
}

enum Job {
    Beat {
        snapshot: Arc<dyn Snapshot>,
        moment: Moment,
        news: Vec<(u32, Arc<Naming>)>,
        runs: Vec<RecordedRun>,
        after: Arc<Changes>,
    },
    Gap(Gap),
}

/// What the writing thread holds.
struct Writer {
    sink: Box<dyn Sink>,
    /// Of the next record in the file.
    number: u32,
    session: u64,
    whole_every: u32,
    since_whole: u32,
    encoder: Encoder,
    names: Names,
    compressor: Compressor<'static>,
    counts: Arc<Counts>,
}

impl Writer {
    fn drain(mut self, jobs: &Receiver<Job>, free: &Sender<()>) {
        while let Ok(job) = jobs.recv() {
            let is_beat = matches!(job, Job::Beat { .. });
            let written = match job {
                Job::Beat { snapshot, moment, news, runs, after } => {
                    self.names.extend(news);
                    let beat = Beat { moment, snapshot: &snapshot, runs: &runs, after: &after };
                    self.beat(&beat)
                }
                Job::Gap(gap) => self.gap(gap),
            };
            if let Err(error) = written {
                self.counts.stopped.store(true, Relaxed);
                tracing::error!(%error, "the recording stops here; what was recorded can be read");
                return;
            }
            if is_beat {
                // The recorder may have ended already.
                _ = free.send(());
            }
        }
        let Counts { beats, left_out, bytes, .. } = &*self.counts;
        let (beats, left_out, bytes) = (beats.load(Relaxed), left_out.load(Relaxed), bytes.load(Relaxed));
        tracing::info!(beats, left_out, bytes, "recording ended");
    }

    fn beat(&mut self, beat: &Beat<'_>) -> io::Result<()> {
        if self.since_whole >= self.whole_every {
            self.encoder.forget();
        }
        let Some((kind, raw)) = self.encode(beat) else { return self.leave_out(beat) };
        let record = self.record(kind, beat, &raw)?;
        if self.sink.has_room(record.len()) {
            return self.append(kind, &record);
        }
        self.sink.turn_over()?;
        self.number = 0;
        self.encoder.forget();
        let Some((kind, raw)) = self.encode(beat) else { return self.leave_out(beat) };
        let record = self.record(kind, beat, &raw)?;
        if !self.sink.has_room(record.len()) {
            let words =
                format!("one whole beat takes {} bytes, more than half of the recording may", record.len());
            return Err(io::Error::other(words));
        }
        self.append(kind, &record)
    }

    /// A beat's bytes, uncompressed; none if it has to be left out.
    fn encode(&mut self, beat: &Beat<'_>) -> Option<(Kind, Raw)> {
        let kind = if self.encoder.is_new() { Kind::Whole } else { Kind::Difference };
        prune(&mut self.names, beat.snapshot.peers(conn_place()));
        let names = &self.names;
        let encoded = self.encoder.encode(beat, |conn| names.get(&conn).cloned());
        match encoded {
            Ok(raw) if raw.bytes.len() <= LARGEST_RAW => return Some((kind, raw)),
            Ok(raw) => {
                tracing::warn!(
                    bytes = raw.bytes.len(),
                    "a beat is too large for the recording and is left out"
                );
                self.encoder.forget();
            }
            Err(error) => tracing::warn!(%error, "a beat cannot be recorded and is left out"),
        }
        None
    }

    fn leave_out(&mut self, beat: &Beat<'_>) -> io::Result<()> {
        self.counts.left_out.fetch_add(1, Relaxed);
        let tick = beat.moment.tick;
        self.gap(Gap { beats: 1, first_tick: tick, last_tick: tick })
    }

    fn record(&mut self, kind: Kind, beat: &Beat<'_>, raw: &Raw) -> io::Result<Vec<u8>> {
        let payload = self.compress(raw)?;
        let head = Head {
            kind,
            number: self.number,
            session: self.session,
            tick: beat.moment.tick,
            urgent: beat.moment.urgent,
            payload: payload.len() as u32,
            raw: raw.bytes.len() as u32,
            payload_crc: crc32fast::hash(&payload),
        };
        Ok([&head.to_bytes()[..], &payload].concat())
    }

    /// One zstd frame, with a block for each stretch of like bytes: each has statistics of its own then.
    fn compress(&mut self, raw: &Raw) -> io::Result<Vec<u8>> {
        let Raw { bytes, seams } = raw;
        let mut out = zstd::stream::write::Encoder::with_context(Vec::new(), self.compressor.context_mut());
        out.set_pledged_src_size(Some(bytes.len() as u64))?;
        let mut begin = 0;
        for &seam in seams.iter().filter(|seam| **seam < bytes.len()) {
            if seam - begin >= LEAST_BLOCK {
                out.write_all(&bytes[begin..seam])?;
                out.flush()?;
                begin = seam;
            }
        }
        out.write_all(&bytes[begin..])?;
        out.finish()
    }

    fn append(&mut self, kind: Kind, record: &[u8]) -> io::Result<()> {
        self.sink.append(record)?;
        self.number = self.number.wrapping_add(1);
        self.since_whole = if kind == Kind::Whole { 1 } else { self.since_whole + 1 };
        self.counts.beats.fetch_add(1, Relaxed);
        self.counts.bytes.fetch_add(record.len() as u64, Relaxed);
        Ok(())
    }

    fn gap(&mut self, gap: Gap) -> io::Result<()> {
        let head = Head {
            kind: Kind::Gap,
            number: self.number,
            session: self.session,
            tick: gap.first_tick,
            urgent: gap.last_tick,
            payload: 0,
            raw: gap.beats,
            payload_crc: 0,
        };
        let record = head.to_bytes();
        if self.sink.has_room(record.len()) {
            self.sink.append(&record)?;
            self.number = self.number.wrapping_add(1);
            self.counts.bytes.fetch_add(record.len() as u64, Relaxed);
        }
        Ok(())
    }
}
