//! The tasks that answer operators: started before the node, ended after it has stopped.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::connection::Routes;
use super::refusals::ApiRefusals;
use super::tap::TapHub;
use super::telemetry_routes;
use super::{AdminSocket, AdminState, SocketError, admin_listener, admin_routes, telemetry_listener};
use crate::peer::canonical;

/// Time in which all tasks end. Listeners give open answers half of it.
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
    refusals: Arc<ApiRefusals>,
    /// The answers of the admin socket, if there is one.
    socket: Option<Routes>,
    /// The same of the telemetry listener.
    telemetry: Option<Routes>,
}

impl AdminServer {
    /// Binds the addresses in `settings`. Until [`AdminServer::open`] both answer that the node is starting.
    pub(crate) fn start(settings: &AdminSettings) -> Result<Self, AdminError> {
        let socket = settings.socket.as_deref().map(AdminSocket::bind).transpose()?;
        let telemetry = settings.telemetry.map(listen).transpose()?;
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let refusals = Arc::<ApiRefusals>::default();
        let socket = socket.map(|socket| {
            let listener = admin_listener(socket, &refusals);
            let routes = Arc::clone(&listener.routes);
            tasks.spawn(listener.run(stop.clone()));
            routes
        });
        let telemetry = telemetry.map(|listener| {
            let listener = telemetry_listener(listener, &refusals);
            let routes = Arc::clone(&listener.routes);
            tasks.spawn(listener.run(stop.clone()));
            routes
        });
        Ok(Self { stop: stop.drop_guard(), tasks, refusals, socket, telemetry })
    }

    /// From now on, answers for `node`.
    pub(crate) fn open(&mut self, mut node: AdminState) {
        if self.socket.is_none() && self.telemetry.is_none() {
            return;
        }
        node.sources.refusals = Some(Arc::clone(&self.refusals));
        let node = Arc::new(node);
        if let Some(ticker) = &node.ticker {
            let (counted, reports) = (Arc::clone(&node), ticker.reports());
            self.tasks.spawn(async move { counted.metrics.follow(reports, &counted.sources).await });
            let (past, reports) = (Arc::clone(&node.past), ticker.reports());
            let clock = Arc::clone(&node.sources.state.clock);
            self.tasks.spawn(async move { past.follow(reports, clock).await });
        }
        if let Some(routes) = self.telemetry.take() {
            routes.get_or_init(|| telemetry_routes().with_state(Arc::clone(&node)));
        }
        if let Some(routes) = self.socket.take() {
            let hub = TapHub::new(Arc::clone(&node));
            self.tasks.spawn(Arc::clone(&hub).run(self.stop.token().clone()));
            routes.get_or_init(|| admin_routes(node, hub));
        }
    }

    /// Ends the tasks. False if they take too long.
    pub(crate) async fn stop(self) -> bool {
        drop(self.stop);
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
