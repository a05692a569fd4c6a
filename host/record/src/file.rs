//! Reads a recording on disk: its header and records, and the search for a beat. Skips and reports damage; refuses a
//! file of a newer version.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use groundskeeper_base::read::open_regular;
use groundskeeper_engine::beat::called;

use super::beat::RecordedBeat;
use super::bytes::CorruptBytes;
use super::decoder::Decoder;
use super::head::{FILE_HEAD, MAGIC, MARKER, RECORD_HEAD, RecordHeader, RecordKind, VERSION, u32_at};

/// A full beat of a million peers takes 90 MB before compression. A larger one was not written by a recorder.
pub(super) const LARGEST_RAW: usize = 256 << 20;

/// zstd needs at least four bytes for 128 KiB, so no valid payload grows by a larger factor than this.
const LARGEST_RATIO: u64 = 1 << 15;

/// Bytes read at a time when looking for the next record.
const SEARCH: usize = 64 << 10;

/// Why a recording cannot be read.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{name} is not a recording; `groundskeeper run --record FILE` makes one")]
    NotARecording { name: String },
    #[error("the header of {name} is damaged; the file cannot be read")]
    DamagedHead { name: String },
    #[error(
        "{name} was written by a newer groundskeeper (format {found}, this one knows up to {known}); read it with that \
         version"
    )]
    Newer { name: String, found: u16, known: u16 },
    #[error("{name} has no {wanted}; it has {has}")]
    NoSuchBeat { name: String, wanted: String, has: String },
    #[error("{name}: {beat} cannot be read: {why}; beats from the next full one on can be read")]
    Damaged { name: String, beat: String, why: &'static str },
}

/// A record's position and header.
#[derive(Clone, Copy, Debug)]
struct IndexEntry {
    at: u64,
    head: RecordHeader,
}

/// Beats that the recorder left out because the disk was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Gap {
    /// Number of beats left out, urgent ones included.
    pub beats: u32,
    /// Tick of the first of them.
    pub first_tick: u32,
    /// Tick of the last of them.
    pub last_tick: u32,
}

/// One item of a [`Recording`].
#[derive(Debug)]
pub enum Event {
    /// A beat with its tables and runs.
    Beat(Box<RecordedBeat>),
    /// A place where the recorder left beats out.
    Gap(Gap),
    /// Records that were skipped.
    Damaged(Damage),
}

/// Records that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Damage {
    /// Position in the file, in bytes.
    pub at: u64,
    /// Number of records: the damaged one, and those that depend on it.
    pub records: u32,
    /// What is wrong with the first of them.
    pub why: &'static str,
}

/// An open recording. Its index takes 56 bytes per record; only one beat is in memory at a time.
pub struct Recording {
    name: String,
    file: File,
    index: Vec<IndexEntry>,
    /// End of the last complete record.
    end: u64,
    len: u64,
}

