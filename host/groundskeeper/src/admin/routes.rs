//! Maps HTTP requests to answers. Decides only about status codes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

use super::answers::{Health, Journal, Refusal};
use super::explain::NoOne;
use super::{AdminState, answers};
use crate::cycle::BeatReport;
use crate::reload::ReloadReport;

/// Peers and records in one answer, unless the request names a number.
const USUAL_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub(super) struct Limit {
    limit: Option<usize>,
}

impl Limit {
    fn or_usual(&self) -> usize {
        self.limit.unwrap_or(USUAL_LIMIT)
    }
}

/// An error answer: a status other than 200, and the reason.
pub(super) struct Refused(StatusCode, String);

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Self(code, error) = self;
        (code, Json(Refusal { error })).into_response()
    }
}

impl From<String> for Refused {
    fn from(error: String) -> Self {
        Self(StatusCode::CONFLICT, error)
    }
}

impl From<NoOne> for Refused {
    fn from(no_one: NoOne) -> Self {
        let code = match no_one {
            NoOne::NotAName(_) => StatusCode::BAD_REQUEST,
            NoOne::Unknown(_) => StatusCode::NOT_FOUND,
            NoOne::Several(..) => StatusCode::CONFLICT,
        };
        Self(code, no_one.to_string())
    }
}

type Answer<T> = Result<Json<T>, Refused>;
type Node = State<Arc<AdminState>>;

pub(super) async fn status(State(node): Node) -> Json<answers::Status> {
    Json(node.status())
}

pub(super) async fn peers(State(node): Node, Query(limit): Query<Limit>) -> Json<answers::Peers> {
    Json(node.peers(limit.or_usual()))
}

pub(super) async fn phases(State(node): Node) -> Json<answers::Phases> {
    Json(node.phases())
}

pub(super) async fn view(State(node): Node) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], node.view().to_json()).into_response()
}

pub(super) async fn resume(State(node): Node, Path(name): Path<String>) -> Answer<answers::Resumed> {
    Ok(Json(node.resume(name).await?))
}

pub(super) async fn pause(State(node): Node, Path(name): Path<String>) -> Answer<answers::Resumed> {
    Ok(Json(node.pause(name).await?))
}

pub(super) async fn run_now(State(node): Node, Path(name): Path<String>) -> Answer<BeatReport> {
    Ok(Json(Arc::unwrap_or_clone(node.run_now(&name).await?)))
}

pub(super) async fn reload(State(node): Node) -> Answer<ReloadReport> {
    Ok(Json(node.reload().await?))
}

#[derive(Deserialize)]
pub(super) struct Hold {
    #[serde(rename = "for")]
    seconds: u16,
}

pub(super) async fn hold(State(node): Node, Query(hold): Query<Hold>) -> Answer<answers::Held> {
    Ok(Json(node.hold(Duration::from_secs(hold.seconds.into())).await?))
}

pub(super) async fn explain(State(node): Node, Path(who): Path<String>) -> Answer<answers::Explanation> {
    Ok(Json(node.explain(&who)?))
}

pub(super) async fn journal(State(node): Node, Query(limit): Query<Limit>) -> Json<Journal> {
    Json(Journal { records: node.sources.state.journal.select(limit.or_usual(), |_| true) })
}

pub(super) async fn metrics(State(node): Node) -> Response {
    let text = node.metrics.render(&node.sources);
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response()
}

pub(super) async fn healthz(State(node): Node) -> Response {
    health(node.alive())
}

pub(super) async fn readyz(State(node): Node) -> Response {
    health(node.ready())
}

fn health(health: Health) -> Response {
    let code = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health)).into_response()
}

pub(super) async fn nothing_here() -> Refused {
    Refused(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned())
}

/// The answer of a starting node to every request.
pub(super) const STARTING: &str = "the node is starting: it is loading its phases";

/// Answers the one request of a connection.
pub(super) async fn starting(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let refused = || Refused(StatusCode::SERVICE_UNAVAILABLE, STARTING.to_owned());
    let answer = service_fn(async |_| Ok::<_, Infallible>(refused().into_response()));
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
    // A client that has left does not need the answer.
    served.unwrap_or_default();
}
