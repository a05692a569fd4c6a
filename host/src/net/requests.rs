//! Questions to one peer and their answers, matched by number. Chooses no peer and asks nobody twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Net;
use super::conn::Conn;
use super::kinds::Kind;
use super::node::Node;
use super::pending::{Answered, Reply, Waiter};
use super::request_error::RequestError;
use super::wire::{MAX_NAME, MAX_WORDS, Message, Status, clipped, printable};
use crate::flow::{AttemptEnd, BreakerState, CallEnd, NotQueued, Parcel, Priority};
use crate::journal::{Asker, Draft, What};
use crate::peer::PeerId;

/// Health taken for no answer in time: it takes twenty of them, and the breaker opens long before.
const NO_ANSWER: i32 = -5;

/// Health taken for answering twice: harmless to us, but nobody does it by accident often.
const TWICE: i32 = -10;

/// Health taken for more than was asked for: as for a bad broadcast.
const TOO_MUCH: i32 = -25;

/// Health given back for each answer, of what was taken for answers.
const ANSWERED: u32 = 1;

/// Health given back for an answered ping, of what was taken for answers: whoever is not asked any more can still show that
/// it is there, and is asked again after some minutes.
const PONG: u32 = 5;

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
    pub(crate) kind: &'a Arc<Kind>,
    pub(crate) name: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) priority: Priority,
    pub(crate) when_full: WhenFull,
    /// Bytes of an answer.
    pub(crate) most: usize,
}

/// Takes a question back when its asker stops waiting, for whatever reason.
struct Asked<'a> {
    node: &'a Node,
    conn: &'a Conn,
    id: u64,
    sent: bool,
    /// Whoever answers has taken it out already.
    answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.conn.pending.forget(self.id, self.sent);
        }
        self.conn.in_flight.fetch_sub(1, Relaxed);
        self.node.traffic.pending.fetch_sub(1, Relaxed);
    }
}

/// The duty to tell the breaker how an attempt ended.
struct Verdict<'a> {
    node: &'a Node,
    conn: &'a Conn,
    kind: &'a Arc<Kind>,
    told: bool,
}

