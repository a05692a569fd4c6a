//! Answers to one peer's requests: built-in ones at once, the application's on tasks of their own, a few at a time.
//! Never waits in the session, and ends with it.

use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use tokio::task::JoinSet;

use super::conn::Conn;
use super::node::Node;
use super::wire::{MAX_WORDS, Message, Status, clipped};
use crate::clock::Coarse;
use crate::flow::NotQueued;

/// Between two peer lists to one peer, in seconds: each is a walk over the address book.
const PEERS_EVERY_S: u32 = 10;

/// The answers under way at one connection. Dropped, they stop.
#[derive(Default)]
pub(crate) struct Answering {
    tasks: Option<Box<JoinSet<()>>>,
    told_peers: Option<Coarse>,
}

impl Answering {
    /// Lets go of tasks that are done.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) {
        if let Some(tasks) = &mut self.tasks {
            while let std::task::Poll::Ready(Some(_)) = tasks.poll_join_next(cx) {}
            if tasks.is_empty() {
                self.tasks = None;
            }
        }
    }

    pub(crate) fn serve(&mut self, node: &Arc<Node>, conn: &Arc<Conn>, id: u64, kind: &str, payload: Bytes) {
        match kind {
            "ping" => conn.respond(node, id, Status::Ok, &payload),
            "peers" => self.tell_peers(node, conn, id),
            _ => match node.handlers.request(kind) {
                None => conn.respond(node, id, Status::NotHandled, &[]),
                Some(handler) => {
                    let tasks = self.tasks.get_or_insert_default();
                    if tasks.len() >= node.config.answers_at_once {
                        return conn.respond(node, id, Status::Busy, &[]);
                    }
                    let answer = Answer { node: Arc::clone(node), conn: Arc::clone(conn), id, given: false };
                    let handler = Arc::clone(handler);
                    let peer = conn.peer;
                    tasks.spawn(async move {
                        let limit = answer.node.config.answer_timeout;
                        // Called in here, so that a panic of the handler itself is this task's.
                        match tokio::time::timeout(limit, async { handler(peer, payload).await }).await {
                            Ok(Ok(payload)) => answer.give(Status::Ok, &payload),
                            Ok(Err(words)) => answer.fail(&words),
                            Err(_) => answer.fail(&format!("no answer within {limit:?}")),
                        }
                    });
                }
            },
        }
    }

    fn tell_peers(&mut self, node: &Node, conn: &Conn, id: u64) {
        let now = node.rooms.clock.coarse();
        if self.told_peers.is_some_and(|at| now.seconds_since(at) < PEERS_EVERY_S) {
            return conn.respond(node, id, Status::Busy, &[]);
        }
        self.told_peers = Some(now);
        conn.respond(node, id, Status::Ok, &node.peers_for(&conn.peer));
    }
}

impl Conn {
    /// Queues an answer. One that is too large, or finds the queue full, becomes a short refusal; if not even that fits,
    /// the asker's time-out tells it.
    pub(crate) fn respond(&self, node: &Node, id: u64, status: Status, payload: &[u8]) {
        let caps = &node.config.frame_caps;
        let queued = match (Message::Response { id, status, payload }).encode(caps) {
            Ok(frame) => self.data(frame),
            Err(too_large) => {
                let words = too_large.to_string();
                let failed = Message::Response { id, status: Status::Failed, payload: words.as_bytes() };
                failed.encode(caps).map_or(Err(NotQueued::Full), |frame| self.data(frame))
            }
        };
        if queued == Err(NotQueued::Full)
            && let Ok(frame) = (Message::Response { id, status: Status::Busy, payload: &[] }).encode(caps)
        {
            _ = self.control(frame);
        }
    }
}

/// The duty to answer one request: a handler that panics has failed.
struct Answer {
    node: Arc<Node>,
    conn: Arc<Conn>,
    id: u64,
    given: bool,
}

impl Answer {
    fn give(mut self, status: Status, payload: &[u8]) {
        self.given = true;
        self.conn.respond(&self.node, self.id, status, payload);
    }

    fn fail(self, words: &str) {
        self.give(Status::Failed, clipped(words, MAX_WORDS).as_bytes());
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.given {
            self.conn.respond(&self.node, self.id, Status::Failed, b"the handler ended without an answer");
        }
    }
}
