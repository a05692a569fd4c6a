//! A named thread that owns a value and does one job after the other with it. No caller has to wait for it.
//!
//! Not tokio's blocking pool: a runtime waits for that when it ends, and a call that hangs would keep the process alive.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::oneshot;

type DiskJob<T> = Box<dyn FnOnce(&mut T) + Send>;

/// Why a job has no result.
#[cfg_attr(not(feature = "node"), allow(dead_code, reason = "only a whole node does not wait for its disks"))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoAnswer {
    /// The job has not ended. It runs on, and its result is dropped.
    Busy(Duration),
    /// The thread has ended: a job panicked.
    Ended,
}

/// See the module. Dropping it ends the thread after the job that it is in.
pub(crate) struct DiskThread<T> {
    jobs: Sender<DiskJob<T>>,
    #[cfg_attr(
        not(feature = "node"),
        allow(dead_code, reason = "only a whole node does not wait for its disks")
    )]
    busy_since: Arc<Mutex<Option<Instant>>>,
}

impl<T: Send + 'static> DiskThread<T> {
    /// Starts a thread of this name, which makes its value first.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(name: &str, make: impl FnOnce() -> T + Send + 'static) -> io::Result<Self> {
        let (jobs, waiting) = channel::<DiskJob<T>>();
        let busy_since = Arc::new(Mutex::new(None));
        let busy = Arc::clone(&busy_since);
        let run = move || {
            let mut owned = make();
            while let Ok(job) = waiting.recv() {
                *busy.lock() = Some(Instant::now());
                // A panic ends the thread, and with it `waiting`: later jobs fail at once.
                let is_done = catch_unwind(AssertUnwindSafe(|| job(&mut owned))).is_ok();
                *busy.lock() = None;
                if !is_done {
                    return;
                }
            }
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
        Ok(Self { jobs, busy_since })
    }

    /// Gives the thread a job. The receiver fails if the job panics, which ends the thread.
    pub fn give<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> oneshot::Receiver<R> {
        let (result_tx, result_rx) = oneshot::channel();
        // The caller may have stopped waiting. If the thread has ended, the job is dropped, which fails the receiver.
        let job = move |owned: &mut T| _ = result_tx.send(job(owned));
        _ = self.jobs.send(Box::new(job));
        result_rx
    }

    /// How long the current job has taken; `None` if there is none.
    #[cfg_attr(
        not(feature = "node"),
        allow(dead_code, reason = "only a whole node does not wait for its disks")
    )]
    pub fn busy(&self) -> Option<Duration> {
        self.busy_since.lock().map(|since| since.elapsed())
    }

    /// Does a job, and waits at most `patience` for its result. Does nothing if an earlier job already takes longer.
    ///
    /// # Errors
    /// [`NoAnswer`].
    #[cfg_attr(
        not(feature = "node"),
        allow(dead_code, reason = "only a whole node does not wait for its disks")
    )]
    pub async fn ask<R: Send + 'static>(
        &self,
        patience: Duration,
        job: impl FnOnce(&mut T) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        if let Some(busy) = self.busy().filter(|busy| *busy >= patience) {
            return Err(NoAnswer::Busy(busy));
        }
        match tokio::time::timeout(patience, self.give(job)).await {
            Ok(result) => result.map_err(|_| NoAnswer::Ended),
            Err(_) => Err(NoAnswer::Busy(patience)),
        }
    }
}

/// Runs `job` on a separate thread, inside the current runtime, and waits for its result. The caller may stop waiting.
///
/// # Errors
/// If the system has no thread left, or `job` panics.
#[cfg_attr(not(feature = "node"), allow(dead_code, reason = "only a whole node does not wait for its disks"))]
pub(crate) async fn on_own_thread<R: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> R + Send + 'static,
) -> io::Result<R> {
    let (result_tx, result_rx) = oneshot::channel();
    let runtime = tokio::runtime::Handle::current();
    let run = move || {
        let _inside = runtime.enter();
        // The caller may have stopped waiting.
        _ = result_tx.send(job());
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
    result_rx.await.map_err(|_| io::Error::other(format!("the thread {name} panicked")))
}
