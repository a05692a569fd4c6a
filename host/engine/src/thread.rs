//! The thread that phases run on, and what happens if a phase does not return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::time::Duration;

use crate::{PhaseCall, PhaseProgram, RunOutcome, RunResult};

struct QueuedRun {
    body: Arc<dyn PhaseProgram>,
    job: PhaseCall,
    inside: Arc<AtomicBool>,
    done: std::sync::mpsc::SyncSender<RunResult>,
}

/// Threads that may be left behind at one time. Each holds its stack, and what the phase holds, until the phase returns.
pub const MOST_STUCK: usize = 2;

/// A thread that runs phases one at a time. One whose phase does not return is left behind and replaced, up to
/// [`MOST_STUCK`] times.
#[derive(Default)]
pub struct PhaseThread {
    calls: Option<Sender<QueuedRun>>,
    /// One for each thread that was left behind: true until its phase returns.
    stuck: Vec<Arc<AtomicBool>>,
}

impl PhaseThread {
    fn start() -> std::io::Result<Sender<QueuedRun>> {
        let (calls, waiting) = channel::<QueuedRun>();
        std::thread::Builder::new().name("gk-phases".into()).spawn(move || {
            while let Ok(QueuedRun { body, job, inside, done }) = waiting.recv() {
                let ended = body.run(&job);
                inside.store(false, Ordering::Release);
                // Fails if the caller stopped waiting.
                _ = done.send(ended);
            }
        })?;
        Ok(calls)
    }

    pub(super) fn stuck(&self) -> usize {
        self.stuck.iter().filter(|inside| inside.load(Ordering::Acquire)).count()
    }

    /// The thread that waits for calls, or a new one.
    fn calls(&mut self) -> Result<Sender<QueuedRun>, String> {
        if let Some(calls) = self.calls.take() {
            return Ok(calls);
        }
        self.stuck.retain(|inside| inside.load(Ordering::Acquire));
        if self.stuck.len() >= MOST_STUCK {
            return Err(format!("{MOST_STUCK} native phases have not returned, and each holds a thread"));
        }
        Self::start().map_err(|error| format!("no thread to run it on: {error}"))
    }

    pub(super) fn run(&mut self, body: Arc<dyn PhaseProgram>, job: PhaseCall, limit: Duration) -> RunResult {
        let calls = match self.calls() {
            Ok(calls) => calls,
            // It comes back by itself, so the caller's thread serves as well.
            Err(_) if body.always_returns() => return body.run(&job),
            Err(words) => return RunOutcome::Shortage(words).into(),
        };
        let inside = Arc::new(AtomicBool::new(true));
        let (done, answer) = sync_channel(1);
        // Fails if the thread has ended; then `recv_timeout` fails too.
        _ = calls.send(QueuedRun { body, job, inside: Arc::clone(&inside), done });
        match answer.recv_timeout(limit) {
            Ok(done) => {
                self.calls = Some(calls);
                done
            }
            // The stuck thread keeps its empty queue and ends when its phase returns. The next run starts another thread.
            Err(RecvTimeoutError::Timeout) => {
                self.stuck.push(Arc::clone(&inside));
                RunOutcome::Overran { limit, inside }.into()
            }
            Err(RecvTimeoutError::Disconnected) => {
                RunOutcome::Panicked("the phase thread ended".to_owned()).into()
            }
        }
    }
}
