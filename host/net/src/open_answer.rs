//! The answer to one request. It is sent however its handler ends: with a result, too late, or by a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::{FrameCharge, Priority};

use super::conn::Conn;
use super::handlers::{HandlerFuture, RequestHandler};
use super::traffic::Traffic;
use super::wire::{MAX_WORDS, ResponseStatus, clipped};

const NO_ANSWER: &str = "the handler ended without an answer";

/// A request that is being answered. If dropped without an answer, it tells the asker that the handler failed.
pub(crate) struct OpenAnswer {
    traffic: Arc<Traffic>,
    conn: Arc<Conn>,
    id: u64,
    priority: Priority,
    /// Answers that are open at this connection.
    under_way: Arc<AtomicU32>,
    /// Counts the request's frame until the answer is given.
    _charge: Option<FrameCharge>,
    given: bool,
}

impl OpenAnswer {
    pub(crate) fn new(
        traffic: &Arc<Traffic>,
        conn: &Arc<Conn>,
        id: u64,
        priority: Priority,
        under_way: &Arc<AtomicU32>,
        charge: Option<FrameCharge>,
    ) -> Self {
        under_way.fetch_add(1, Relaxed);
        let (traffic, conn, under_way) = (Arc::clone(traffic), Arc::clone(conn), Arc::clone(under_way));
        Self { traffic, conn, id, priority, under_way, _charge: charge, given: false }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.conn.peer
    }

    /// Whether the connection has ended, so that an answer has no receiver.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.conn.outbox.has_ended()
    }

    /// Answers that are open at this connection, this one included.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Relaxed) as usize
    }

    /// It waited this long for a worker, until `now`.
    pub(crate) fn waited(&self, time: Duration, now: Duration) {
        self.traffic.counters.slot_waits.record(time, now);
    }

    /// Answers when `handling` has ended, or with a failure after `limit`.
    pub(crate) async fn by(self, handling: impl Future<Output = Result<Bytes, String>>, limit: Duration) {
        match tokio::time::timeout(limit, handling).await {
            Ok(said) => self.say(said),
            Err(_) => self.say(Err(format!("no answer within {limit:?}"))),
        }
    }

    pub(crate) fn say(mut self, said: Result<Bytes, String>) {
        self.given = true;
        match said {
            Ok(payload) => self.respond(self.priority, ResponseStatus::Ok, &payload),
            Err(text) => self.fail(clipped(&text, MAX_WORDS)),
        }
    }

    pub(crate) fn refuse(mut self) {
        self.given = true;
        self.traffic.refuse(&self.conn, self.id);
    }

    fn fail(&self, text: &str) {
        self.respond(Priority::Request, ResponseStatus::Failed, text.as_bytes());
    }

    fn respond(&self, priority: Priority, status: ResponseStatus, payload: &[u8]) {
        self.traffic.respond(&self.conn, self.id, priority, status, payload);
    }
}

impl Drop for OpenAnswer {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Relaxed);
        if !self.given {
            self.fail(NO_ANSWER);
        }
    }
}

/// A running handler. If it panics, the answer is a failure, and the task that runs it continues.
pub(crate) struct HandlerRun(HandlerFuture);

impl HandlerRun {
    pub(crate) fn begin(handler: &RequestHandler, peer: PeerId, payload: Bytes) -> Self {
        let begun = catch_unwind(AssertUnwindSafe(|| (handler.run)(peer, payload)));
        Self(begun.unwrap_or_else(|_| Box::pin(std::future::ready(Err(NO_ANSWER.to_owned())))))
    }
}

impl Future for HandlerRun {
    type Output = Result<Bytes, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)))
            .unwrap_or_else(|_| Poll::Ready(Err(NO_ANSWER.to_owned())))
    }
}
