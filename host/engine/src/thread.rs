//! The thread that phases run on, and what happens if a phase does not return.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel, sync_channel};
use std::time::Duration;

use groundskeeper_sdk::phase::Failure;

use crate::{PhaseCall, PhaseProgram, RunOutcome, RunResult};

struct QueuedRun {
    body: Arc<dyn PhaseProgram>,
    job: PhaseCall,
    inside: Arc<AtomicBool>,
    done: std::sync::mpsc::SyncSender<RunResult>,
}

/// A thread that runs phases one at a time.
#[derive(Default)]
pub struct PhaseThread {
    calls: Option<Sender<QueuedRun>>,
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

    pub(super) fn run(&mut self, body: Arc<dyn PhaseProgram>, job: PhaseCall, limit: Duration) -> RunResult {
        let calls = match self.calls.take().map_or_else(Self::start, Ok) {
            Ok(calls) => calls,
            Err(error) => {
                return RunOutcome::Failed(Failure::transient(format!("no thread to run it on: {error}")))
                    .into();
            }
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
            // The stuck thread keeps its empty queue. The next run starts another thread.
            Err(RecvTimeoutError::Timeout) => RunOutcome::Overran { limit, inside }.into(),
            Err(RecvTimeoutError::Disconnected) => {
                RunOutcome::Panicked("the phase thread ended".to_owned()).into()
            }
        }
    }
}
