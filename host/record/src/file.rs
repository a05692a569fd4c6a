//! A recording on the disk: its head, its records, and finding a beat in it. What is damaged is passed over and told;
//! what a newer version wrote is refused.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use groundskeeper_engine::beat::called;

use super::beat::RecordedBeat;
use super::bytes::Corrupt;
use super::decoder::Decoder;
use super::head::{FILE_HEAD, Head, Kind, MAGIC, MARKER, RECORD_HEAD, VERSION, u32_at};

/// A whole beat of a million peers takes 90 MB before it is compressed: what is larger was not written by us.
pub(super) const LARGEST_RAW: usize = 256 << 20;

/// zstd says 128 KiB in four bytes at the least, so no honest payload grows by more than this.
const LARGEST_RATIO: u64 = 1 << 15;

/// Bytes read at a time when looking for the next record.
const SEARCH: usize = 64 << 10;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{name} is not a recording; `groundskeeper run --record FILE` makes one")]
    NotARecording { name: String },
    #[error("the head of {name} is damaged; nothing of it can be read")]
    DamagedHead { name: String },
    #[error(
        "{name} was written by a newer groundskeeper (format {found}, this one knows up to {known}); read it with that \
         version"
    )]
    Newer { name: String, found: u16, known: u16 },
    #[error("{name} has no {wanted}; it has {has}")]
    NoSuchBeat { name: String, wanted: String, has: String },
    #[error("{name}: {beat} cannot be read: {why}; beats from the next whole one on can")]
    Damaged { name: String, beat: String, why: &'static str },
}

/// Where a recording's bytes come from.
enum Source {
    File(File),
    Memory(Vec<u8>),
}

impl Source {
    fn len(&self) -> io::Result<u64> {
        match self {
            Source::File(file) => Ok(file.metadata()?.len()),
            Source::Memory(bytes) => Ok(bytes.len() as u64),
        }
    }

    /// Fills `buffer` from `at` on, as far as there are bytes.
    fn read(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Source::Memory(bytes) => {
                let from = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                let count = buffer.len().min(bytes.len() - from);
                buffer[..count].copy_from_slice(&bytes[from..from + count]);
                Ok(count)
            }
            Source::File(file) => {
                let mut filled = 0;
                while filled < buffer.len() {
                    match file.read_at(&mut buffer[filled..], at + filled as u64) {
                        Ok(0) => break,
                        Ok(count) => filled += count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(filled)
            }
        }
    }
}

/// A record and where it begins.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at: u64,
    head: Head,
}

/// Beats that the recorder left out because the disk was too slow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Gap {
    pub beats: u32,
    pub first_tick: u32,
    pub last_tick: u32,
}

/// What a [`Recording`] gives, in its order.
#[derive(Debug)]
pub enum Event {
    Beat(Box<RecordedBeat>),
    Gap(Gap),
    Damaged(Damage),
}

/// Records that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Damage {
    /// Where in the file.
    pub at: u64,
    /// How many, if that is known.
    pub records: u32,
    pub why: &'static str,
}

/// An open recording. Its index takes 56 bytes a record; of the beats only one is in memory at a time.
pub struct Recording {
    name: String,
    source: Source,
    index: Vec<Entry>,
    /// Where the last whole record ends.
    end: u64,
    len: u64,
}

