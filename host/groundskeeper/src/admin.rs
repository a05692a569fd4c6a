//! The interface for operators of a running node: a local API on a unix socket, and a read-only telemetry listener. Only
//! the verbs of the socket change anything. Neither is meant for the public internet.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::routing::{get, post};
use axum::{Extension, Router};
use groundskeeper_base::descriptors;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::journal::Initiator;
use crate::metrics::{MetricSources, Metrics};
use crate::reload::ConfigReport;
use crate::ticker::TickerHandle;

pub mod answers;
mod caller;
mod client;
mod connection;
mod explain;
mod explain_phase;
mod fuzz;
mod journal;
mod listener;
mod past;
mod refusals;
mod routes;
mod server;
mod share;
mod socket;
mod state;
mod tap;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, path_segment};
#[doc(hidden)]
pub use fuzz::fuzz_answer;
pub use past::Past;
pub use refusals::ApiRefusals;
pub(crate) use refusals::{Door, Turned};
pub(crate) use server::AdminServer;
pub use server::{AdminError, AdminSettings};
pub use socket::{AdminSocket, SocketError};

use connection::Routes;
use listener::ApiListener;
use share::Shares;
use tap::TapHub;

/// Everything that the API reads.
#[derive(Clone)]
pub struct AdminState {
    pub sources: MetricSources,
    pub metrics: Arc<Metrics>,
    pub network: String,
    /// The addresses on which the node listens, as bound.
    pub local_addrs: Vec<SocketAddr>,
    /// Runs functions between two beats. `None`: no changes are possible.
    pub ticker: Option<TickerHandle>,
    /// Reads the config again. `None`: there is no config to read.
    pub reconfigure: Option<Reconfigure>,
    /// What `explain` and `journal` know beyond the journal in memory.
    pub past: Arc<Past>,
}

/// Reads the config again and applies what can change. The journal names the given initiator.
pub type Reconfigure =
    Arc<dyn Fn(Initiator) -> Pin<Box<dyn Future<Output = ConfigReport> + Send>> + Send + Sync>;

/// Serves the admin socket until `shutdown` completes, then removes the socket.
pub async fn serve_admin(socket: AdminSocket, node: Arc<AdminState>, shutdown: impl Future<Output = ()>) {
    let (hub, stop) = (TapHub::new(Arc::clone(&node)), CancellationToken::new());
    let listener = admin_listener(socket, node.sources.refusals.as_ref().unwrap_or(&Arc::default()));
    listener.routes.get_or_init(|| admin_routes(node, Arc::clone(&hub)));
    tokio::join!(listener.run(stop.clone()), hub.run(stop.clone()), async {
        shutdown.await;
        stop.cancel();
    });
}

fn admin_listener(socket: AdminSocket, refusals: &Arc<ApiRefusals>) -> ApiListener<AdminSocket> {
    ApiListener {
        door: Door::Socket,
        shares: Shares::for_socket(socket.owner(), descriptors::limit().for_local_api() as usize),
        listener: socket,
        routes: Routes::default(),
        refusals: Arc::clone(refusals),
    }
}

fn telemetry_listener(listener: TcpListener, refusals: &Arc<ApiRefusals>) -> ApiListener<TcpListener> {
    ApiListener {
        door: Door::Telemetry,
        shares: Shares::for_telemetry(),
        listener,
        routes: Routes::default(),
        refusals: Arc::clone(refusals),
    }
}

fn admin_routes(node: Arc<AdminState>, hub: Arc<TapHub>) -> Router {
    let routes = telemetry_routes()
        .route("/status", get(routes::status))
        .route("/peers", get(routes::peers))
        .route("/phases", get(routes::phases))
        .route("/phases/{name}/resume", post(routes::resume))
        .route("/phases/{name}/pause", post(routes::pause))
        .route("/phases/{name}/run", post(routes::run_now))
        .route("/tap", get(tap::tap))
        .route("/reload", post(routes::reload))
        .route("/reload/hold", post(routes::hold))
        .route("/explain/{who}", get(routes::explain))
        .route("/journal", get(journal::journal))
        .route("/view", get(routes::view));
    routes.layer(Extension(hub)).with_state(node)
}

/// `/metrics`, `/healthz` and `/readyz`.
fn telemetry_routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/metrics", get(routes::metrics))
        .route("/healthz", get(routes::healthz))
        .route("/readyz", get(routes::readyz))
        .fallback(routes::nothing_here)
}
