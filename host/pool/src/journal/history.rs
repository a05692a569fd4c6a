//! Reads the journal's files, newest record first. Blocks on the disk: never call it where others wait.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Record;
use super::file::{LostLines, open_regular, rotated};

/// Bytes read at once.
const BLOCK: usize = 64 * 1024;

/// A record is below 4 KiB unless a guest writes long reasons. More without a line end is a damaged file.
const LONGEST_LINE: usize = 256 * 1024;

const MORE_RECORDS: &str = "there may be more than were asked for; `--last N` lists more";

/// How much one reading may cost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReadLimits {
    /// Bytes of all files together.
    pub bytes: u64,
    /// Real time. Checked before each block, so a disk that does not answer takes longer.
    pub time: Duration,
    /// Records that were found.
    pub records: usize,
}

impl Default for ReadLimits {
    /// 256 MiB, two files of twice the default size together; 2 s; 10,000 records.
    fn default() -> Self {
        Self { bytes: 256 << 20, time: Duration::from_secs(2), records: 10_000 }
    }
}

/// What was found in the journal's files.
#[derive(Clone, PartialEq, Debug, Default)]
#[non_exhaustive]
pub struct JournalHistory {
    /// Oldest first.
    pub records: Vec<Record>,
    /// Wall time of the oldest record that was read, wanted or not, in milliseconds since 1970.
    pub from_unix_ms: Option<u64>,
    /// Lines that are not records: torn by a crash, damaged, or written by a newer version.
    pub unreadable: u64,
    /// Records that the writer reports as lost, in a line `{"lines_lost": 3}` in their place.
    pub lost: u64,
    /// The limit that ended the reading before the end of the files.
    pub cut: Option<&'static str>,
}

impl JournalHistory {
    /// Finds the newest records that `keep` accepts, in the file `path` and its rotated predecessor `<path>.1`. A file that
    /// is not there is empty.
    ///
    /// # Errors
    /// If a file cannot be opened, is not a regular file, or cannot be read.
    pub fn read(path: &Path, limits: ReadLimits, keep: impl FnMut(&Record) -> bool) -> io::Result<Self> {
        let mut reading =
            Reading { keep, limits, until: Instant::now() + limits.time, bytes: 0, found: Self::default() };
        // Both are opened first, so that a rotation in between cannot hide one.
        let newest = open(path)?;
        let older = open(&rotated(path))?;
        let is_same = match (&newest, &older) {
            (Some(newest), Some(older)) => identity(newest)? == identity(older)?,
            _ => false,
        };
        for file in [newest, older.filter(|_| !is_same)].into_iter().flatten() {
            reading.backwards(&file)?;
            if reading.found.cut.is_some() {
                break;
            }
        }
        reading.found.records.reverse();
        Ok(reading.found)
    }
}