impl Recording {
    /// Opens a file and finds its records. O(records), without reading their payloads.
    ///
    /// # Errors
    /// [`ReadError`] if the file is not a recording, is too new, or cannot be read. A damaged record is no error here.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let (file, meta) = open_regular(path, OpenOptions::new().read(true)).map_err(io)?;
        let len = meta.len();
        let name = path.display().to_string();
        let mut recording = Self { name: name.clone(), file, index: Vec::new(), end: FILE_HEAD as u64, len };
        let mut head = [0; FILE_HEAD];
        let found = recording.bytes_at(0, &mut head).map_err(io)?;
        if found < FILE_HEAD || head[..4] != MAGIC {
            return Err(ReadError::NotARecording { name });
        }
        if u32_at(&head, 8) != crc32fast::hash(&head[..8]) {
            return Err(ReadError::DamagedHead { name });
        }
        let version = u16::from_le_bytes([head[4], head[5]]);
        if version > VERSION {
            return Err(ReadError::Newer { name, found: version, known: VERSION });
        }
        recording.find_records().map_err(io)?;
        Ok(recording)
    }

    /// Fills `buffer` from `at` on, as far as the file has bytes. Returns the number of bytes.
    fn bytes_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.len.saturating_sub(at)).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        match self.file.read_exact_at(&mut buffer[..count], at) {
            // Its recorder has cut off an incomplete record meanwhile.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
            read => read.map(|()| count),
        }
    }

    fn find_records(&mut self) -> io::Result<()> {
        let mut at = FILE_HEAD as u64;
        while let Some(entry) = self.next_record(at)? {
            at = entry.at + RECORD_HEAD as u64 + u64::from(entry.head.payload);
            self.end = at;
            self.index.push(entry);
        }
        Ok(())
    }

    /// The first record at or after `from` that lies within the file.
    fn next_record(&self, from: u64) -> io::Result<Option<IndexEntry>> {
        if let Some(head) = self.head_at(from)? {
            return Ok(Some(IndexEntry { at: from, head }));
        }
        let mut buffer = vec![0; SEARCH];
        let mut at = from;
        while at + (RECORD_HEAD as u64) <= self.len {
            let found = self.bytes_at(at, &mut buffer)?;
            for (place, window) in buffer[..found].windows(MARKER.len()).enumerate() {
                if window == MARKER
                    && let Some(head) = self.head_at(at + place as u64)?
                {
                    return Ok(Some(IndexEntry { at: at + place as u64, head }));
                }
            }
            if found < SEARCH {
                break;
            }
            // A marker may span two reads.
            at += (SEARCH - MARKER.len() + 1) as u64;
        }
        Ok(None)
    }

    fn head_at(&self, at: u64) -> io::Result<Option<RecordHeader>> {
        let mut bytes = [0; RECORD_HEAD];
        if self.bytes_at(at, &mut bytes)? < RECORD_HEAD {
            return Ok(None);
        }
        let fits = |head: &RecordHeader| at + RECORD_HEAD as u64 + u64::from(head.payload) <= self.len;
        Ok(RecordHeader::from_bytes(&bytes).filter(fits))
    }

    /// The file name as given.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Bytes after the last complete record: one that was being written when the process was killed.
    pub(super) fn torn_bytes(&self) -> u64 {
        self.len - self.end
    }

    /// End of the last complete record, and the number of the next one.
    pub(super) fn tail(&self) -> (u64, u32) {
        (self.end, self.index.last().map_or(0, |entry| entry.head.number.wrapping_add(1)))
    }

    /// The last beat with number `tick`. Also reads the records that it depends on. A restarted process counts its
    /// ticks from the beginning, so there may be other beats with this number.
    ///
    /// # Errors
    /// [`ReadError::NoSuchBeat`], or [`ReadError::Damaged`].
    pub fn beat(&self, tick: u32) -> Result<RecordedBeat, ReadError> {
        self.beat_at(tick, 0)
    }

    /// As [`Recording::beat`], for an urgent beat if `urgent` is not 0.
    pub(super) fn beat_at(&self, tick: u32, urgent: u32) -> Result<RecordedBeat, ReadError> {
        let is_it = |entry: &IndexEntry| {
            entry.head.kind != RecordKind::Gap && (entry.head.tick, entry.head.urgent) == (tick, urgent)
        };
        let Some(wanted) = self.index.iter().rposition(is_it) else {
            let (wanted, has) = (called(tick, urgent), self.has());
            return Err(ReadError::NoSuchBeat { name: self.name.clone(), wanted, has });
        };
        let whole = self.index[..=wanted].iter().rposition(|entry| entry.head.kind == RecordKind::Whole);
        let damaged = |why| {
            let beat = called(tick, urgent);
            ReadError::Damaged { name: self.name.clone(), beat, why }
        };
        let whole = whole.ok_or_else(|| damaged("the full beat that it depends on is missing"))?;
        let mut reader = self.reader_at(whole);
        let mut found = None;
        while reader.next <= wanted {
            match reader.next() {
                Some(Event::Beat(beat)) => found = Some(Ok(*beat)),
                Some(Event::Damaged(damage)) => found = Some(Err(damaged(damage.why))),
                Some(Event::Gap(_)) => {}
                None => break,
            }
        }
        found.unwrap_or_else(|| Err(damaged("it is missing")))
    }

    /// The range of ticks, as text.
    fn has(&self) -> String {
        let mut ticks =
            self.index.iter().filter(|entry| entry.head.kind != RecordKind::Gap).map(|entry| entry.head.tick);
        match (ticks.next(), ticks.next_back()) {
            (None, _) => "none".to_owned(),
            (Some(only), None) => format!("tick {only}"),
            (Some(first), Some(last)) => format!("ticks {first} to {last}"),
        }
    }

    /// Everything in the recording, in order.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        self.reader_at(0)
    }

    fn reader_at(&self, next: usize) -> RecordReader<'_> {
        RecordReader { recording: self, next, decoder: Decoder::default(), last: None }
    }

    /// The uncompressed payload of a beat's record.
    fn raw(&self, entry: &IndexEntry) -> Result<Vec<u8>, CorruptBytes> {
        let RecordHeader { payload, raw, payload_crc, .. } = entry.head;
        if raw as usize > LARGEST_RAW || u64::from(raw) > u64::from(payload) * LARGEST_RATIO {
            return Err(CorruptBytes("it is too large"));
        }
        // The index holds only records within the file, so this is proportional to the file.
        let mut bytes = vec![0; payload as usize];
        let found = self.bytes_at(entry.at + RECORD_HEAD as u64, &mut bytes);
        if found.is_err() || found.is_ok_and(|found| found < bytes.len()) {
            return Err(CorruptBytes("the file ends or cannot be read there"));
        }
        if crc32fast::hash(&bytes) != payload_crc {
            return Err(CorruptBytes("its checksum does not match"));
        }
        let bytes = zstd::bulk::decompress(&bytes, raw as usize);
        let bytes = bytes.map_err(|_| CorruptBytes("it cannot be decompressed"))?;
        if bytes.len() == raw as usize {
            Ok(bytes)
        } else {
            Err(CorruptBytes("it is shorter than it should be"))
        }
    }
}

