//! The tasks of one node's network: starts them, counts them and asks them to stop.

use std::future::Future;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// Clones share the same tasks.
#[derive(Clone)]
pub(crate) struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    pub(crate) fn new(runtime: Handle) -> Self {
        Self { runtime, tracker: TaskTracker::new(), stop: CancellationToken::new() }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.tracker.spawn_on(task, &self.runtime).abort_handle()
    }

    pub(crate) fn count(&self) -> usize {
        self.tracker.len()
    }

    /// Asks all tasks to stop.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Ends when the tasks are asked to stop.
    pub(crate) fn stopping(&self) -> WaitForCancellationFuture<'_> {
        self.stop.cancelled()
    }

    /// Ends when all tasks have ended, once [`Tasks::close`] was called.
    pub(crate) async fn ended(&self) {
        self.tracker.wait().await;
    }

    pub(crate) fn close(&self) {
        self.tracker.close();
    }
}
