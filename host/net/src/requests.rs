//! Requests to one peer, each sent once: waits for the answer and tells the breaker how it ended. Chooses no peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::Clock;
use groundskeeper_flow::{AttemptEnd, BreakerState, CallEnd, KindSnapshot, NotQueued, Parcel, Priority};
use groundskeeper_pool::journal::{Asker, Draft, Journal, What};
use tokio::sync::oneshot;

use super::conn::Conn;
use super::conn_health::ConnHealth;
use super::counters::{Counters, Event};
use super::frame_sender::FrameSender;
use super::kinds::{RequestKind, RequestKinds};
use super::pending::{Reply, Waiter};
use super::request_error::RequestError;
use super::tuning::CurrentTuning;
use super::wire::{MAX_NAME, MAX_WORDS, Message, Status, clipped, printable};
use crate::NodeState;

/// What a full send queue means for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// It is an error at once.
    #[default]
    Fail,
    /// Waits for room, as long as it would wait for the answer.
    Wait,
}

/// What one attempt sends, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) kind: &'a Arc<RequestKind>,
    pub(crate) name: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) priority: Priority,
    pub(crate) when_full: WhenFull,
    /// Bytes of an answer.
    pub(crate) most: usize,
}

pub(crate) struct Requests {
    kinds: RequestKinds,
    sender: Arc<FrameSender>,
    health: Arc<ConnHealth>,
    tuning: Arc<CurrentTuning>,
    counters: Arc<Counters>,
    journal: Arc<Journal>,
    clock: Arc<dyn Clock>,
}

impl Requests {
    pub(crate) fn new(
        state: &NodeState,
        tuning: &Arc<CurrentTuning>,
        counters: &Arc<Counters>,
        sender: &Arc<FrameSender>,
        health: &Arc<ConnHealth>,
    ) -> Arc<Self> {
        Arc::new(Self {
            kinds: RequestKinds::default(),
            sender: sender.clone(),
            health: health.clone(),
            tuning: tuning.clone(),
            counters: counters.clone(),
            journal: state.journal.clone(),
            clock: state.clock.clone(),
        })
    }

    /// What is known of the kind `name`.
    pub(crate) fn kind(&self, name: &str) -> Arc<RequestKind> {
        self.kinds.of(name)
    }

    pub(crate) fn kinds(&self) -> Vec<KindSnapshot> {
        self.kinds.snapshot()
    }

    /// How long to wait for an answer of this kind from this peer.
    pub(crate) fn timeout(&self, conn: &Conn, kind: &Arc<RequestKind>) -> Duration {
        conn.record.timeout(kind, &self.tuning.get().timeout_of(&kind.name))
    }

    /// Asks once and waits for the answer, at most `timeout`. Dropping the future takes the question back.
    pub(crate) async fn ask_once(
        &self,
        conn: &Conn,
        question: Question<'_>,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let kind = question.kind;
        let began = self.clock.mono();
        if !conn.record.admit(kind, began) {
            kind.count(AttemptEnd::Refused);
            return Err(RequestError::BreakerOpen(Arc::clone(&kind.name)));
        }
        let patient = timeout >= self.timeout(conn, kind);
        let mut attempt = Attempt { requests: self, conn, kind, reported: false };
        let sent = AtomicBool::new(false);
        let exchange = self.exchange(conn, question, began + timeout, &sent);
        let answer = tokio::time::timeout(timeout, exchange).await;
        let answer = answer.unwrap_or(Err(RequestError::TimedOut(timeout)));
        let took = self.clock.mono().saturating_sub(began);
        match &answer {
            Ok(_) => {
                kind.answered(took);
                attempt.report(CallEnd::Succeeded, took);
                self.health.answered(conn);
            }
            Err(error) => {
                let end = error.call_end(patient && sent.load(Relaxed));
                kind.count(error.attempt_end());
                attempt.report(end, took);
                if let RequestError::TimedOut(_) = error
                    && end == CallEnd::Failed
                {
                    kind.times.missed();
                    self.health
                        .no_answer(conn, || format!("no answer to {:?} within {timeout:?}", kind.name));
                }
            }
        }
        answer
    }

