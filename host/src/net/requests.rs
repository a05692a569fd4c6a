//! Questions to one peer and their answers, matched by number. Gives up by time-out; decides nothing by an answer.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Net;
use super::conn::Conn;
use super::frame::FrameCaps;
use super::wire::{Message, Status, TooLarge};
use crate::flow::NotQueued;
use crate::peer::PeerId;

/// Questions that may be open at one peer.
pub const MAX_PENDING: usize = 256;

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    #[error("not connected to {0}")]
    NotConnected(PeerId),
    #[error("{MAX_PENDING} requests to this peer are open already")]
    TooManyPending,
    #[error("request kind {0:?} is not 1 to 64 bytes long")]
    BadKind(String),
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error(transparent)]
    NotQueued(#[from] NotQueued),
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("the connection ended before the answer came")]
    Disconnected,
    #[error("the peer does not handle this kind of request")]
    NotHandled,
    #[error("the peer is busy with other requests of ours")]
    Busy,
    /// The peer's handler failed; its words, untrusted.
    #[error("the peer failed to answer: {0}")]
    Failed(String),
}

/// Whom an answer is for.
pub(crate) enum Waiter {
    Caller(oneshot::Sender<(Status, Bytes)>),
    /// The host's own question for peers, asked once per connection.
    PeerList,
}

/// What became of an answer.
pub(crate) enum Answered {
    Delivered,
    PeerList,
    /// Its request was given up before.
    Late,
    /// Nobody ever asked this.
    NeverAsked,
}

/// The open questions of one connection. Numbers count up and are never used again, so a late answer finds nobody.
#[derive(Default)]
pub(crate) struct Pending(Mutex<Open>);

#[derive(Default)]
struct Open {
    next: u64,
    waiting: HashMap<u64, Waiter>,
    ended: bool,
}

impl Pending {
    pub(crate) fn begin(&self, waiter: Waiter) -> Result<u64, RequestError> {
        let mut open = self.0.lock();
        if open.ended {
            return Err(RequestError::Disconnected);
        }
        if open.waiting.len() >= MAX_PENDING {
            return Err(RequestError::TooManyPending);
        }
        let id = open.next;
        open.next += 1;
        open.waiting.insert(id, waiter);
        Ok(id)
    }

    pub(crate) fn forget(&self, id: u64) {
        let mut open = self.0.lock();
        open.waiting.remove(&id);
        if open.waiting.is_empty() {
            // Most connections ask one question in their life.
            open.waiting = HashMap::new();
        }
    }

    pub(crate) fn answer(&self, id: u64, status: Status, payload: impl FnOnce() -> Bytes) -> Answered {
        let mut open = self.0.lock();
        let asked = id < open.next;
        let waiter = open.waiting.remove(&id);
        if open.waiting.is_empty() {
            open.waiting = HashMap::new();
        }
        drop(open);
        match waiter {
            Some(Waiter::Caller(caller)) => {
                // Who has stopped waiting a moment ago is as late as who stopped before.
                _ = caller.send((status, payload()));
                Answered::Delivered
            }
            Some(Waiter::PeerList) => Answered::PeerList,
            None if asked => Answered::Late,
            None => Answered::NeverAsked,
        }
    }

    /// Lets go of all who wait. They are told by their channels.
    pub(crate) fn end(&self) {
        let mut open = self.0.lock();
        open.ended = true;
        let mut waiting: Vec<_> = std::mem::take(&mut open.waiting).into_iter().collect();
        drop(open);
        // In the order in which they asked: a simulation that is run again wakes them as before.
        waiting.sort_unstable_by_key(|(id, _)| *id);
        drop(waiting);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().waiting.len()
    }
}

impl Conn {
    /// Puts a question into the queue; the number under which its answer is awaited.
    pub(crate) fn ask_peer(
        &self,
        kind: &str,
        payload: &[u8],
        caps: &FrameCaps,
        waiter: Waiter,
    ) -> Result<u64, RequestError> {
        let id = self.pending.begin(waiter)?;
        let queued = Message::Request { id, kind, payload }
            .encode(caps)
            .map_err(RequestError::from)
            .and_then(|frame| Ok(self.data(frame)?));
        if let Err(error) = queued {
            self.pending.forget(id);
            return Err(error);
        }
        Ok(id)
    }
}

/// Takes a question back when its asker stops waiting, for whatever reason.
struct Question<'a> {
    conn: &'a Conn,
    id: u64,
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.conn.pending.forget(self.id);
    }
}

impl Net {
    /// Asks `peer` and waits for the answer, at most `timeout`. Dropping the future takes the question back.
    ///
    /// # Errors
    /// [`RequestError`]; the connection is not touched by any of them.
    pub async fn request(
        &self,
        peer: PeerId,
        kind: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        if kind.is_empty() || kind.len() > super::wire::MAX_NAME {
            return Err(RequestError::BadKind(kind.to_owned()));
        }
        let conn = self.node.connection_to(&peer).ok_or(RequestError::NotConnected(peer))?;
        let (caller, answer) = oneshot::channel();
        let id = conn.ask_peer(kind, payload, &self.node.config.frame_caps, Waiter::Caller(caller))?;
        let _question = Question { conn: &conn, id };
        match tokio::time::timeout(timeout, answer).await {
            Err(_) => Err(RequestError::TimedOut(timeout)),
            Ok(Err(_)) => Err(RequestError::Disconnected),
            Ok(Ok((Status::Ok, payload))) => Ok(payload),
            Ok(Ok((Status::NotHandled, _))) => Err(RequestError::NotHandled),
            Ok(Ok((Status::Busy, _))) => Err(RequestError::Busy),
            Ok(Ok((Status::Failed, words))) => {
                let words = String::from_utf8_lossy(&words);
                Err(RequestError::Failed(super::wire::printable(super::wire::clipped(
                    &words,
                    super::wire::MAX_WORDS,
                ))))
            }
        }
    }
}
