//! Requests to one peer, each sent once. Waits for the answer and reports to the breaker how it ended. Chooses no peer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_flow::{AttemptEnd, BreakerState, CallEnd, NotQueued, Priority, QueuedFrame};
use groundskeeper_pool::journal::{ActionKind, Initiator, NewRecord};
use tokio::sync::oneshot;

use super::conn::Conn;
use super::conn_health;
use super::counters::Counters;
use super::kinds::{RequestKind, RequestKinds};
use super::node::LocalNode;
use super::pending::Waiter;
use super::request_error::RequestError;
use super::traffic::Traffic;
use super::wire::{MAX_NAME, Message};

/// What to do with a request when the send queue is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// Fails at once.
    #[default]
    Fail,
    /// Waits for room, within the time-out of the answer.
    Wait,
}

/// What one attempt sends, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    /// Name of the kind.
    pub(crate) name: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) priority: Priority,
    pub(crate) when_full: WhenFull,
    /// Maximum bytes of an answer.
    pub(crate) most: usize,
}

impl<'a> Question<'a> {
    pub(crate) fn new(name: &'a str, payload: &'a [u8]) -> Self {
        Self { name, payload, priority: Priority::Request, when_full: WhenFull::Fail, most: usize::MAX }
    }
}

pub(crate) struct Requests {
    node: Arc<LocalNode>,
    traffic: Arc<Traffic>,
    pub(crate) kinds: RequestKinds,
}

impl Requests {
    pub(crate) fn new(node: Arc<LocalNode>, traffic: Arc<Traffic>) -> Self {
        Self { node, traffic, kinds: RequestKinds::default() }
    }

    /// How long to wait for an answer of this kind from this peer.
    pub(crate) fn timeout(&self, conn: &Conn, kind: &Arc<RequestKind>) -> Duration {
        conn.record.timeout(kind, &self.traffic.tuning.timeout_of(&kind.name))
    }

    /// Asks once and waits at most `timeout` for the answer. Dropping the future cancels the request.
    pub(crate) async fn ask_once(
        &self,
        conn: &Conn,
        kind: &Arc<RequestKind>,
        question: Question<'_>,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let clock = &*self.node.state.clock;
        let began = clock.mono();
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
        let now = clock.mono();
        let took = now.saturating_sub(began);
        match &answer {
            Ok(_) => {
                kind.answered(took, now);
                attempt.report(CallEnd::Succeeded, took);
                self.node.state.pool.answered_within(conn.key, took);
                conn_health::answered(&self.node.state, conn);
            }
            Err(error) => {
                let end = error.call_end(patient && sent.load(Relaxed));
                kind.count(error.attempt_end());
                attempt.report(end, took);
                if let RequestError::TimedOut(_) = error
                    && end == CallEnd::Failed
                {
                    kind.times.missed();
                    let why = || format!("no answer to {:?} within {timeout:?}", kind.name);
                    conn_health::no_answer(&self.node.state, conn, why);
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
        let traffic = &*self.traffic;
        let counters = &traffic.counters;
        let in_all = counters.request_opened();
        conn.request_opened();
        let (reply, answer) = oneshot::channel();
        let begun = conn.pending.begin(Waiter::Caller { reply, most });
        let id = *begun.as_ref().unwrap_or(&u64::MAX);
        let mut open = OpenRequest { counters, conn, id, sent: false, answered: false };
        let id = begun?;
        let max_pending = traffic.tuning.get().backpressure.max_pending;
        if in_all >= max_pending {
            return Err(RequestError::TooManyInAll(max_pending));
        }
        let frame = traffic.encode(&Message::Request { id, kind: name, payload })?;
        loop {
            let room = (question.when_full == WhenFull::Wait).then(|| conn.outbox.room());
            let queued =
                traffic.charge(priority, frame.clone()).map_err(RequestError::from).and_then(|frame| {
                    let parcel = QueuedFrame { frame, expires: Some(expires), tag: Some(id) };
                    Ok(traffic.queue(conn, priority, parcel)?)
                });
            match (queued, room) {
                (Ok(()), _) => break,
                (Err(RequestError::NotQueued(NotQueued::Full)), Some(room)) => room.await,
                (Err(RequestError::Pressure(_)), Some(_)) => traffic.room(priority, frame.len()).await,
                (Err(error), _) => return Err(error),
            }
        }
        open.sent = true;
        sent.store(true, Relaxed);
        let answer = answer.await;
        open.answered = answer.is_ok();
        // From here on the bytes are the caller's, who may keep them: they are no longer counted.
        answer.unwrap_or(Err(RequestError::Disconnected)).map(|answer| answer.bytes)
    }
}

/// Removes a request when its caller stops waiting, for whatever reason.
struct OpenRequest<'a> {
    counters: &'a Counters,
    conn: &'a Conn,
    id: u64,
    sent: bool,
    /// The answer has removed it already.
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

/// An attempt that the breaker admitted. Reports to the breaker how it ended, at the latest when dropped.
struct Attempt<'a> {
    requests: &'a Requests,
    conn: &'a Conn,
    kind: &'a Arc<RequestKind>,
    reported: bool,
}

impl Attempt<'_> {
    fn report(&mut self, end: CallEnd, took: Duration) {
        self.reported = true;
        let Self { requests: Requests { node, traffic, .. }, conn, kind, .. } = self;
        let settings = traffic.tuning.get().circuit_breaker;
        let now = node.state.clock.mono();
        if let Some(state) = conn.record.end(kind, end, took, now, &settings) {
            if state == BreakerState::Open {
                traffic.counters.breakers_opened.fetch_add(1, Relaxed);
            }
            node.state.journal.record(NewRecord {
                peer: Some(conn.peer),
                conn: Some(conn.key.conn),
                ..NewRecord::new(
                    Initiator::Host,
                    ActionKind::Breaker,
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
