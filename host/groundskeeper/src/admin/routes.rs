//! From HTTP to the desk and back. Decides nothing but status codes.

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
use super::{Desk, answers};

/// Peers and records in one answer unless the question names a number.
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

pub(super) async fn status(State(desk): State<Arc<Desk>>) -> Json<answers::Status> {
    Json(desk.status())
}

pub(super) async fn peers(State(desk): State<Arc<Desk>>, Query(limit): Query<Limit>) -> Json<answers::Peers> {
    Json(desk.peers(limit.or_usual()))
}

pub(super) async fn phases(State(desk): State<Arc<Desk>>) -> Json<answers::Phases> {
    Json(desk.phases())
}

pub(super) async fn view(State(desk): State<Arc<Desk>>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], desk.view().to_json()).into_response()
}

pub(super) async fn resume(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    match desk.resume(name).await {
        Ok(resumed) => Json(resumed).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(Refusal { error })).into_response(),
    }
}

pub(super) async fn pause(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    match desk.pause(name).await {
        Ok(paused) => Json(paused).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(Refusal { error })).into_response(),
    }
}

pub(super) async fn run_now(State(desk): State<Arc<Desk>>, Path(name): Path<String>) -> Response {
    match desk.run_now(&name).await {
        Ok(report) => Json(&*report).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(Refusal { error })).into_response(),
    }
}

pub(super) async fn reload(State(desk): State<Arc<Desk>>) -> Response {
    match desk.reload().await {
        Ok(report) => Json(report).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(Refusal { error })).into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Hold {
    #[serde(rename = "for")]
    seconds: u16,
}

pub(super) async fn hold(State(desk): State<Arc<Desk>>, Query(hold): Query<Hold>) -> Response {
    match desk.hold(Duration::from_secs(hold.seconds.into())).await {
        Ok(held) => Json(held).into_response(),
        Err(error) => (StatusCode::CONFLICT, Json(Refusal { error })).into_response(),
    }
}

pub(super) async fn explain(State(desk): State<Arc<Desk>>, Path(who): Path<String>) -> Response {
    match desk.explain(&who) {
        Ok(explanation) => Json(explanation).into_response(),
        Err(no_one) => {
            let code = match no_one {
                NoOne::NotAName(_) => StatusCode::BAD_REQUEST,
                NoOne::Unknown(_) => StatusCode::NOT_FOUND,
                NoOne::Several(..) => StatusCode::CONFLICT,
            };
            (code, Json(Refusal { error: no_one.to_string() })).into_response()
        }
    }
}

pub(super) async fn journal(State(desk): State<Arc<Desk>>, Query(limit): Query<Limit>) -> Json<Journal> {
    Json(Journal { records: desk.sources.state.journal.select(limit.or_usual(), |_| true) })
}

pub(super) async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    let text = desk.metrics.render(&desk.sources);
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response()
}

pub(super) async fn healthz(State(desk): State<Arc<Desk>>) -> Response {
    health(desk.alive())
}

pub(super) async fn readyz(State(desk): State<Arc<Desk>>) -> Response {
    health(desk.ready())
}

fn health(health: Health) -> Response {
    let code = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health)).into_response()
}

pub(super) async fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, Json(Refusal { error: "there is nothing at this path".to_owned() }))
        .into_response()
}

/// What a node that is not there yet says to every question.
pub(super) const STARTING: &str = "the node is starting: it is loading its phases";

/// Answers the one request of a connection.
pub(super) async fn starting(stream: impl AsyncRead + AsyncWrite + Unpin) {
    let refusal = || (StatusCode::SERVICE_UNAVAILABLE, Json(Refusal { error: STARTING.to_owned() }));
    let answer = service_fn(async |_| Ok::<_, Infallible>(refusal().into_response()));
    let served = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer).await;
    // Whoever went away before the answer has no use for it.
    served.unwrap_or_default();
}
