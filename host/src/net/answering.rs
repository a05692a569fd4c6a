//! Answers to one peer's requests: built-in ones at once, the application's where its handlers run. Never waits in the
//! session, and ends with it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::task::JoinSet;

use super::conn::Conn;
use super::handlers::{Answering as Handling, RequestHandler};
use super::node::Node;
use super::wire::{MAX_WORDS, Message, Status, clipped};
use crate::clock::Coarse;
use crate::flow::{Priority, RequestQueue};

/// Between two peer lists to one peer, in seconds: each is a walk over the address book.
const PEERS_EVERY_S: u32 = 10;

/// The answers under way at one connection. Dropped, those that run on tasks of their own stop.
#[derive(Default)]
pub(crate) struct Answering {
    tasks: Option<Box<JoinSet<()>>>,
    told_peers: Option<Coarse>,
    under_way: Arc<AtomicU32>,
}

impl Answering {
    /// Lets go of tasks that are done.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) {
        if let Some(tasks) = &mut self.tasks {
            while let Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
            if tasks.is_empty() {
                self.tasks = None;
            }
        }
    }

    pub(crate) fn serve(
        &mut self,
        cx: &mut Context<'_>,
        node: &Arc<Node>,
        conn: &Arc<Conn>,
        id: u64,
        kind: &str,
        payload: Bytes,
    ) {
        match kind {
            "ping" => conn.respond(node, id, Priority::Request, Status::Ok, &payload),
            "peers" => self.tell_peers(node, conn, id),
            _ => match node.handlers.request(kind) {
                None => conn.respond(node, id, Priority::Request, Status::NotHandled, &[]),
                Some(_) if self.under_way.load(Relaxed) as usize >= node.config.answers_at_once => {
                    conn.refuse(node, id);
                }
                Some(handler) => {
                    let answer = Answer::of(node, conn, id, handler.priority, &self.under_way);
                    match &handler.desk {
                        Some(desk) => desk.take(Job { answer, payload }),
                        None => self.begin(cx, handler, answer, payload),
                    }
                }
            },
        }
    }

    /// Runs the handler's first step here: most answers are there already and need no task.
    fn begin(&mut self, cx: &mut Context<'_>, handler: &RequestHandler, answer: Answer, payload: Bytes) {
        let peer = answer.conn.peer;
        let first = catch_unwind(AssertUnwindSafe(|| {
            let mut handling = (handler.run)(peer, payload);
            match handling.as_mut().poll(cx) {
                Poll::Ready(answer) => Ok(answer),
                Poll::Pending => Err(handling),
            }
        }));
        match first {
            // The answer says so when it is dropped.
            Err(_) => {}
            Ok(Ok(said)) => answer.say(said),
            Ok(Err(handling)) => {
                let tasks = self.tasks.get_or_insert_default();
                tasks.spawn(answer.by(handling));
                // So that it is let go of when it is done.
                cx.waker().wake_by_ref();
            }
        }
    }

    fn tell_peers(&mut self, node: &Node, conn: &Conn, id: u64) {
        let now = node.rooms.clock.coarse();
        if self.told_peers.is_some_and(|at| now.seconds_since(at) < PEERS_EVERY_S) {
            return conn.refuse(node, id);
        }
        self.told_peers = Some(now);
        conn.respond(node, id, Priority::Request, Status::Ok, &node.peers_for(&conn.peer));
    }
}

impl Conn {
    /// Queues an answer. One that is too large, or for which there is no room, becomes a short refusal; if not even that
    /// fits, the asker's time-out tells it.
    fn respond(&self, node: &Node, id: u64, priority: Priority, status: Status, payload: &[u8]) {
        let caps = &node.config.frame_caps;
        let frame = (Message::Response { id, status, payload }).encode(caps).or_else(|too_large| {
            let words = too_large.to_string();
            (Message::Response { id, status: Status::Failed, payload: words.as_bytes() }).encode(caps)
        });
        let queued = frame.is_ok_and(|frame| {
            let charged = node.charge(priority, frame);
            charged.is_ok_and(|frame| node.queue(self, priority, frame.into()).is_ok())
        });
        if !queued {
            self.busy(node, id);
        }
    }

    /// Tells the asker at once that there is too much to do. Many are told so in one moment, and the control lane is short:
    /// whoever is not told waits for its time-out, and takes a busy peer for a dead one.
    fn refuse(&self, node: &Node, id: u64) {
        self.respond(node, id, Priority::Request, Status::Busy, &[]);
    }

