//! The journal's file: JSON lines, written by a separate thread. Recording never waits for the disk.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, TrySendError, channel, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use groundskeeper_base::write::open_own;
use rustix::fs::OFlags;

use super::Record;

/// The file names peers with their addresses: its owner alone reads it, whatever the umask is.
const MODE: u32 = 0o600;

/// Lines that may wait for the disk: a burst of one tick at 10,000 peers. Further lines are counted as lost.
const WAITING_LINES: usize = 16_384;

/// How often a caller looks whether the queue has room again.
const LOOK: Duration = Duration::from_millis(5);

/// Maximum time that dropping a file waits for its lines: a disk that hangs must not hold up the end of a node.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// An open journal file. Dropping it writes the lines that still wait, for at most a second. After a wait for
/// its lines, dropping it does not block.
pub struct JournalFile {
    path: PathBuf,
    lines: Option<SyncSender<JournalJob>>,
    lost: Arc<AtomicU64>,
    /// Disconnected when the writer has ended.
    ended: Mutex<Receiver<()>>,
    /// Since when the writer has been writing the lines that it has taken.
    busy_since: Arc<Mutex<Option<Instant>>>,
    /// The owner has waited for the lines, so dropping need not.
    is_finished: AtomicBool,
}

/// Work for the thread that writes.
enum JournalJob {
    Line(Box<Record>),
    /// Dropped when everything before it is written.
    Mark(Sender<()>),
}

impl JournalFile {
    /// Appends to `path`. When the file passes `max_bytes` it is renamed to `<path>.1`, replacing an older one.
    ///
    /// A new file has mode 0600, whatever the umask is. Others than owner and group lose the right to use one that is
    /// there already.
    ///
    /// # Errors
    /// If the file cannot be opened for appending, or if it is a link, a pipe or anything else but a regular file.
    pub fn open(path: &Path, max_bytes: u64) -> io::Result<Self> {
        let mut out = JournalOutput::open(path.to_owned(), max_bytes)?;
        let (lines, waiting) = sync_channel(WAITING_LINES);
        let lost = Arc::new(AtomicU64::new(0));
        let busy_since = Arc::new(Mutex::new(None));
        let (counter, busy) = (Arc::clone(&lost), Arc::clone(&busy_since));
        let (ended_tx, ended) = channel();
        std::thread::Builder::new().name("gk-journal".into()).spawn(move || {
            out.drain(&waiting, &counter, &busy);
            drop(ended_tx);
        })?;
        Ok(Self {
            path: path.to_owned(),
            lines: Some(lines),
            lost,
            ended: Mutex::new(ended),
            busy_since,
            is_finished: AtomicBool::new(false),
        })
    }

    /// Waits, at most this long, until all lines are written. False if they are not.
    pub(super) fn finish(&self, deadline: Duration) -> bool {
        self.is_finished.store(true, Ordering::Relaxed);
        let Some(lines) = &self.lines else { return true };
        let (mark, written) = channel();
        let until = Instant::now() + deadline;
        let mut job = JournalJob::Mark(mark);
        loop {
            match lines.try_send(job) {
                Ok(()) => break,
                Err(TrySendError::Full(back)) if Instant::now() < until => job = back,
                Err(_) => return false,
            }
            std::thread::sleep(LOOK);
        }
        let left = until.saturating_duration_since(Instant::now());
        matches!(written.recv_timeout(left), Err(RecvTimeoutError::Disconnected))
    }

    pub(super) fn append(&self, record: &Record) {
        let sent = self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(JournalJob::Line(Box::new(record.clone()))).is_ok());
        if !sent {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn waited(&self) -> Duration {
        self.busy_since.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for JournalFile {
    fn drop(&mut self) {
        self.lines = None;
        if *self.is_finished.get_mut() {
            return;
        }
        // Ends with an error in any case; if the writer panicked, its panic message has already been printed.
        _ = self.ended.lock().recv_timeout(LAST_WAIT);
    }
}

/// The name of the older file.
pub(super) fn rotated(path: &Path) -> PathBuf {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".1");
    aside.into()
}

/// Whether a line among the first 64 KiB begins as a record does. Lines before it may be damaged.
fn has_records(file: &File) -> io::Result<bool> {
    let mut begin = vec![0; 64 << 10];
    let read = file.read_at(&mut begin, 0)?;
    let begin = &begin[..read];
    Ok(begin.starts_with(b"{") || begin.windows(2).any(|pair| pair == b"\n{"))
}

/// Opens a regular file without waiting and without following a planted link.
pub(super) fn open_regular(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"))
    }
}

/// The line in the place of lines that could not be written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LostLines {
    pub(super) lines_lost: u64,
}

struct JournalOutput {
    path: PathBuf,
    max_bytes: u64,
    written: u64,
    /// A crash or a full disk tore the last line: the next record must not continue it.
    is_torn: bool,
    file: BufWriter<File>,
}

