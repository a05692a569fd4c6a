//! The writer thread of a recorder: encodes beats and writes them to the file. Ends when the recorder does, or when a
//! write fails.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender};

use groundskeeper_base::peer::PeerLabel;
use groundskeeper_sdk::column::PeerColumn;
use hashbrown::HashMap;
use zstd::bulk::Compressor;

use super::encoder::{BeatContents, EncodedBeat, Encoder};
use super::file::{Gap, LARGEST_RAW};
use super::head::{RecordHeader, RecordKind};
use super::output::RecordSink;

/// Only noise is left after prediction, and it has no repetitions to find. Higher levels are slower, and compress up to
/// 2 % worse.
const ZSTD_LEVEL: i32 = 1;

/// The statistics of a block take up to a hundred bytes. A smaller block does not save that much.
const LEAST_BLOCK: usize = 768;

/// Counters of the writer, reported by the recorder.
#[derive(Default)]
pub(super) struct WriterCounts {
    pub beats: AtomicU64,
    pub left_out: AtomicU64,
    pub bytes: AtomicU64,
    pub stopped: AtomicBool,
}

/// Names of connections, by connection number.
pub(super) type PeerLabels = HashMap<u32, Arc<PeerLabel>>;

/// Work from the recorder.
pub(super) enum WriterCommand {
    /// A beat, and the names of its new connections.
    Beat(BeatContents, Vec<(u32, Arc<PeerLabel>)>),
    Gap(Gap),
}

/// The state of the writer thread.
pub(super) struct Writer {
    sink: Box<dyn RecordSink>,
    /// Number of the next record in the file.
    number: u32,
    session: u64,
    whole_every: u32,
    since_whole: u32,
    encoder: Encoder,
    names: PeerLabels,
    compressor: Compressor<'static>,
    counts: Arc<WriterCounts>,
}

impl Writer {
    /// Begins with a beat in full, as record `number` of the file.
    pub fn new(
        sink: Box<dyn RecordSink>,
        number: u32,
        whole_every: u32,
        counts: Arc<WriterCounts>,
    ) -> io::Result<Self> {
        Ok(Self {
            sink,
            number,
            session: rand::random(),
            whole_every: whole_every.max(1),
            since_whole: 0,
            encoder: Encoder::default(),
            names: PeerLabels::new(),
            compressor: Compressor::new(ZSTD_LEVEL)?,
            counts,
        })
    }

    /// Writes until the recorder ends, or a write fails.
    pub fn drain(mut self, jobs: &Receiver<WriterCommand>, free: &Sender<()>) {
        while let Ok(job) = jobs.recv() {
            let is_beat = matches!(job, WriterCommand::Beat(..));
            let written = match job {
                WriterCommand::Beat(beat, news) => {
                    self.names.extend(news);
                    self.beat(&beat)
                }
                WriterCommand::Gap(gap) => self.gap(gap),
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
        let WriterCounts { beats, left_out, bytes, .. } = &*self.counts;
        let (beats, left_out, bytes) = (beats.load(Relaxed), left_out.load(Relaxed), bytes.load(Relaxed));
        tracing::info!(beats, left_out, bytes, "recording ended");
    }

    fn beat(&mut self, beat: &BeatContents) -> io::Result<()> {
        if self.since_whole >= self.whole_every {
            self.encoder.forget();
        }
        let Some((kind, record)) = self.encode(beat)? else { return self.leave_out(beat) };
        if self.sink.has_room(record.len()) {
            return self.append(kind, &record);
        }
        self.sink.turn_over()?;
        self.number = 0;
        self.encoder.forget();
        let Some((kind, record)) = self.encode(beat)? else { return self.leave_out(beat) };
        if !self.sink.has_room(record.len()) {
            let message =
                format!("one full beat takes {} bytes, more than half of the maximum size", record.len());
            return Err(io::Error::other(message));
        }
        self.append(kind, &record)
    }

    /// A beat's record; none if it has to be left out.
    fn encode(&mut self, beat: &BeatContents) -> io::Result<Option<(RecordKind, Vec<u8>)>> {
        let kind = if self.encoder.is_new() { RecordKind::Whole } else { RecordKind::Difference };
        prune(&mut self.names, beat.snapshot.peers(PeerColumn::Conn));
        let names = &self.names;
        match self.encoder.encode(beat, |conn| names.get(&conn).cloned()) {
            Ok(raw) if raw.bytes.len() <= LARGEST_RAW => {
                let payload = self.compress(&raw)?;
                let head = RecordHeader {
                    kind,
                    number: self.number,
                    session: self.session,
                    tick: beat.moment.tick,
                    urgent: beat.moment.urgent,
                    payload: payload.len() as u32,
                    raw: raw.bytes.len() as u32,
                    payload_crc: crc32fast::hash(&payload),
                };
                return Ok(Some((kind, [&head.to_bytes()[..], &payload].concat())));
            }
            Ok(raw) => {
                tracing::warn!(
                    bytes = raw.bytes.len(),
                    "a beat is too large for the recording and is left out"
                );
                self.encoder.forget();
            }
            Err(error) => tracing::warn!(%error, "a beat cannot be recorded and is left out"),
        }
        Ok(None)
    }

    fn leave_out(&mut self, beat: &BeatContents) -> io::Result<()> {
        self.counts.left_out.fetch_add(1, Relaxed);
        let tick = beat.moment.tick;
        self.gap(Gap { beats: 1, first_tick: tick, last_tick: tick })
    }

    /// One zstd frame with a block for each stretch of similar bytes, so that each block has separate statistics.
    fn compress(&mut self, raw: &EncodedBeat) -> io::Result<Vec<u8>> {
        let EncodedBeat { bytes, seams } = raw;
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

    fn append(&mut self, kind: RecordKind, record: &[u8]) -> io::Result<()> {
        self.sink.append(record)?;
        self.number = self.number.wrapping_add(1);
        self.counts.bytes.fetch_add(record.len() as u64, Relaxed);
        if kind != RecordKind::Gap {
            self.since_whole = if kind == RecordKind::Whole { 1 } else { self.since_whole + 1 };
            self.counts.beats.fetch_add(1, Relaxed);
        }
        Ok(())
    }

    fn gap(&mut self, gap: Gap) -> io::Result<()> {
        let head = RecordHeader {
            kind: RecordKind::Gap,
            number: self.number,
            session: self.session,
            tick: gap.first_tick,
            urgent: gap.last_tick,
            payload: 0,
            raw: gap.beats,
            payload_crc: 0,
        };
        let record = head.to_bytes();
        if self.sink.has_room(record.len()) { self.append(RecordKind::Gap, &record) } else { Ok(()) }
    }
}

/// Forgets connections that have ended, once they outnumber the others.
pub(super) fn prune(names: &mut PeerLabels, conns: &[u32]) {
    /// Keeps a small pool from being scanned at each beat.
    const SPARE: usize = 64;
    if names.len() > 2 * conns.len() + SPARE {
        let mut kept = PeerLabels::with_capacity(conns.len());
        kept.extend(conns.iter().filter_map(|conn| Some((*conn, Arc::clone(names.get(conn)?)))));
        *names = kept;
    }
}