/// Reads records in order. Each may depend on the one before.
struct RecordReader<'r> {
    recording: &'r Recording,
    next: usize,
    decoder: Decoder,
    /// Number and session of the last record, if the next may depend on it.
    last: Option<(u32, u64)>,
}

impl RecordReader<'_> {
    fn beat(&mut self, entry: &IndexEntry) -> Result<RecordedBeat, CorruptBytes> {
        let RecordHeader { kind, number, session, tick, urgent, .. } = entry.head;
        let whole = kind == RecordKind::Whole;
        let last = self.last.take();
        if !whole && last.is_none_or(|(last, its)| (last.wrapping_add(1), its) != (number, session)) {
            return Err(CorruptBytes("it depends on a record that is damaged or missing"));
        }
        let raw = self.recording.raw(entry)?;
        let beat = self.decoder.decode(session, whole, &raw)?;
        if (beat.moment.tick, beat.moment.urgent) != (tick, urgent) {
            return Err(CorruptBytes("its header belongs to another beat"));
        }
        self.last = Some((number, session));
        Ok(beat)
    }

    /// Skips the records that depend on a damaged one. Gaps among them count as damage too.
    fn damaged(&mut self, at: u64, why: &'static str) -> Event {
        let following = self.recording.index[self.next..].iter();
        let dependent = following.take_while(|entry| entry.head.kind != RecordKind::Whole).count();
        self.next += dependent;
        self.last = None;
        Event::Damaged(Damage { at, records: 1 + dependent as u32, why })
    }
}

impl Iterator for RecordReader<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let entry = *self.recording.index.get(self.next)?;
        self.next += 1;
        let RecordHeader { kind, number, session, tick, urgent, raw, .. } = entry.head;
        if kind == RecordKind::Gap {
            let follows = |(last, its): (u32, u64)| (last.wrapping_add(1), its) == (number, session);
            self.last = self.last.filter(|last| follows(*last)).map(|_| (number, session));
            return Some(Event::Gap(Gap { beats: raw, first_tick: tick, last_tick: urgent }));
        }
        Some(match self.beat(&entry) {
            Ok(beat) => Event::Beat(Box::new(beat)),
            Err(CorruptBytes(why)) => self.damaged(entry.at, why),
        })
    }
}

/// Decodes beats without checksums and compression, which would hide the decoder from a fuzzer.
#[doc(hidden)]
pub fn fuzz_decode(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    for (at, raw) in bytes.split(|byte| *byte == 0xfe).enumerate() {
        if decoder.decode(1, at == 0, raw).is_err() {
            return;
        }
    }
}
