//! Maps HTTP requests to answers. Decides only about status codes.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

use super::answers::{ErrorBody, Health};
use super::caller::Caller;
use super::explain::ExplainError;
use super::{AdminState, answers};
use crate::cycle::BeatReport;
use crate::reload::ReloadReport;

/// Peers and records in one answer, unless the request names a number.
const USUAL_LIMIT: usize = 1000;

#[derive(Deserialize)]
pub(super) struct LimitQuery {
    limit: Option<usize>,
}

impl LimitQuery {
    fn or_usual(&self) -> usize {
        self.limit.unwrap_or(USUAL_LIMIT)
    }
}

/// An error answer: a status other than 200, and the reason.
pub(super) struct ErrorResponse(pub(super) StatusCode, pub(super) String);

impl ErrorResponse {
    pub(super) fn new(code: StatusCode, why: String) -> Self {
        Self(code, why)
    }
}

impl IntoResponse for ErrorResponse {
    fn into_response(self) -> Response {
        let Self(code, error) = self;
        (code, Json(ErrorBody { error })).into_response()
    }
}

impl From<String> for ErrorResponse {
    fn from(error: String) -> Self {
        Self(StatusCode::CONFLICT, error)
    }
}

impl From<ExplainError> for ErrorResponse {
    fn from(no_one: ExplainError) -> Self {
        let code = match no_one {
            ExplainError::NotAName(_) => StatusCode::BAD_REQUEST,
            ExplainError::Unknown { .. } => StatusCode::NOT_FOUND,
            ExplainError::Several(..) => StatusCode::CONFLICT,
        };
        Self(code, no_one.to_string())
    }
}

type AdminResult<T> = Result<Json<T>, ErrorResponse>;
type AppState = State<Arc<AdminState>>;

pub(super) async fn status(State(node): AppState) -> Json<answers::NodeStatus> {
    Json(node.status())
}

pub(super) async fn peers(State(node): AppState, Query(limit): Query<LimitQuery>) -> Json<answers::Peers> {
    Json(node.peers(limit.or_usual()))
}

pub(super) async fn phases(State(node): AppState) -> Json<answers::PhaseList> {
    Json(node.phases())
}

pub(super) async fn view(State(node): AppState) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], node.view().to_json()).into_response()
}

pub(super) async fn resume(
    State(node): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> AdminResult<answers::ResumeAnswer> {
    Ok(Json(node.resume(name, caller.into()).await?))
}

pub(super) async fn pause(
    State(node): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> AdminResult<answers::ResumeAnswer> {
    Ok(Json(node.pause(name, caller.into()).await?))
}

pub(super) async fn run_now(
    State(node): AppState,
    caller: Caller,
    Path(name): Path<String>,
) -> AdminResult<BeatReport> {
    Ok(Json(Arc::unwrap_or_clone(node.run_now(&name, caller.into()).await?)))
}

pub(super) async fn reload(State(node): AppState, caller: Caller) -> AdminResult<ReloadReport> {
    Ok(Json(node.reload(caller.into()).await?))
}

#[derive(Deserialize)]
pub(super) struct HoldQuery {
    #[serde(rename = "for")]
    seconds: u16,
}

pub(super) async fn hold(
    State(node): AppState,
    Query(hold): Query<HoldQuery>,
) -> AdminResult<answers::ReloadHold> {
    Ok(Json(node.hold(Duration::from_secs(hold.seconds.into())).await?))
}

pub(super) async fn explain(
    State(node): AppState,
    Path(who): Path<String>,
) -> AdminResult<answers::Explanation> {
    Ok(Json(node.explain(&who).await?))
}

pub(super) async fn metrics(State(node): AppState) -> Response {
    let text = node.metrics.render(&node.sources);
    ([(header::CONTENT_TYPE, crate::metrics::CONTENT_TYPE)], text).into_response()
}

pub(super) async fn healthz(State(node): AppState) -> Response {
    health(node.alive())
}

pub(super) async fn readyz(State(node): AppState) -> Response {
    health(node.ready())
}

fn health(health: Health) -> Response {
    let code = if health.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(health)).into_response()
}

pub(super) async fn nothing_here() -> ErrorResponse {
    ErrorResponse(StatusCode::NOT_FOUND, "there is nothing at this path".to_owned())
}

/// The answer of a starting node to every request.
pub(super) const STARTING: &str = "the node is starting: it is loading its phases";