impl Verdict<'_> {
    fn tell(&mut self, end: CallEnd, took: Duration) {
        self.told = true;
        let Self { node, conn, kind, .. } = self;
        let tuning = node.traffic.tuning.load();
        let now = node.rooms.clock.mono();
        if let Some(state) = conn.standing.end(kind, end, took, now, &tuning.breaker) {
            if state == BreakerState::Open {
                node.traffic.counts.breakers_opened.fetch_add(1, Relaxed);
            }
            node.rooms.journal.record(Draft {
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

impl Drop for Verdict<'_> {
    fn drop(&mut self) {
        if !self.told {
            self.kind.count(AttemptEnd::Dropped);
            self.tell(CallEnd::Unknown, Duration::ZERO);
        }
    }
}

impl Node {
    /// The host's own question for peers. Not sent if the queue is full.
    pub(crate) fn ask_for_peers(&self, conn: &Conn) -> Result<(), RequestError> {
        let id = conn.pending.begin(Waiter::PeerList)?;
        let queued = Message::Request { id, kind: "peers", payload: &[] }
            .encode(&self.config.frame_caps)
            .map_err(RequestError::from)
            .and_then(|frame| Ok(self.queue(conn, Priority::Request, frame.into())?));
        queued.inspect_err(|_| conn.pending.forget(id, false))
    }

    /// Puts a charged frame into the connection's queue, in the lane that it has now.
    pub(crate) fn queue(&self, conn: &Conn, priority: Priority, parcel: Parcel) -> Result<(), NotQueued> {
        let queued = conn.outbox.push(self.traffic.lane(priority), parcel);
        if queued == Err(NotQueued::Full) {
            self.traffic.counts.full[priority as usize].fetch_add(1, Relaxed);
        }
        queued
    }

    /// How long to wait for an answer of this kind from this peer.
    pub(crate) fn timeout(&self, conn: &Conn, kind: &Arc<Kind>) -> Duration {
        conn.standing.timeout(kind, &self.traffic.tuning.load().timeout_of(&kind.name))
    }

    /// Asks once and waits for the answer, at most `timeout`. Dropping the future takes the question back.
    pub(crate) async fn ask_once(
        &self,
        conn: &Conn,
        question: Question<'_>,
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        let kind = question.kind;
        let clock = &self.rooms.clock;
        let began = clock.mono();
        if !conn.standing.admit(kind, began) {
            kind.count(AttemptEnd::Refused);
            return Err(RequestError::BreakerOpen(Arc::clone(&kind.name)));
        }
        let patient = timeout >= self.timeout(conn, kind);
        let mut verdict = Verdict { node: self, conn, kind, told: false };
        let sent = AtomicBool::new(false);
        let exchange = self.exchange(conn, question, began + timeout, &sent);
        let answer = tokio::time::timeout(timeout, exchange).await;
        let answer = answer.unwrap_or(Err(RequestError::TimedOut(timeout)));
        let took = clock.mono().saturating_sub(began);
        match &answer {
            Ok(_) => {
                kind.answered(took);
                verdict.tell(CallEnd::Succeeded, took);
                self.give_back(conn, ANSWERED);
            }
            Err(error) => {
                let end = error.call_end(patient && sent.load(Relaxed));
                kind.count(error.attempt_end());
                verdict.tell(end, took);
                if let RequestError::TimedOut(_) = error
                    && end == CallEnd::Failed
                {
                    kind.times.missed();
                    self.take_back(conn, NO_ANSWER, || {
                        format!("no answer to {:?} within {timeout:?}", kind.name)
                    });
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
        let traffic = &self.traffic;
        let Question { name, payload, priority, most, .. } = question;
        let in_all = traffic.pending.fetch_add(1, Relaxed);
        conn.in_flight.fetch_add(1, Relaxed);
        let (reply, answer) = oneshot::channel();
        let begun = conn.pending.begin(Waiter::Caller { reply, most });
        let id = *begun.as_ref().unwrap_or(&u64::MAX);
        let mut asked = Asked { node: self, conn, id, sent: false, answered: false };
        let id = begun?;
        let max_pending = traffic.tuning.load().max_pending;
        if in_all >= max_pending {
            return Err(RequestError::TooManyInAll(max_pending));
        }
        let frame = Message::Request { id, kind: name, payload }.encode(&self.config.frame_caps)?;
        loop {
            let room = (question.when_full == WhenFull::Wait).then(|| conn.outbox.room());
            let queued = self.charge(priority, frame.clone()).map_err(RequestError::from).and_then(|frame| {
                Ok(self.queue(conn, priority, Parcel { frame, expires: Some(expires), tag: Some(id) })?)
            });
            match (queued, room) {
                (Ok(()), _) => break,
                (Err(RequestError::NotQueued(NotQueued::Full)), Some(room)) => room.await,
                (Err(RequestError::Pressure(_)), Some(_)) => traffic.budget.room(priority, frame.len()).await,
                (Err(error), _) => return Err(error),
            }
        }
        asked.sent = true;
        sent.store(true, Relaxed);
        let answer = answer.await;
        asked.answered = answer.is_ok();
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

    /// What the peer did with an answer costs its connection health.
    pub(crate) fn blame_answer(&self, conn: &Conn, what: &Answered) {
        let (by, words) = match what {
            Answered::Again => (TWICE, "answered a request twice"),
            Answered::TooMuch => (TOO_MUCH, "answered more than was asked for"),
            Answered::Delivered | Answered::PeerList | Answered::Late | Answered::NeverAsked => return,
        };
        self.traffic.counts.misbehaved.fetch_add(1, Relaxed);
        self.take_back(conn, by, || words.to_owned());
    }

    /// Takes health for an answer. It can be earned back; what phases and the application took cannot, by this way.
    fn take_back(&self, conn: &Conn, by: i32, why: impl FnOnce() -> String) {
        let taken = self.judge(conn, by, Asker::Host, why);
        conn.owed.fetch_add(taken, Relaxed);
    }

    /// An answered ping earns back health that was taken for answers.
    pub(crate) fn ponged(&self, conn: &Conn) {
        self.give_back(conn, PONG);
    }

    fn give_back(&self, conn: &Conn, most: u32) {
        // One relaxed load for whoever owes nothing, which is nearly everybody.
        if conn.owed.load(Relaxed) == 0 {
            return;
        }
        let owed = conn.owed.fetch_update(Relaxed, Relaxed, |owed| Some(owed.saturating_sub(most)));
        let by = owed.unwrap_or_default().min(most);
        self.judge(conn, by as i32, Asker::Host, || "answers again".to_owned());
    }

    /// Changes the health of a connection, and says why in the journal. By how much it has changed.
    pub(crate) fn judge(&self, conn: &Conn, by: i32, asker: Asker, why: impl FnOnce() -> String) -> u32 {
        let Some((before, after)) = self.rooms.pool.adjust_health(conn.key, by) else { return 0 };
        if before != after {
            self.rooms.journal.record(Draft {
                peer: Some(conn.peer),
                conn: Some(conn.key.conn),
                inputs: vec![("health".into(), before.into()), ("health-after".into(), after.into())],
                ..Draft::new(asker, What::Health, why())
            });
        }
        before.abs_diff(after).into()
    }
}

pub(crate) fn check_kind(kind: &str) -> Result<(), RequestError> {
    match kind.len() {
        1..=MAX_NAME => Ok(()),
        _ => Err(RequestError::BadKind(kind.to_owned())),
    }
}

impl Net {
    /// Asks `peer` once and waits for the answer, at most `timeout`. Dropping the future takes the question back.
    ///
    /// [`Net::ask`] chooses whom to ask, how long to wait, and whether to try again.
    ///
    /// # Errors
    /// [`RequestError`]. No answer within a time in which the peer usually answers costs it health, and adds to what opens
    /// its breaker.
    pub async fn request(
        &self,
        peer: PeerId,
        kind: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        check_kind(kind)?;
        let conn = self.node.connection_to(&peer).ok_or(RequestError::NotConnected(peer))?;
        let known = self.node.traffic.kinds.of(kind);
        let question = Question {
            kind: &known,
            name: kind,
            payload,
            priority: Priority::Request,
            when_full: WhenFull::Fail,
            most: usize::MAX,
        };
        self.node.ask_once(&conn, question, timeout).await
    }
}
