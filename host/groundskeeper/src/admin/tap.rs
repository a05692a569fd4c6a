//! Streams events as they happen: phase runs, actions, reloads. One JSON object per line; an empty line while idle.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use serde::Serialize;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::AdminState;
use crate::cycle::{BeatReport, PhaseRun};
use crate::journal::Record;
use crate::reload::ReloadEvent;
use crate::ticker::TickerHandle;

/// How often the journal is read for records between beats.
const LOOK: Duration = Duration::from_millis(250);

/// An idle stream gets an empty line this often, so that a closed connection is noticed.
const NOTHING: Duration = Duration::from_secs(5);

/// Lines that may wait for a slow listener. With more, the stream ends.
const WAITING: usize = 1024;

/// Records sent per read of the journal, at most.
const RECORDS: usize = 512;

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
enum TapLine<'a> {
    Run {
        tick: u32,
        urgent: u32,
        #[serde(flatten)]
        run: &'a PhaseRun,
    },
    Action(&'a Record),
    Reload(&'a ReloadEvent),
    /// Events lost because they came faster than they were read.
    Lost {
        events: u64,
    },
}

/// `GET /tap`
pub(super) async fn tap(State(node): State<Arc<AdminState>>) -> Response {
    let (lines, waiting) = mpsc::channel(WAITING);
    tokio::spawn(stream_events(node, lines));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(TapBody(waiting))).into_response()
}

async fn stream_events(node: Arc<AdminState>, lines: mpsc::Sender<Bytes>) {
    let journal = &node.sources.state.journal;
    let mut seen = journal.newest();
    let Some(mut beats) = node.ticker.as_ref().map(TickerHandle::reports) else { return };
    let mut reloads = node.sources.reload.as_ref().map(|reload| reload.events());
    let mut look_at = Instant::now();
    let mut quiet = 0;
    loop {
        let new_lines = tokio::select! {
            beat = beats.recv() => match beat {
                Ok(report) => runs(&report),
                Err(RecvError::Lagged(events)) => vec![line(&TapLine::Lost { events })],
                Err(RecvError::Closed) => return,
            },
            event = async { match &mut reloads {
                Some(reloads) => reloads.recv().await,
                None => std::future::pending().await,
            } } => match event {
                Ok(event) => vec![line(&TapLine::Reload(&event))],
                Err(RecvError::Lagged(events)) => vec![line(&TapLine::Lost { events })],
                Err(RecvError::Closed) => {
                    reloads = None;
                    Vec::new()
                }
            },
            () = sleep_until(look_at) => {
                look_at = Instant::now() + LOOK;
                let records = journal.select_after(seen, RECORDS, |_| true);
                let mut new_lines = Vec::new();
                if let (Some(first), Some(last)) = (records.first(), records.last()) {
                    let lost = first.seq - seen - 1;
                    if lost > 0 {
                        new_lines.push(line(&TapLine::Lost { events: lost }));
                    }
                    seen = last.seq;
                }
                new_lines.extend(records.iter().map(|record| line(&TapLine::Action(record))));
                new_lines
            }
        };
        quiet = if new_lines.is_empty() { quiet + 1 } else { 0 };
        let nothing = (LOOK * quiet >= NOTHING).then(|| {
            quiet = 0;
            Bytes::from_static(b"\n")
        });
        for line in new_lines.into_iter().chain(nothing) {
            if lines.try_send(line).is_err() {
                return;
            }
        }
    }
}

fn runs(report: &BeatReport) -> Vec<Bytes> {
    let BeatReport { tick, urgent, .. } = *report;
    report.runs.iter().map(|run| line(&TapLine::Run { tick, urgent, run })).collect()
}

fn line(event: &TapLine<'_>) -> Bytes {
    let mut line = serde_json::to_vec(event).unwrap_or_default();
    line.push(b'\n');
    line.into()
}

/// A body that ends when its sender is dropped.
struct TapBody(mpsc::Receiver<Bytes>);

impl HttpBody for TapBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
