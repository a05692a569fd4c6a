//! `GET /journal`: records by filter, from memory and from the files.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;

use super::AdminState;
use super::answers::JournalPage;
use super::routes::ErrorResponse;
use crate::journal::JournalFilter;

/// Records in one answer, unless the request names a number.
const USUAL: usize = 1000;

/// Records in one answer, at most: some 3 MiB.
const MOST: usize = 10_000;

#[derive(Deserialize)]
pub(super) struct JournalQuery {
    limit: Option<usize>,
    since_unix_ms: Option<u64>,
    phase: Option<Arc<str>>,
    peer: Option<String>,
    /// Kinds, with commas between them.
    what: Option<String>,
}

impl JournalQuery {
    fn filter(&self) -> Result<JournalFilter, String> {
        let kinds = self.what.iter().flat_map(|kinds| kinds.split(','));
        Ok(JournalFilter {
            since_unix_ms: self.since_unix_ms.unwrap_or_default(),
            phase: self.phase.clone(),
            peer: self.peer.as_deref().map(str::parse).transpose()?,
            what: kinds.map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

pub(super) async fn journal(
    State(node): State<Arc<AdminState>>,
    Query(query): Query<JournalQuery>,
) -> Result<Json<JournalPage>, ErrorResponse> {
    let filter = query.filter().map_err(|why| ErrorResponse::new(StatusCode::BAD_REQUEST, why))?;
    let limit = query.limit.unwrap_or(USUAL).min(MOST);
    let journal = &node.sources.state.journal;
    let (records, past) = node.past.find(journal, limit, move |record| filter.matches(record)).await;
    Ok(Json(JournalPage { records, past: Some(past) }))
}
