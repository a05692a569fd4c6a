//! The tasks that answer operators: started before the node, ended after it has stopped.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::{AdminSocket, AdminState, SocketError, serve_admin, serve_starting, serve_telemetry};
use crate::peer::canonical;

/// Time in which open answers may finish.
const LAST_GRACE: Duration = Duration::from_millis(500);

/// How operators reach a node. Not at all by default.
#[derive(Clone, Debug, Default)]
pub struct AdminSettings {
    /// The unix socket of the local API, used by `groundskeeper status` and other verbs.
    pub socket: Option<PathBuf>,
    /// The address that serves `/metrics`, `/healthz` and `/readyz`.
    pub telemetry: Option<SocketAddr>,
    /// The network's name, for `status`.
    pub network: String,
    /// The addresses on which the node accepts connections, for `status`.
    pub listening: Vec<SocketAddr>,
}

/// Why operators cannot be answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("cannot listen on telemetry.listen = {address}: {error}; choose another address")]
    Telemetry { address: SocketAddr, error: io::Error },
}

/// Answers operators. Dropping it ends the tasks at once.
pub(crate) struct AdminServer {
    stop: DropGuard,
    tasks: TaskTracker,
    ready: Option<oneshot::Sender<Arc<AdminState>>>,
    telemetry: Option<TcpListener>,
}

impl AdminServer {
    /// Binds the addresses in `settings`. Until [`AdminServer::open`] the socket answers that the node is starting.
    pub(crate) fn start(settings: &AdminSettings) -> Result<Self, AdminError> {
        let socket = settings.socket.as_deref().map(AdminSocket::bind).transpose()?;
        let telemetry = settings.telemetry.map(listen).transpose()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let ready = socket.map(|socket| {
            let (ready, node) = oneshot::channel();
            tasks.spawn(answer(socket, node, stop.clone()));
            ready
        });
        Ok(Self { stop: stop.drop_guard(), tasks, ready, telemetry })
    }

    /// From now on, answers for `node`.
    pub(crate) fn open(&mut self, node: AdminState) {
        if self.ready.is_none() && self.telemetry.is_none() {
            return;
        }
        let node = Arc::new(node);
        if let Some(ticker) = &node.ticker {
            let (counted, reports) = (Arc::clone(&node), ticker.reports());
            self.tasks.spawn(async move { counted.metrics.follow(reports, &counted.sources).await });
            let (past, reports) = (Arc::clone(&node.past), ticker.reports());
            let clock = Arc::clone(&node.sources.state.clock);
            self.tasks.spawn(async move { past.follow(reports, clock).await });
        }
        if let Some(listener) = self.telemetry.take() {
            let stopped = self.stop.token().clone().cancelled_owned();
            self.tasks.spawn(serve_telemetry(listener, Arc::clone(&node), stopped));
        }
        if let Some(ready) = self.ready.take() {
            // The task ends before this only together with the runtime.
            _ = ready.send(node);
        }
    }

    /// Ends the tasks. False if they take too long.
    pub(crate) async fn stop(self) -> bool {
        drop((self.stop, self.ready));
        self.tasks.close();
        tokio::time::timeout(LAST_GRACE, self.tasks.wait()).await.is_ok()
    }
}

fn listen(address: SocketAddr) -> Result<TcpListener, AdminError> {
    let listener = StdListener::bind(canonical(address)).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    listener.map_err(|error| AdminError::Telemetry { address, error })
}

/// If the node does not start, ends when the sender of `ready` is dropped.
async fn answer(socket: AdminSocket, ready: oneshot::Receiver<Arc<AdminState>>, stop: CancellationToken) {
    let mut node = None;
    let socket = serve_starting(socket, async { node = ready.await.ok() }).await;
    if let Some(node) = node {
        serve_admin(socket, node, stop.cancelled_owned()).await;
    }
}