    /// The last resort, when nothing else has room.
    fn busy(&self, node: &Node, id: u64) {
        let busy = Message::Response { id, status: Status::Busy, payload: &[] };
        if let Ok(frame) = busy.encode(&node.config.frame_caps) {
            _ = self.control(frame);
        }
    }
}

/// The duty to answer one request: a handler that panics has failed.
pub(crate) struct Answer {
    node: Arc<Node>,
    conn: Arc<Conn>,
    id: u64,
    priority: Priority,
    under_way: Arc<AtomicU32>,
    given: bool,
}

impl Answer {
    fn of(
        node: &Arc<Node>,
        conn: &Arc<Conn>,
        id: u64,
        priority: Priority,
        under_way: &Arc<AtomicU32>,
    ) -> Self {
        under_way.fetch_add(1, Relaxed);
        let (node, conn, under_way) = (Arc::clone(node), Arc::clone(conn), Arc::clone(under_way));
        Self { node, conn, id, priority, under_way, given: false }
    }

    /// Answers when `handling` has ended, or with a failure when that takes too long.
    async fn by(self, handling: Handling) {
        let limit = self.node.config.answer_timeout;
        match tokio::time::timeout(limit, handling).await {
            Ok(said) => self.say(said),
            Err(_) => self.say(Err(format!("no answer within {limit:?}"))),
        }
    }

    fn say(mut self, said: Result<Bytes, String>) {
        self.given = true;
        let Self { node, conn, id, priority, .. } = &self;
        match said {
            Ok(payload) => conn.respond(node, *id, *priority, Status::Ok, &payload),
            Err(words) => {
                let words = clipped(&words, MAX_WORDS).as_bytes();
                conn.respond(node, *id, Priority::Request, Status::Failed, words);
            }
        }
    }

    fn refuse(mut self) {
        self.given = true;
        self.conn.refuse(&self.node, self.id);
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Relaxed);
        if !self.given {
            let words = b"the handler ended without an answer";
            self.conn.respond(&self.node, self.id, Priority::Request, Status::Failed, words);
        }
    }
}

/// A request that waits for one of the workers of its kind.
pub(crate) struct Job {
    answer: Answer,
    payload: Bytes,
}

/// Requests of one kind that is answered a few at a time, over all connections.
pub(crate) struct Desk {
    queue: RequestQueue<Job>,
    at_once: usize,
}

impl Desk {
    pub(crate) fn new(capacity: super::Capacity) -> Self {
        Self { queue: RequestQueue::new(capacity.waiting), at_once: capacity.at_once.max(1) }
    }

    /// Takes a request, or says at once that there is too much to do: who asks can still ask somebody else. One peer
    /// takes half of the places at most.
    fn take(&self, job: Job) {
        let share = (self.queue.capacity() + self.at_once).div_ceil(2);
        if job.answer.under_way.load(Relaxed) as usize > share {
            return job.answer.refuse();
        }
        if let Err(job) = self.queue.push(job) {
            job.answer.refuse();
        }
    }
}

/// Starts the workers of all kinds that have a desk.
pub(crate) fn start_workers(node: &Arc<Node>) {
    for handler in node.handlers.requests() {
        let at_once = handler.desk.as_ref().map_or(0, |desk| desk.at_once);
        for _ in 0..at_once {
            let work = work(Arc::clone(node), Arc::clone(handler));
            node.tracker.spawn_on(work, &node.runtime);
        }
    }
}

async fn work(node: Arc<Node>, handler: Arc<RequestHandler>) {
    let Some(desk) = &handler.desk else { return };
    loop {
        let Job { answer, payload } = tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            job = desk.queue.pop() => job,
        };
        if answer.conn.outbox.has_ended() {
            // Nobody is there to hear it.
            continue;
        }
        let peer = answer.conn.peer;
        let Ok(handling) = catch_unwind(AssertUnwindSafe(|| (handler.run)(peer, payload))) else { continue };
        tokio::select! {
            biased;
            () = node.stop.cancelled() => return,
            () = answer.by(Box::pin(Caught(handling))) => {}
        }
    }
}

/// A handler's future whose panic is a failed answer, and not the end of its worker.
struct Caught(Handling);

impl Future for Caught {
    type Output = Result<Bytes, String>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        catch_unwind(AssertUnwindSafe(|| self.0.as_mut().poll(cx)))
            .unwrap_or_else(|_| Poll::Ready(Err("the handler ended without an answer".to_owned())))
    }
}
