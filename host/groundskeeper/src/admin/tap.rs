//! Streams events as they happen: phase runs, actions, reloads. One JSON object per line; an empty line while idle.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::{Bytes, Frame};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::AdminState;
use crate::cycle::{BeatReport, PhaseRun};
use crate::journal::Record;
use crate::reload::ReloadEvent;
use crate::ticker::TickerHandle;

/// How often the journal is read for records between beats.
const LOOK: Duration = Duration::from_millis(250);

/// An idle stream gets an empty line this often, so that a closed connection is noticed.
const NOTHING: Duration = Duration::from_secs(5);

/// Lines that may wait for a slow reader, more than come at once. It loses those beyond, and gets their number. Readers
/// share the lines' bytes.
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
pub(super) async fn tap(Extension(hub): Extension<Arc<TapHub>>) -> Response {
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(hub.join())).into_response()
}

/// Reads events once, for all readers. Its one task is [`TapHub::run`].
pub(super) struct TapHub {
    node: Arc<AdminState>,
    readers: Mutex<Readers>,
    joined: Notify,
}

#[derive(Default)]
struct Readers {
    open: Vec<TapReader>,
    /// Where the first reader begins. Taken by the task.
    first: Option<EventSources>,
    /// There are no more events.
    ended: bool,
}

/// Where events come from.
struct EventSources {
    beats: Option<Receiver<Arc<BeatReport>>>,
    reloads: Option<Receiver<ReloadEvent>>,
    /// The last journal record that was sent, or that was there before the first reader.
    seen: u64,
}

struct TapReader {
    lines: mpsc::Sender<Bytes>,
    lost: u64,
}

impl TapReader {
    /// False if the reader has gone.
    fn send(&mut self, line: &Bytes) -> bool {
        if self.lost > 0 {
            match self.lines.try_send(json_line(&TapLine::Lost { events: self.lost })) {
                Ok(()) => self.lost = 0,
                Err(mpsc::error::TrySendError::Closed(_)) => return false,
                Err(mpsc::error::TrySendError::Full(_)) => {}
            }
        }
        match self.lines.try_send(line.clone()) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.lost += 1;
                true
            }
        }
    }

    /// False if the reader has gone.
    fn send_nothing(&self) -> bool {
        let sent = self.lines.try_send(Bytes::from_static(b"\n"));
        !matches!(sent, Err(mpsc::error::TrySendError::Closed(_)))
    }
}

impl TapHub {
    pub(super) fn new(node: Arc<AdminState>) -> Arc<Self> {
        Arc::new(Self { node, readers: Mutex::default(), joined: Notify::new() })
    }

    /// Adds a reader, which gets all events from now on.
    fn join(&self) -> TapBody {
        let (lines, waiting) = mpsc::channel(WAITING);
        let mut readers = self.readers.lock();
        if !readers.ended {
            if readers.open.is_empty() {
                readers.first = Some(self.sources());
            }
            readers.open.push(TapReader { lines, lost: 0 });
            self.joined.notify_one();
        }
        TapBody(waiting)
    }

    fn sources(&self) -> EventSources {
        let from = &self.node.sources;
        EventSources {
            beats: self.node.ticker.as_ref().map(TickerHandle::reports),
            reloads: from.reload.as_ref().map(|reload| reload.events()),
            seen: from.state.journal.newest(),
        }
    }

    /// Passes events on until `stop`, or until the ticker ends. Sleeps while there is no reader.
    pub(super) async fn run(self: Arc<Self>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.pass_on() => {}
        }
        let mut readers = self.readers.lock();
        readers.ended = true;
        readers.open.clear();
    }

    async fn pass_on(&self) {
        loop {
            self.joined.notified().await;
            let first = self.readers.lock().first.take();
            let Some(sources) = first else { continue };
            if self.follow(sources).await == Followed::ToTheEnd {
                return;
            }
        }
    }

    async fn follow(&self, mut from: EventSources) -> Followed {
        let mut look_at = Instant::now();
        let mut quiet = 0;
        loop {
            let lines = tokio::select! {
                beat = next(&mut from.beats) => match beat {
                    Ok(report) => runs(&report),
                    Err(RecvError::Lagged(events)) => vec![json_line(&TapLine::Lost { events })],
                    Err(RecvError::Closed) => return Followed::ToTheEnd,
                },
                event = next(&mut from.reloads) => match event {
                    Ok(event) => vec![json_line(&TapLine::Reload(&event))],
                    Err(RecvError::Lagged(events)) => vec![json_line(&TapLine::Lost { events })],
                    Err(RecvError::Closed) => {
                        from.reloads = None;
                        Vec::new()
                    }
                },
                () = sleep_until(look_at) => {
                    look_at = Instant::now() + LOOK;
                    self.new_records(&mut from.seen)
                }
            };
            quiet = if lines.is_empty() { quiet + 1 } else { 0 };
            let is_idle = LOOK * quiet >= NOTHING;
            if is_idle {
                quiet = 0;
            }
            let mut readers = self.readers.lock();
            readers.open.retain_mut(|reader| {
                let is_there = !reader.lines.is_closed() && lines.iter().all(|line| reader.send(line));
                is_there && (!is_idle || reader.send_nothing())
            });
            if readers.open.is_empty() {
                return Followed::ToTheLastReader;
            }
        }
    }

    fn new_records(&self, seen: &mut u64) -> Vec<Bytes> {
        let records = self.node.sources.state.journal.select_after(*seen, RECORDS, |_| true);
        let mut lines = Vec::new();
        if let (Some(first), Some(last)) = (records.first(), records.last()) {
            let events = first.seq - *seen - 1;
            if events > 0 {
                lines.push(json_line(&TapLine::Lost { events }));
            }
            *seen = last.seq;
        }
        lines.extend(records.iter().map(|record| json_line(&TapLine::Action(record))));
        lines
    }
}

/// How far [`TapHub::follow`] came.
#[derive(PartialEq, Eq)]
enum Followed {
    /// No reader is left.
    ToTheLastReader,
    /// No event will follow.
    ToTheEnd,
}

/// The next event. Waits for ever without a source.
async fn next<T: Clone>(from: &mut Option<Receiver<T>>) -> Result<T, RecvError> {
    match from {
        Some(from) => from.recv().await,
        None => std::future::pending().await,
    }
}

fn runs(report: &BeatReport) -> Vec<Bytes> {
    let BeatReport { tick, urgent, .. } = *report;
    report.runs.iter().map(|run| json_line(&TapLine::Run { tick, urgent, run })).collect()
}

fn json_line(event: &TapLine<'_>) -> Bytes {
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
