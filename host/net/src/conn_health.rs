//! Health that a connection loses by bad answers and broadcasts, and earns back. The pool holds the number.

use std::sync::atomic::Ordering::Relaxed;

use groundskeeper_pool::NodeState;
use groundskeeper_pool::journal::{ActionKind, Initiator, NewRecord};

use super::conn::Conn;
use super::counters::Counters;

/// Health taken for no answer in time: twenty of them use it up, and the breaker opens long before.
const NO_ANSWER: i32 = -5;

/// Health taken for answering twice: harmless to us, but it rarely happens by accident.
const TWICE: i32 = -10;

/// Health taken for an answer that is too large: as much as for a bad broadcast.
const TOO_MUCH: i32 = -25;

/// Health taken for a broadcast that the application finds bad: four of them use up a connection's health.
const BAD_BROADCAST: i32 = -25;

/// Health given back for each answer, at most what was taken for answers.
const ANSWERED: u32 = 1;

/// Health given back for each pong, at most what was taken for answers. So a peer that gets no more requests can show
/// that it is alive, and gets some again after a few minutes.
const PONG: u32 = 5;

pub(crate) fn no_answer(state: &NodeState, conn: &Conn, why: impl FnOnce() -> String) {
    take(state, conn, NO_ANSWER, why);
}

pub(crate) fn answered_twice(state: &NodeState, counters: &Counters, conn: &Conn) {
    misbehaved(state, counters, conn, TWICE, "answered a request twice");
}

pub(crate) fn answered_too_much(state: &NodeState, counters: &Counters, conn: &Conn) {
    misbehaved(state, counters, conn, TOO_MUCH, "answered more than was asked for");
}

pub(crate) fn bad_broadcast(state: &NodeState, conn: &Conn, topic: &str) {
    adjust(state, conn, BAD_BROADCAST, Initiator::Application, || format!("bad broadcast on {topic:?}"));
}

pub(crate) fn answered(state: &NodeState, conn: &Conn) {
    give_back(state, conn, ANSWERED);
}

pub(crate) fn ponged(state: &NodeState, conn: &Conn) {
    give_back(state, conn, PONG);
}

fn misbehaved(state: &NodeState, counters: &Counters, conn: &Conn, by: i32, reason: &str) {
    counters.misbehaved.fetch_add(1, Relaxed);
    take(state, conn, by, || reason.to_owned());
}

/// Takes health for an answer. Only this health can be earned back, not what phases and the application took.
fn take(state: &NodeState, conn: &Conn, by: i32, why: impl FnOnce() -> String) {
    conn.owe(adjust(state, conn, by, Initiator::Host, why));
}

fn give_back(state: &NodeState, conn: &Conn, most: u32) {
    if let Some(by) = conn.repay(most) {
        adjust(state, conn, by as i32, Initiator::Host, || "answers again".to_owned());
    }
}

/// Changes the health of a connection and records it in the journal. Returns the size of the change.
fn adjust(state: &NodeState, conn: &Conn, by: i32, asker: Initiator, why: impl FnOnce() -> String) -> u32 {
    let Some((before, after)) = state.pool.adjust_health(conn.key, by, 0) else { return 0 };
    if before != after {
        state.journal.record(NewRecord {
            peer: Some(conn.peer),
            conn: Some(conn.key.conn),
            inputs: vec![("health".into(), before.into()), ("health-after".into(), after.into())],
            ..NewRecord::new(asker, ActionKind::Health, why())
        });
    }
    before.abs_diff(after).into()
}