    async fn exchange(
        &self,
        conn: &Conn,
        question: Question<'_>,
        expires: Duration,
        sent: &AtomicBool,
    ) -> Result<Bytes, RequestError> {
        let Question { name, payload, priority, most, .. } = question;
        let in_all = self.counters.request_opened();
        conn.request_opened();
        let (reply, answer) = oneshot::channel();
        let begun = conn.pending.begin(Waiter::Caller { reply, most });
        let id = *begun.as_ref().unwrap_or(&u64::MAX);
        let mut open = OpenRequest { counters: &self.counters, conn, id, sent: false, answered: false };
        let id = begun?;
        let max_pending = self.tuning.get().max_pending;
        if in_all >= max_pending {
            return Err(RequestError::TooManyInAll(max_pending));
        }
        let sender = &self.sender;
        let frame = sender.encode(&Message::Request { id, kind: name, payload })?;
        loop {
            let room = (question.when_full == WhenFull::Wait).then(|| conn.outbox.room());
            let queued =
                sender.charge(priority, frame.clone()).map_err(RequestError::from).and_then(|frame| {
                    let parcel = Parcel { frame, expires: Some(expires), tag: Some(id) };
                    Ok(sender.queue(conn, priority, parcel)?)
                });
            match (queued, room) {
                (Ok(()), _) => break,
                (Err(RequestError::NotQueued(NotQueued::Full)), Some(room)) => room.await,
                (Err(RequestError::Pressure(_)), Some(_)) => sender.budget_room(priority, frame.len()).await,
                (Err(error), _) => return Err(error),
            }
        }
        open.sent = true;
        sent.store(true, Relaxed);
        let answer = answer.await;
        open.answered = answer.is_ok();
        match answer {
            Err(_) => Err(RequestError::Disconnected),
            Ok(Reply::Answer(Status::Ok, payload)) => Ok(payload),
            Ok(Reply::Answer(Status::NotHandled, _)) => Err(RequestError::NotHandled),
            Ok(Reply::Answer(Status::Busy, _)) => Err(RequestError::Busy),
            Ok(Reply::Answer(Status::Failed, words)) => {
                let words = String::from_utf8_lossy(&words);
                Err(RequestError::Failed(printable(clipped(&words, MAX_WORDS))))
            }
            Ok(Reply::Shed) => Err(RequestError::Shed),
            Ok(Reply::TooMuch(got)) => Err(RequestError::TooMuch { got, most }),
        }
    }
}

/// Takes a request back when its caller stops waiting, for whatever reason.
struct OpenRequest<'a> {
    counters: &'a Counters,
    conn: &'a Conn,
    id: u64,
    sent: bool,
    /// The answer has taken it out already.
    answered: bool,
}

impl Drop for OpenRequest<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.conn.pending.forget(self.id, self.sent);
        }
        self.conn.request_closed();
        self.counters.request_closed();
    }
}

/// An attempt that the breaker let through. The breaker has to learn how it ended.
struct Attempt<'a> {
    requests: &'a Requests,
    conn: &'a Conn,
    kind: &'a Arc<RequestKind>,
    reported: bool,
}

impl Attempt<'_> {
    fn report(&mut self, end: CallEnd, took: Duration) {
        self.reported = true;
        let Self { requests, conn, kind, .. } = self;
        let tuning = requests.tuning.get();
        let now = requests.clock.mono();
        if let Some(state) = conn.record.end(kind, end, took, now, &tuning.breaker) {
            if state == BreakerState::Open {
                requests.counters.count(Event::BreakerOpened);
            }
            requests.journal.record(Draft {
                peer: Some(conn.peer),
                conn: Some(conn.key.conn),
                ..Draft::new(
                    Asker::Host,
                    What::Breaker,
                    format!("{} for requests of kind {:?}", state.as_str(), kind.name),
                )
            });
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.reported {
            self.kind.count(AttemptEnd::Dropped);
            self.report(CallEnd::Unknown, Duration::ZERO);
        }
    }
}

/// # Errors
/// [`RequestError::BadKind`].
pub(crate) fn check_kind(kind: &str) -> Result<(), RequestError> {
    match kind.len() {
        1..=MAX_NAME => Ok(()),
        _ => Err(RequestError::BadKind(kind.to_owned())),
    }
}
