//! Signals of the process, on a thread with a separate runtime: the second stop signal ends the process even if the node's
//! runtime, or its start, hangs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};

use super::exit;
use super::lines::OutputLines;

/// Stop signals within this time are one: `timeout` sends two within a millisecond, to the process and to its group. People
/// who press Ctrl-C again have read that the node is stopping.
const SAME_STOP: Duration = Duration::from_millis(300);

/// How long the end of the process may take. Handlers of C libraries run at the end, and a thread that hangs may hold a lock
/// that they need.
const LAST_EXIT: Duration = Duration::from_millis(500);

/// See the module.
pub(super) struct Signals {
    stop: watch::Receiver<Option<&'static str>>,
    hangup: Arc<Notify>,
}

/// Waits for the first stop signal.
pub(super) struct StopSignal(watch::Receiver<Option<&'static str>>);

impl Signals {
    /// Handles signals from now on. This long after the first stop signal, the process ends if it has not ended by itself.
    ///
    /// # Errors
    /// If the system refuses a thread or a handler.
    pub fn start(after_stop: Duration, log: OutputLines) -> std::io::Result<Self> {
        let (stop_tx, stop) = watch::channel(None);
        let hangup = Arc::new(Notify::new());
        let hangup_tx = Arc::clone(&hangup);
        let (ready_tx, ready) = oneshot::channel();
        let run = move || {
            let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    _ = ready_tx.send(Err(error));
                    return;
                }
            };
            let why = runtime.block_on(handle(stop_tx, hangup_tx, ready_tx, after_stop));
            if let Some(why) = why {
                end_now(why, &log);
            }
        };
        std::thread::Builder::new().name("gk-signals".into()).spawn(run)?;
        ready.blocking_recv().map_err(std::io::Error::other)??;
        Ok(Self { stop, hangup })
    }

    pub fn stop(&mut self) -> StopSignal {
        StopSignal(self.stop.clone())
    }

    /// Notified by SIGHUP.
    pub fn hangup(&self) -> Arc<Notify> {
        Arc::clone(&self.hangup)
    }
}

impl StopSignal {
    /// Completes after the first stop signal, with its name.
    pub async fn told(&mut self) -> &'static str {
        match self.0.wait_for(Option::is_some).await {
            Ok(name) => name.unwrap_or("a signal"),
            Err(_) => "signals have ended",
        }
    }
}

/// Handles signals until the process has to end at once. Returns why.
async fn handle(
    stop_tx: watch::Sender<Option<&'static str>>,
    hangup_tx: Arc<Notify>,
    ready_tx: oneshot::Sender<std::io::Result<()>>,
    after_stop: Duration,
) -> Option<&'static str> {
    // With a handler, a file above the limit of file sizes is an error of the write, as a full disk is. Without one it kills.
    let too_large = SignalKind::from_raw(Signal::XFSZ.as_raw());
    let all = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), too_large].map(signal);
    let [Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup), Ok(_)] = all else {
        let error =
            all.into_iter().find_map(Result::err).unwrap_or_else(|| std::io::Error::other("no signals"));
        _ = ready_tx.send(Err(error));
        return None;
    };
    _ = ready_tx.send(Ok(()));
    let mut first: Option<Instant> = None;
    loop {
        let left = first.map(|at| after_stop.saturating_sub(at.elapsed()));
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
            _ = hangup.recv() => {
                hangup_tx.notify_one();
                continue;
            }
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {
                return Some("the shutdown took longer than its deadline: ending at once");
            }
        };
        match first {
            None => {
                first = Some(Instant::now());
                stop_tx.send_replace(Some(name));
            }
            Some(at) if at.elapsed() < SAME_STOP => {}
            Some(_) => return Some("told to stop a second time: ending at once"),
        }
    }
}

/// Ends the process, whatever its threads do.
#[expect(clippy::exit, reason = "the main thread may hang, and no drop gives anything back then")]
fn end_now(why: &'static str, log: &OutputLines) -> ! {
    _ = std::thread::Builder::new().name("gk-kill".into()).spawn(|| {
        std::thread::sleep(LAST_EXIT);
        _ = kill_process(getpid(), Signal::KILL);
    });
    tracing::warn!("{why}");
    log.flush(LAST_EXIT / 2);
    std::process::exit(exit::FAILED.into());
}