impl Recording {
    /// Opens a file and finds its records. O(records), without reading what is in them.
    ///
    /// # Errors
    /// [`ReadError`], if it is none of ours, too new, or cannot be read. Damage further in is not an error here.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let io = |source| ReadError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        Self::read(Source::File(file), path.display().to_string(), io)
    }

    /// The same of bytes in memory.
    ///
    /// # Errors
    /// As [`Recording::open`].
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Self, ReadError> {
        let name = "the recording".to_owned();
        let io = |source| ReadError::Io { path: "memory".into(), source };
        Self::read(Source::Memory(bytes), name, io)
    }

    fn read(source: Source, name: String, io: impl Fn(io::Error) -> ReadError) -> Result<Self, ReadError> {
        let len = source.len().map_err(&io)?;
        let mut head = [0; FILE_HEAD];
        let found = source.read(0, &mut head).map_err(&io)?;
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
        let mut recording = Self { name, source, index: Vec::new(), end: FILE_HEAD as u64, len };
        recording.find_records().map_err(io)?;
        Ok(recording)
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
    fn next_record(&self, from: u64) -> io::Result<Option<Entry>> {
        if let Some(head) = self.head_at(from)? {
            return Ok(Some(Entry { at: from, head }));
        }
        let mut buffer = vec![0; SEARCH];
        let mut at = from;
        while at + (RECORD_HEAD as u64) <= self.len {
            let found = self.source.read(at, &mut buffer)?;
            for (place, window) in buffer[..found].windows(MARKER.len()).enumerate() {
                if window == MARKER
                    && let Some(head) = self.head_at(at + place as u64)?
                {
                    return Ok(Some(Entry { at: at + place as u64, head }));
                }
            }
            if found < SEARCH {
                break;
            }
            // A marker may lie across the seam.
            at += (SEARCH - MARKER.len() + 1) as u64;
        }
        Ok(None)
    }

    fn head_at(&self, at: u64) -> io::Result<Option<Head>> {
        let mut bytes = [0; RECORD_HEAD];
        if self.source.read(at, &mut bytes)? < RECORD_HEAD {
            return Ok(None);
        }
        let fits = |head: &Head| at + RECORD_HEAD as u64 + u64::from(head.payload) <= self.len;
        Ok(Head::from_bytes(&bytes).filter(fits))
    }

    /// The file as it was named.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many beats there are, readable or not.
    pub fn beats(&self) -> usize {
        self.index.iter().filter(|entry| entry.head.kind != Kind::Gap).count()
    }

    /// Bytes after the last whole record: the record that was being written when the process was killed.
    pub fn torn_bytes(&self) -> u64 {
        self.len - self.end
    }

    /// Where the last whole record ends, and the number that the next one has.
    pub(super) fn tail(&self) -> (u64, u32) {
        (self.end, self.index.last().map_or(0, |entry| entry.head.number.wrapping_add(1)))
    }

    /// The last beat of number `tick`, with everything that it rests on read before it. A process that started anew
    /// counts its ticks anew, so there may be others of that number.
    ///
    /// # Errors
    /// [`ReadError::NoSuchBeat`], or [`ReadError::Damaged`].
    pub fn beat(&self, tick: u32) -> Result<RecordedBeat, ReadError> {
        self.beat_at(tick, 0)
    }

    /// As [`Recording::beat`], for an urgent beat if `urgent` is not 0.
    ///
    /// # Errors
    /// As [`Recording::beat`].
    pub fn beat_at(&self, tick: u32, urgent: u32) -> Result<RecordedBeat, ReadError> {
        let is_it = |entry: &Entry| {
            entry.head.kind != Kind::Gap && (entry.head.tick, entry.head.urgent) == (tick, urgent)
        };
        let Some(wanted) = self.index.iter().rposition(is_it) else {
            let (wanted, has) = (called(tick, urgent), self.has());
            return Err(ReadError::NoSuchBeat { name: self.name.clone(), wanted, has });
        };
        let whole = self.index[..=wanted].iter().rposition(|entry| entry.head.kind == Kind::Whole);
        let damaged = |why| {
            let beat = called(tick, urgent);
            ReadError::Damaged { name: self.name.clone(), beat, why }
        };
        let whole = whole.ok_or_else(|| damaged("the whole beat that it rests on is not there"))?;
        let mut reader = Reader { recording: self, next: whole, chain: Chain::default() };
        let mut found = None;
        while reader.next <= wanted {
            match reader.next() {
                Some(Event::Beat(beat)) => found = Some(Ok(*beat)),
                Some(Event::Damaged(damage)) => found = Some(Err(damaged(damage.why))),
                Some(Event::Gap(_)) => {}
                None => break,
            }
        }
        found.unwrap_or_else(|| Err(damaged("it is not there")))
    }

    /// Which beats there are, in words.
    fn has(&self) -> String {
        let mut ticks =
            self.index.iter().filter(|entry| entry.head.kind != Kind::Gap).map(|entry| entry.head.tick);
        match (ticks.next(), ticks.next_back()) {
            (None, _) => "none".to_owned(),
            (Some(only), None) => format!("tick {only}"),
            (Some(first), Some(last)) => format!("ticks {first} to {last}"),
        }
    }

    /// Everything in the recording, in its order.
    pub fn events(&self) -> impl Iterator<Item = Event> {
        Reader { recording: self, next: 0, chain: Chain::default() }
    }

    /// What a record of a beat holds, uncompressed.
    fn raw(&self, entry: &Entry) -> Result<Vec<u8>, Corrupt> {
        let Head { payload, raw, payload_crc, .. } = entry.head;
        if raw as usize > LARGEST_RAW || u64::from(raw) > u64::from(payload) * LARGEST_RATIO {
            return Err(Corrupt("it is too large"));
        }
        // The index holds only records that lie within the file, so this is in proportion to it.
        let mut bytes = vec![0; payload as usize];
        let found = self.source.read(entry.at + RECORD_HEAD as u64, &mut bytes);
        if found.is_err() || found.is_ok_and(|found| found < bytes.len()) {
            return Err(Corrupt("the file ends or cannot be read there"));
        }
        if crc32fast::hash(&bytes) != payload_crc {
            return Err(Corrupt("its checksum does not match"));
        }
        let bytes = zstd::bulk::decompress(&bytes, raw as usize);
        let bytes = bytes.map_err(|_| Corrupt("it cannot be decompressed"))?;
        if bytes.len() == raw as usize { Ok(bytes) } else { Err(Corrupt("it is shorter than it should be")) }
    }
}