impl JournalOutput {
    fn open(path: PathBuf, max_bytes: u64) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        let file = open_own(&path, options.read(true).append(true), MODE)?;
        let about = file.metadata()?;
        let mode = about.permissions().mode();
        if mode & 0o007 != 0 {
            file.set_permissions(Permissions::from_mode(mode & 0o770))?;
        }
        let written = about.len();
        let mut last = [b'\n'];
        if written > 0 {
            file.read_exact_at(&mut last, written - 1)?;
        }
        if written > 0 && !has_records(&file)? {
            let words = "it is no journal and is left as it is; name another file";
            return Err(io::Error::new(io::ErrorKind::InvalidData, words));
        }
        let is_torn = last != [b'\n'];
        Ok(Self { path, max_bytes, written, is_torn, file: BufWriter::new(file) })
    }

    /// Writes lines until the journal is dropped; flushes whenever no line waits. Marks the places of lost lines.
    fn drain(
        &mut self,
        waiting: &Receiver<JournalJob>,
        lost: &AtomicU64,
        busy_since: &Mutex<Option<Instant>>,
    ) {
        let mut marked = 0;
        let mut written = Vec::new();
        while let Ok(first) = waiting.recv() {
            let mut next = Some(first);
            while let Some(job) = next {
                // For each line, so that a burst on a slow disk is no call that hangs.
                *busy_since.lock() = Some(Instant::now());
                let missing = lost.load(Ordering::Relaxed);
                if missing > marked && self.write(&LostLines { lines_lost: missing - marked }).is_ok() {
                    marked = missing;
                }
                match job {
                    JournalJob::Line(record) if self.write(&record).is_err() => {
                        _ = lost.fetch_add(1, Ordering::Relaxed)
                    }
                    JournalJob::Line(_) => {}
                    JournalJob::Mark(mark) => written.push(mark),
                }
                next = waiting.try_recv().ok();
            }
            if self.file.flush().is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
            *busy_since.lock() = None;
            written.clear();
        }
    }

    fn write(&mut self, record: &impl Serialize) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        if self.is_torn {
            line.insert(0, b'\n');
        }
        if self.written > 0 && self.written + line.len() as u64 > self.max_bytes {
            self.file.flush()?;
            std::fs::rename(&self.path, rotated(&self.path))?;
            *self = Self::open(self.path.clone(), self.max_bytes)?;
        }
        self.file.write_all(&line)?;
        self.is_torn = false;
        self.written += line.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ActionKind, Initiator, Journal, JournalLimits, NewRecord};
    use super::*;
    use groundskeeper_base::clock::TokioClock;

    #[tokio::test(start_paused = true)]
    async fn lines_reach_the_disk_and_the_file_is_rotated() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let file = JournalFile::open(&path, 2_000).unwrap();
        let journal =
            Journal::new(TokioClock::starting_at(Duration::ZERO), JournalLimits::default(), Some(file));
        for round in 0..20 {
            journal.record(NewRecord::new(Initiator::Host, ActionKind::Late, format!("round {round}")));
        }
        assert_eq!(journal.lines_lost(), 0);
        drop(journal);
        let newest = std::fs::read_to_string(&path).unwrap();
        assert!(newest.len() <= 2_000 && folder.path().join("journal.jsonl.1").exists());
        let last: Record = serde_json::from_str(newest.lines().last().unwrap()).unwrap();
        assert_eq!((last.seq, last.reason.as_str()), (20, "round 19"));
    }

    #[test]
    fn lines_that_were_lost_are_marked_in_their_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let mut out = JournalOutput::open(path.clone(), 2_000).unwrap();
        let (jobs, waiting) = sync_channel(4);
        let lost = AtomicU64::new(3);
        let (mark, written) = channel();
        jobs.send(JournalJob::Mark(mark)).unwrap();
        drop(jobs);
        out.drain(&waiting, &lost, &Mutex::new(None));
        assert_eq!(written.recv(), Err(std::sync::mpsc::RecvError), "everything is written");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"lines_lost\":3}\n");
    }

    #[test]
    fn a_file_that_is_no_journal_is_refused_and_a_torn_line_ends_with_the_next_record() {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("node.key");
        std::fs::write(&key, [0x30, 0x51]).unwrap();
        let refused = JournalFile::open(&key, 2_000).err().expect("a key is no journal").to_string();
        assert!(refused.contains("no journal and is left as it is"), "{refused}");
        assert_eq!(std::fs::read(&key).unwrap(), [0x30, 0x51]);
        let torn = folder.path().join("journal.jsonl");
        std::fs::write(&torn, "{\"seq\":1").unwrap();
        let mut out = JournalOutput::open(torn.clone(), 2_000).unwrap();
        assert_eq!(
            std::fs::read_to_string(&torn).unwrap(),
            "{\"seq\":1",
            "a full disk is no reason not to start"
        );
        out.write(&LostLines { lines_lost: 1 }).unwrap();
        out.write(&LostLines { lines_lost: 2 }).unwrap();
        out.file.flush().unwrap();
        let lines = "{\"seq\":1\n{\"lines_lost\":1}\n{\"lines_lost\":2}\n";
        assert_eq!(std::fs::read_to_string(&torn).unwrap(), lines);
    }
}
