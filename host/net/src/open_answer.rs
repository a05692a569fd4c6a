//! The answer to one request. It is sent however its handler ends: with a result, too late, or by a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Priority;

use super::conn::Conn;
use super::frame_sender::FrameSender;
use super::handlers::HandlerFuture;
use super::wire::{MAX_WORDS, Message, Status, clipped};

const NO_ANSWER: &str = "the handler ended without an answer";

/// Where an answer goes to.
pub(crate) struct ReplyTo<'a> {
    pub(crate) sender: &'a FrameSender,
    pub(crate) conn: &'a Conn,
    pub(crate) id: u64,
}

impl ReplyTo<'_> {
    /// Queues an answer. One that is too large, or for which there is no room, becomes a short refusal; if not even that
    /// fits, the asker's time-out tells it.
    pub(crate) fn respond(&self, priority: Priority, status: Status, payload: &[u8]) {
        let &Self { sender, conn, id } = self;
        let frame = sender.encode(&Message::Response { id, status, payload }).or_else(|too_large| {
            let words = too_large.to_string();
            sender.encode(&Message::Response { id, status: Status::Failed, payload: words.as_bytes() })
        });
        let queued = frame.is_ok_and(|frame| {
            let charged = sender.charge(priority, frame);
            charged.is_ok_and(|frame| sender.queue(conn, priority, frame.into()).is_ok())
        });
        if !queued {
            self.busy();
        }
    }

    /// Tells the asker at once that there is too much to do. Many are told so in one moment, and the control lane is
    /// short: a peer that is not told waits for its time-out, and takes a busy node for a dead one.
    pub(crate) fn refuse(&self) {
        self.respond(Priority::Request, Status::Busy, &[]);
    }

    /// The last resort, when nothing else has room.
    fn busy(&self) {
        let busy = Message::Response { id: self.id, status: Status::Busy, payload: &[] };
        if let Ok(frame) = self.sender.encode(&busy) {
            _ = self.conn.control(frame);
        }
    }
}

/// A request that is worked on. Dropped without an answer, it tells the asker that the handler failed.
pub(crate) struct OpenAnswer {
    sender: Arc<FrameSender>,
    conn: Arc<Conn>,
    id: u64,
    priority: Priority,
    /// Answers that are open at this connection.
    under_way: Arc<AtomicU32>,
    given: bool,
}

impl OpenAnswer {
    pub(crate) fn new(
        sender: &Arc<FrameSender>,
        conn: &Arc<Conn>,
        id: u64,
        priority: Priority,
        under_way: &Arc<AtomicU32>,
    ) -> Self {
        under_way.fetch_add(1, Relaxed);
        let (sender, conn, under_way) = (Arc::clone(sender), Arc::clone(conn), Arc::clone(under_way));
        Self { sender, conn, id, priority, under_way, given: false }
    }

    pub(crate) fn peer(&self) -> PeerId {
        self.conn.peer
    }

    /// The connection has ended: nobody would hear the answer.
    pub(crate) fn is_in_vain(&self) -> bool {
        self.conn.outbox.has_ended()
    }

    /// Answers that are open at this connection, this one included.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Relaxed) as usize
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
            Ok(payload) => self.reply_to().respond(self.priority, Status::Ok, &payload),
            Err(words) => self.fail(clipped(&words, MAX_WORDS)),
        }
    }

    pub(crate) fn refuse(mut self) {
        self.given = true;
        self.reply_to().refuse();
    }

    fn fail(&self, words: &str) {
        self.reply_to().respond(Priority::Request, Status::Failed, words.as_bytes());
    }

    fn reply_to(&self) -> ReplyTo<'_> {
        ReplyTo { sender: &self.sender, conn: &self.conn, id: self.id }
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

/// A handler's future whose panic is a failed answer, and not the end of its worker.
pub(crate) struct Caught(pub(crate) HandlerFuture);

impl Future for Caught {
    type Output = Result<Bytes, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)))
            .unwrap_or_else(|_| Poll::Ready(Err(NO_ANSWER.to_owned())))
    }
}
