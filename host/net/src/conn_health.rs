//! Health that answers and broadcasts cost a connection, and that it earns back. The pool holds the number.

use std::sync::Arc;

use groundskeeper_pool::journal::{Asker, Draft, Journal, What};
use groundskeeper_pool::pool::Pool;

use super::conn::Conn;
use super::counters::{Counters, Event};
use super::pending::Answered;
use crate::NodeState;

/// Health taken for no answer in time: it takes twenty of them, and the breaker opens long before.
const NO_ANSWER: i32 = -5;

/// Health taken for answering twice: harmless to us, but nobody does it by accident often.
const TWICE: i32 = -10;

/// Health taken for more than was asked for: as for a bad broadcast.
const TOO_MUCH: i32 = -25;

/// Health taken for a broadcast that the application finds bad: four of them use up a connection's health.
const BAD_BROADCAST: i32 = -25;

/// Health given back for each answer, of what was taken for answers.
const ANSWERED: u32 = 1;

/// Health given back for an answered ping, of what was taken for answers: a peer that is not asked any more can still
/// show that it is there, and is asked again after some minutes.
const PONG: u32 = 5;

pub(crate) struct ConnHealth {
    pool: Arc<Pool>,
    journal: Arc<Journal>,
    counters: Arc<Counters>,
}

impl ConnHealth {
    pub(crate) fn new(state: &NodeState, counters: &Arc<Counters>) -> Arc<Self> {
        let NodeState { pool, journal, .. } = state.clone();
        Arc::new(Self { pool, journal, counters: counters.clone() })
    }

    pub(crate) fn no_answer(&self, conn: &Conn, why: impl FnOnce() -> String) {
        self.take(conn, NO_ANSWER, why);
    }

    /// What the peer did with an answer costs its connection health.
    pub(crate) fn blame_answer(&self, conn: &Conn, what: &Answered) {
        let (by, words) = match what {
            Answered::Again => (TWICE, "answered a request twice"),
            Answered::TooMuch => (TOO_MUCH, "answered more than was asked for"),
            Answered::Delivered | Answered::PeerList | Answered::Late | Answered::NeverAsked => return,
        };
        self.counters.count(Event::Misbehaved);
        self.take(conn, by, || words.to_owned());
    }

    pub(crate) fn bad_broadcast(&self, conn: &Conn, topic: &str) {
        self.adjust(conn, BAD_BROADCAST, Asker::Application, || format!("bad broadcast on {topic:?}"));
    }

    pub(crate) fn answered(&self, conn: &Conn) {
        self.give_back(conn, ANSWERED);
    }

    pub(crate) fn ponged(&self, conn: &Conn) {
        self.give_back(conn, PONG);
    }

    /// Takes health for an answer. It can be earned back; what phases and the application took cannot, by this way.
    fn take(&self, conn: &Conn, by: i32, why: impl FnOnce() -> String) {
        conn.owe(self.adjust(conn, by, Asker::Host, why));
    }

    fn give_back(&self, conn: &Conn, most: u32) {
        if let Some(by) = conn.repay(most) {
            self.adjust(conn, by as i32, Asker::Host, || "answers again".to_owned());
        }
    }

    /// Changes the health of a connection, and says why in the journal. By how much it has changed.
    fn adjust(&self, conn: &Conn, by: i32, asker: Asker, why: impl FnOnce() -> String) -> u32 {
        let Some((before, after)) = self.pool.adjust_health_above(conn.key, by, 0) else { return 0 };
        if before != after {
            self.journal.record(Draft {
                peer: Some(conn.peer),
                conn: Some(conn.key.conn),
                inputs: vec![("health".into(), before.into()), ("health-after".into(), after.into())],
                ..Draft::new(asker, What::Health, why())
            });
        }
        before.abs_diff(after).into()
    }
}
