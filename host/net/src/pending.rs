//! This node's open requests on one connection, and who waits for their answers. Sends nothing.

use std::collections::VecDeque;

use bytes::Bytes;
use groundskeeper_flow::FrameCharge;
use hashbrown::HashMap;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::receiving::ReceivedPayload;
use super::request_error::{MAX_PENDING, RequestError};
use super::wire::{MAX_WORDS, ResponseStatus, clipped, printable};

/// Requests that were given up and may still be answered. Older ones are forgotten.
const GIVEN_UP: usize = 128;

/// The receiver of an answer.
pub(crate) enum Waiter {
    Caller {
        reply: oneshot::Sender<Result<ReceivedPayload, RequestError>>,
        /// Maximum bytes of an answer.
        most: usize,
    },
    /// The host's own request for peers.
    PeerList,
}

/// What an answer belongs to.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum AnswerOutcome {
    Delivered,
    PeerList,
    /// Its request was given up before.
    Late,
    /// Its request was answered before.
    Again,
    /// It is larger than the caller allows; the caller gets an error.
    TooMuch,
    /// No request had this number.
    NeverAsked,
}

/// The open requests of one connection. Numbers count up and are never reused, so a late answer finds no other request.
#[derive(Default)]
pub(crate) struct Pending(Mutex<OpenQuestions>);

#[derive(Default)]
struct OpenQuestions {
    next: u64,
    /// This node chooses the numbers, so no peer can choose colliding ones.
    waiting: HashMap<u64, Waiter>,
    given_up: VecDeque<u64>,
    /// Requests below this number may have been given up or answered: that is forgotten.
    unknown_below: u64,
    ended: bool,
}

impl OpenQuestions {
    fn remove(&mut self, id: u64) -> Option<Waiter> {
        let waiter = self.waiting.remove(&id);
        if self.waiting.is_empty() && self.waiting.capacity() > 64 {
            // A burst is over: free its memory.
            self.waiting = HashMap::new();
        }
        waiter
    }
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

    /// Removes a request. If it was sent, it may still be answered.
    pub(crate) fn forget(&self, id: u64, sent: bool) {
        let mut open = self.0.lock();
        let was_open = open.remove(id).is_some();
        if was_open && sent {
            if open.given_up.len() >= GIVEN_UP
                && let Some(oldest) = open.given_up.pop_front()
            {
                open.unknown_below = oldest + 1;
            }
            open.given_up.push_back(id);
        }
    }

    /// Fails a request that was dropped from the send queue.
    pub(crate) fn shed(&self, id: u64) {
        let waiter = self.0.lock().remove(id);
        if let Some(Waiter::Caller { reply, .. }) = waiter {
            _ = reply.send(Err(RequestError::Shed));
        }
    }

    /// Delivers the answer to request `id`. `payload` must be a part of `frame`, which `charge` counts.
    pub(crate) fn answer(
        &self,
        id: u64,
        status: ResponseStatus,
        payload: &[u8],
        frame: &Bytes,
        charge: Option<FrameCharge>,
    ) -> AnswerOutcome {
        let mut open = self.0.lock();
        let waiter = open.remove(id);
        let late = waiter.is_none()
            && (open
                .given_up
                .iter()
                .position(|&other| other == id)
                .map(|at| open.given_up.remove(at))
                .is_some()
                || id < open.unknown_below);
        let asked = id < open.next;
        drop(open);
        match waiter {
            Some(Waiter::Caller { reply, most }) if status == ResponseStatus::Ok && payload.len() > most => {
                _ = reply.send(Err(RequestError::TooMuch { got: payload.len(), most }));
                AnswerOutcome::TooMuch
            }
            Some(Waiter::Caller { reply, .. }) => {
                // A caller that has just stopped waiting needs no answer, so a failure to send is ignored.
                _ = reply.send(match status {
                    ResponseStatus::Ok => Ok(ReceivedPayload { bytes: frame.slice_ref(payload), charge }),
                    ResponseStatus::NotHandled => Err(RequestError::NotHandled),
                    ResponseStatus::Busy => Err(RequestError::Busy),
                    ResponseStatus::Failed => {
                        let text = String::from_utf8_lossy(payload);
                        Err(RequestError::Failed(printable(clipped(&text, MAX_WORDS))))
                    }
                });
                AnswerOutcome::Delivered
            }
            Some(Waiter::PeerList) => AnswerOutcome::PeerList,
            None if late => AnswerOutcome::Late,
            None if asked => AnswerOutcome::Again,
            None => AnswerOutcome::NeverAsked,
        }
    }

    /// Ends all requests. The waiters notice it by their channels.
    pub(crate) fn end(&self) {
        let mut open = self.0.lock();
        open.ended = true;
        let mut waiting: Vec<_> = std::mem::take(&mut open.waiting).into_iter().collect();
        drop(open);
        // In the order of the requests, so that a replayed simulation wakes the waiters as before.
        waiting.sort_unstable_by_key(|(id, _)| *id);
        drop(waiting);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().waiting.len()
    }
}
