//! The interface for operators of a running node: a local API on a unix socket, and a read-only telemetry listener. Only
//! the verbs of the socket change anything. Neither is meant for the public internet.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::connect_info::Connected;
use axum::http::{HeaderValue, header};
use axum::routing::{get, post};
use axum::serve::{IncomingStream, Listener as _};
use tokio::net::TcpListener;

use crate::journal::Initiator;
use crate::metrics::{MetricSources, Metrics};
use crate::reload::ConfigReport;
use crate::ticker::TickerHandle;

pub mod answers;
mod caller;
mod client;
mod explain;
mod explain_phase;
mod gate;
mod journal;
mod past;
mod routes;
mod server;
mod socket;
mod state;
mod tap;
#[cfg(test)]
mod tests;

use caller::Caller;
pub use client::{Client, ClientError, path_segment};
pub use gate::ConnectionLimiter;
pub use past::Past;
pub(crate) use server::AdminServer;
pub use server::{AdminError, AdminSettings};
pub use socket::{AdminSocket, SocketError};

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
pub async fn serve_admin(
    socket: AdminSocket,
    node: Arc<AdminState>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    let router = telemetry_routes()
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
    serve(ConnectionLimiter::for_streams(socket), router, node, shutdown).await;
}

/// Answers on the admin socket that the node is starting, until `started`, and returns the socket. The first compilation
/// of phases takes seconds; without an answer, a client would only see its own timeout.
pub async fn serve_starting(socket: AdminSocket, started: impl Future<Output = ()> + Send) -> AdminSocket {
    let mut gate = ConnectionLimiter::new(socket);
    tokio::pin!(started);
    loop {
        let (stream, _) = tokio::select! {
            biased;
            () = &mut started => return gate.into_inner(),
            accepted = gate.accept() => accepted,
        };
        // Ends with its answer, or when the gate's time is up.
        tokio::spawn(routes::starting(stream));
    }
}

/// Serves `/metrics`, `/healthz` and `/readyz` until `shutdown` completes.
pub async fn serve_telemetry(
    listener: TcpListener,
    node: Arc<AdminState>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) {
    serve(ConnectionLimiter::new(listener), telemetry_routes(), node, shutdown).await;
}

fn telemetry_routes() -> Router<Arc<AdminState>> {
    Router::new()
        .route("/metrics", get(routes::metrics))
        .route("/healthz", get(routes::healthz))
        .route("/readyz", get(routes::readyz))
        .fallback(routes::nothing_here)
}

async fn serve<L>(
    listener: ConnectionLimiter<L>,
    router: Router<Arc<AdminState>>,
    node: Arc<AdminState>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
    Caller: for<'a> Connected<IncomingStream<'a, ConnectionLimiter<L>>>,
{
    let router = router.with_state(node).layer(axum::middleware::map_response(one_request_each));
    let router = router.into_make_service_with_connect_info::<Caller>();
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown).await;
    // Errors of `accept` are retried inside. There are no others.
    debug_assert!(served.is_ok());
}

/// One request per connection, so that its time can be limited without cutting off a later request.
async fn one_request_each(mut response: axum::response::Response) -> axum::response::Response {
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
