//! The tasks of one node's network: starts them, counts them and asks them to stop.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    /// Cancelled when all tasks must stop.
    pub(crate) stop: CancellationToken,
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

    /// Waits at most `limit` for all tasks to end. True if they have.
    pub(crate) async fn ended_within(&self, limit: Duration) -> bool {
        self.tracker.close();
        tokio::time::timeout(limit, self.tracker.wait()).await.is_ok()
    }
}
