//! Lines for standard output and standard error of a node, written by separate threads. Either may be a pipe that is not
//! read, or a file on a disk that hangs: lines are then dropped and counted, and nothing in the node waits.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

/// Lines that may wait: some seconds of a node with much to say.
const WAITING_LINES: usize = 4096;

/// Hands lines to the thread that writes them.
#[derive(Clone)]
pub(super) struct OutputLines {
    jobs: SyncSender<OutputJob>,
    lost: Arc<AtomicU64>,
    is_closed: Arc<AtomicBool>,
}

enum OutputJob {
    Line(Vec<u8>),
    /// Dropped when everything before it is written.
    Mark(Sender<()>),
}

impl OutputLines {
    /// Starts a thread of this name that writes to `out`.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(name: &str, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (jobs, waiting) = sync_channel(WAITING_LINES);
        let lines = Self { jobs, lost: Arc::default(), is_closed: Arc::default() };
        let (lost, is_closed) = (Arc::clone(&lines.lost), Arc::clone(&lines.is_closed));
        let run = move || write_lines(out, &waiting, &lost, &is_closed);
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(lines)
    }

    /// Waits, at most this long, until the lines so far are written.
    pub fn flush(&self, at_most: Duration) {
        let (mark, written) = channel();
        if self.jobs.try_send(OutputJob::Mark(mark)).is_ok() {
            // Ends when the mark is dropped.
            _ = written.recv_timeout(at_most);
        }
    }

    /// Whether a write has failed: the reader of a pipe has gone.
    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }
}

impl Write for OutputLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.jobs.try_send(OutputJob::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn write_lines(mut out: impl Write, waiting: &Receiver<OutputJob>, lost: &AtomicU64, is_closed: &AtomicBool) {
    while let Ok(job) = waiting.recv() {
        match job {
            OutputJob::Line(line) => {
                let is_written = out.write_all(&line).and_then(|()| out.flush()).is_ok();
                is_closed.store(!is_written, Ordering::Relaxed);
            }
            OutputJob::Mark(mark) => drop(mark),
        }
        let missing = lost.swap(0, Ordering::Relaxed);
        if missing > 0 {
            tracing::warn!(missing, "lines of output are lost: they were not read in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An output that is not read.
    struct Stuck(Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            // Returns when the test is over.
            _ = self.0.recv();
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_not_read_costs_its_lines_and_no_wait() {
        let (reader, stuck) = channel();
        let mut lines = OutputLines::start("test", Stuck(stuck)).unwrap();
        for _ in 0..2 * WAITING_LINES {
            lines.write_all(b"a line\n").unwrap();
        }
        let lost = lines.lost.load(Ordering::Relaxed);
        // All but those that wait, and the one in the hands of the thread.
        assert!((WAITING_LINES as u64 - 1..=WAITING_LINES as u64).contains(&lost), "{lost}");
        lines.flush(Duration::from_millis(1));
        drop(reader);
    }
}