/// The records of one stretch, each resting on the one before.
#[derive(Default)]
struct Chain {
    decoder: Decoder,
    /// Number and session of the last record, if the next may rest on it.
    last: Option<(u32, u64)>,
}

struct Reader<'r> {
    recording: &'r Recording,
    next: usize,
    chain: Chain,
}

impl Reader<'_> {
    fn beat(&mut self, entry: &Entry) -> Result<RecordedBeat, Corrupt> {
        let Head { kind, number, session, tick, urgent, .. } = entry.head;
        let whole = kind == Kind::Whole;
        let last = self.chain.last.take();
        if !whole && last.is_none_or(|(last, its)| (last.wrapping_add(1), its) != (number, session)) {
            return Err(Corrupt("it rests on a record that is damaged or not there"));
        }
        let raw = self.recording.raw(entry)?;
        let beat = self.chain.decoder.decode(session, whole, &raw)?;
        if (beat.moment.tick, beat.moment.urgent) != (tick, urgent) {
            return Err(Corrupt("its head is of another beat"));
        }
        self.chain.last = Some((number, session));
        Ok(beat)
    }

    /// Passes over what rests on a damaged record; gaps in between are damage's, too.
    fn damaged(&mut self, at: u64, why: &'static str) -> Event {
        let rest = &self.recording.index[self.next..];
        let rests = rest.iter().take_while(|entry| entry.head.kind != Kind::Whole).count();
        self.next += rests;
        self.chain.last = None;
        Event::Damaged(Damage { at, records: 1 + rests as u32, why })
    }
}

impl Iterator for Reader<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        let entry = *self.recording.index.get(self.next)?;
        self.next += 1;
        let Head { kind, number, session, tick, urgent, raw, .. } = entry.head;
        if kind == Kind::Gap {
            let follows = |(last, its): (u32, u64)| (last.wrapping_add(1), its) == (number, session);
            self.chain.last = self.chain.last.filter(|last| follows(*last)).map(|_| (number, session));
            return Some(Event::Gap(Gap { beats: raw, first_tick: tick, last_tick: urgent }));
        }
        Some(match self.beat(&entry) {
            Ok(beat) => Event::Beat(Box::new(beat)),
            Err(Corrupt(why)) => self.damaged(entry.at, why),
        })
    }
}

#[doc(hidden)]
pub fn fuzz_read(bytes: &[u8]) {
    let Some((first, rest)) = bytes.split_first() else { return };
    // Checksums and compression hide what is inside from a fuzzer, so most inputs are what they protect.
    if *first == 0 {
        if let Ok(recording) = Recording::from_bytes(rest.to_vec()) {
            recording.events().for_each(drop);
            _ = recording.beat(1);
        }
        return;
    }
    let mut decoder = Decoder::default();
    for (at, raw) in rest.split(|byte| *byte == 0xfe).enumerate() {
        if decoder.decode(1, at == 0, raw).is_err() {
            return;
        }
    }
}