fn open(path: &Path) -> io::Result<Option<File>> {
    match open_regular(path, OpenOptions::new().read(true)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn identity(file: &File) -> io::Result<(u64, u64)> {
    let about = file.metadata()?;
    Ok((about.dev(), about.ino()))
}

struct Reading<K> {
    keep: K,
    limits: ReadLimits,
    until: Instant,
    bytes: u64,
    /// Newest first.
    found: JournalHistory,
}

impl<K: FnMut(&Record) -> bool> Reading<K> {
    fn backwards(&mut self, file: &File) -> io::Result<()> {
        let mut at = file.metadata()?.len();
        // The beginning of a block, whose line began in an earlier one.
        let mut rest = Vec::new();
        let mut is_too_long = false;
        while at > 0 {
            let size = at.min(BLOCK as u64);
            if self.is_cut(size) {
                return Ok(());
            }
            at -= size;
            let mut block = vec![0; size as usize];
            match file.read_exact_at(&mut block, at) {
                Ok(()) => {}
                // Another program has shortened the file.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Err(error) => return Err(error),
            }
            let Some(first_end) = block.iter().position(|byte| *byte == b'\n') else {
                block.extend_from_slice(&rest);
                is_too_long |= block.len() > LONGEST_LINE;
                rest = if is_too_long { Vec::new() } else { block };
                continue;
            };
            let later = block.split_off(first_end + 1);
            let mut lines = later.rsplit(|byte| *byte == b'\n');
            let mut last = lines.next().unwrap_or_default().to_vec();
            last.extend_from_slice(&rest);
            self.line(&last, std::mem::take(&mut is_too_long));
            for line in lines {
                self.line(line, false);
            }
            // Without its line end.
            block.pop();
            rest = block;
        }
        self.line(&rest, is_too_long);
        Ok(())
    }

    fn line(&mut self, line: &[u8], is_too_long: bool) {
        if line.is_empty() && !is_too_long {
            return;
        }
        if self.found.records.len() >= self.limits.records {
            self.found.cut = Some(MORE_RECORDS);
            return;
        }
        match serde_json::from_slice::<Record>(line) {
            Ok(record) if !is_too_long => {
                self.found.from_unix_ms = Some(record.unix_ms);
                if (self.keep)(&record) {
                    self.found.records.push(record);
                }
            }
            _ => match serde_json::from_slice::<LostLines>(line) {
                Ok(LostLines { lines_lost }) => self.found.lost = self.found.lost.saturating_add(lines_lost),
                Err(_) => self.found.unreadable += 1,
            },
        }
    }

    /// Whether a limit ends the reading before `size` more bytes.
    fn is_cut(&mut self, size: u64) -> bool {
        self.bytes += size;
        self.found.cut = if self.found.records.len() >= self.limits.records {
            Some(MORE_RECORDS)
        } else if self.bytes > self.limits.bytes {
            Some("the files are larger than what is read at once")
        } else if Instant::now() >= self.until {
            Some("reading took too long")
        } else {
            None
        };
        self.found.cut.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use groundskeeper_base::clock::TokioClock;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use tempfile::TempDir;

    use super::super::{ActionKind, Initiator, Journal, JournalFile, JournalLimits, NewRecord};
    use super::*;

    /// A file with `count` records of one start, in a new folder.
    fn written(count: u64, max_bytes: u64) -> (TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        write(&path, count, max_bytes);
        (folder, path)
    }

    fn write(path: &Path, count: u64, max_bytes: u64) {
        let file = JournalFile::open(path, max_bytes).unwrap();
        let clock = TokioClock::starting_at(Duration::from_secs(1_700_000_000));
        let journal = Journal::new(clock, JournalLimits::default(), Some(file));
        for n in 1..=count {
            journal.record(NewRecord::new(Initiator::Host, ActionKind::Late, format!("round {n}")));
        }
    }

    fn append(path: &Path, bytes: &[u8]) {
        io::Write::write_all(&mut OpenOptions::new().append(true).open(path).unwrap(), bytes).unwrap();
    }

    fn read(path: &Path) -> JournalHistory {
        JournalHistory::read(path, ReadLimits::default(), |_| true).unwrap()
    }

    fn numbers(history: &JournalHistory) -> Vec<u64> {
        history.records.iter().map(|record| record.seq).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn both_files_are_read_oldest_first() {
        let (_folder, path) = written(1_500, 150_000);
        assert!(rotated(&path).exists() && fs::metadata(&path).unwrap().len() > BLOCK as u64);
        let history = read(&path);
        let last_kept: Vec<u64> = (1_501 - history.records.len() as u64..=1_500).collect();
        assert!(history.records.len() > 700 && numbers(&history) == last_kept);
        assert_eq!((history.unreadable, history.cut), (0, None));
        assert_eq!(history.from_unix_ms, Some(1_700_000_000_000));
        let wanted = |record: &Record| record.reason.ends_with('7');
        let sevens = JournalHistory::read(&path, ReadLimits::default(), wanted).unwrap();
        assert!(sevens.records.iter().all(|record| record.seq % 10 == 7) && sevens.records.len() > 70);
    }

    #[tokio::test(start_paused = true)]
    async fn torn_and_damaged_lines_are_counted_and_hide_nothing_else() {
        let (_folder, path) = written(3, 1 << 20);
        append(&path, b"{\"seq\":4,\"unix_ms\":17000");
        assert_eq!((numbers(&read(&path)), read(&path).unreadable), (vec![1, 2, 3], 1));
        // The next start begins a line of its own.
        write(&path, 2, 1 << 20);
        append(&path, b"\xff\xfe not text\n{\"what\":\"a newer kind\"}\n\n");
        append(&path, b"{\"lines_lost\":7}\n");
        append(&path, &vec![0; 3 * LONGEST_LINE]);
        write(&path, 1, 1 << 20);
        assert_eq!((numbers(&read(&path)), read(&path).unreadable), (vec![1, 2, 3, 1, 2, 1], 4));
        assert_eq!(read(&path).lost, 7);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reading_keeps_to_its_limits_and_says_which_ended_it() {
        let (_folder, path) = written(2_000, 1 << 20);
        let limited = |limits| JournalHistory::read(&path, limits, |_| true).unwrap();
        let few = limited(ReadLimits { records: 5, ..ReadLimits::default() });
        assert_eq!((numbers(&few), few.cut), ((1_996..=2_000).collect(), Some(MORE_RECORDS)));
        let small = limited(ReadLimits { bytes: BLOCK as u64, ..ReadLimits::default() });
        assert!(small.records.len() < 1_000 && small.cut.is_some_and(|cut| cut.contains("larger")));
        let short = limited(ReadLimits { time: Duration::ZERO, ..ReadLimits::default() });
        assert!(short.records.is_empty() && short.cut.is_some_and(|cut| cut.contains("long")));
        let all = limited(ReadLimits { records: 2_000, ..ReadLimits::default() });
        assert_eq!((all.records.len(), all.cut), (2_000, None));
    }

    #[test]
    fn a_missing_file_is_empty_and_anything_but_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        assert_eq!(read(&path), JournalHistory::default());
        let (target, link, pipe) =
            (path.with_extension("target"), path.with_extension("link"), path.with_extension("pipe"));
        fs::write(&target, "mine").unwrap();
        symlink(&target, &link).unwrap();
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
        for planted in [&link, &pipe, &folder.path().to_owned()] {
            assert!(JournalHistory::read(planted, ReadLimits::default(), |_| true).is_err());
            assert!(JournalFile::open(planted, 1 << 20).is_err());
        }
        assert_eq!(fs::read(&target).unwrap(), b"mine");
    }

    #[test]
    fn the_file_is_not_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        drop(JournalFile::open(&path, 1 << 20).unwrap());
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        drop(JournalFile::open(&path, 1 << 20).unwrap());
        assert_eq!(mode(), 0o660);
    }
}
