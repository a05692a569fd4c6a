//! Puts frames into send queues, within the byte budget of all connections, and counts them. Chooses no connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::Clock;
use groundskeeper_flow::{
    Budget, NotQueued, Performance, Pressure, Priority, QueuedFrame, ReceiveBudget, TrafficSnapshot,
};
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::counters::Counters;
use super::frame::MOST_EVER;
use super::roster::Roster;
use super::settings::NetConfig;
use super::tuning::Tuning;
use super::wire::{Message, ResponseStatus, TooLarge};

pub(crate) struct Traffic {
    pub(crate) tuning: Tuning,
    pub(crate) counters: Counters,
    /// Counts the bytes in all send queues.
    budget: Arc<Budget>,
    /// Counts the bytes of large frames that are being received or handled. As large as the budget of the send queues.
    pub(crate) receiving: Arc<ReceiveBudget>,
    roster: Arc<Roster>,
    clock: Arc<dyn Clock>,
    max_frame: usize,
}

impl Traffic {
    pub(crate) fn new(config: &NetConfig, roster: &Arc<Roster>, clock: &Arc<dyn Clock>) -> Arc<Self> {
        let bounds = &config.performance.backpressure;
        Arc::new(Self {
            budget: Budget::new(bounds.queue_budget, bounds.memory_pressure_threshold),
            receiving: ReceiveBudget::new(bounds.queue_budget, config.max_frame.min(MOST_EVER)),
            tuning: Tuning::new(config.performance.clone(), config.healthy_above),
            counters: Counters::default(),
            roster: Arc::clone(roster),
            clock: Arc::clone(clock),
            max_frame: config.max_frame,
        })
    }

    pub(crate) fn tune(&self, performance: Performance, healthy_above: u8) {
        let bounds = &performance.backpressure;
        self.budget.set(bounds.queue_budget, bounds.memory_pressure_threshold);
        self.receiving.set(bounds.queue_budget);
        self.tuning.set(performance, healthy_above);
    }

    pub(crate) fn snapshot(&self, now: Duration) -> TrafficSnapshot {
        self.counters.snapshot(&self.budget, &self.receiving, now)
    }

    /// # Errors
    /// [`TooLarge`] if the frame would break the cap of its kind.
    pub(crate) fn encode(&self, message: &Message<'_>) -> Result<Bytes, TooLarge> {
        message.encode(self.max_frame)
    }

    /// Counts `frame` against the budget. If the budget is short, [`Roster::relieve`] makes room first.
    ///
    /// # Errors
    /// [`Pressure`].
    pub(crate) fn charge(&self, priority: Priority, frame: Bytes) -> Result<Bytes, Pressure> {
        if self.budget.is_pressed() {
            let shed = |frames| self.counters.shed(frames);
            self.roster.relieve(self.clock.coarse(), self.budget.limit(), shed);
        }
        self.budget.charge(priority, frame)
    }

    /// Waits until [`Traffic::charge`] may take `bytes` more.
    pub(crate) async fn room(&self, priority: Priority, bytes: usize) {
        self.budget.room(priority, bytes).await;
    }

    /// Puts a charged frame into the connection's queue, in the lane that [`Tuning::lane`] gives for its priority.
    pub(crate) fn queue(
        &self,
        conn: &Conn,
        priority: Priority,
        parcel: QueuedFrame,
    ) -> Result<(), NotQueued> {
        let queued = conn.outbox.push(self.tuning.lane(priority), parcel);
        if queued == Err(NotQueued::Full) {
            self.counters.full(priority);
        }
        queued
    }

    /// Queues a charged frame as soon as there is room, until `end`.
    pub(crate) async fn queue_by(
        &self,
        conn: &Conn,
        priority: Priority,
        frame: &Bytes,
        end: Instant,
    ) -> Result<(), NotQueued> {
        loop {
            let room = conn.outbox.room();
            match conn.outbox.push(self.tuning.lane(priority), frame.clone()) {
                Err(NotQueued::Full) => {}
                other => return other,
            }
            if timeout_at(end, room).await.is_err() {
                return Err(NotQueued::Full);
            }
        }
    }

    /// Queues the answer to a request. One that is too large becomes a short failure, one without room becomes "busy".
    /// If that does not fit either, the asker waits for its time-out.
    pub(crate) fn respond(
        &self,
        conn: &Conn,
        id: u64,
        priority: Priority,
        status: ResponseStatus,
        payload: &[u8],
    ) {
        let frame = self.encode(&Message::Response { id, status, payload }).or_else(|too_large| {
            let text = too_large.to_string();
            self.encode(&Message::Response { id, status: ResponseStatus::Failed, payload: text.as_bytes() })
        });
        let queued = frame.is_ok_and(|frame| {
            let charged = self.charge(priority, frame);
            charged.is_ok_and(|frame| self.queue(conn, priority, frame.into()).is_ok())
        });
        if !queued
            && let Ok(busy) =
                self.encode(&Message::Response { id, status: ResponseStatus::Busy, payload: &[] })
        {
            // The control lane is the last resort.
            _ = conn.control(busy);
        }
    }

    /// Answers "busy" at once. The request lane comes first, because many peers may be refused at the same moment and
    /// the control lane is short. A peer without an answer waits for its time-out and takes a busy node for a dead one.
    pub(crate) fn refuse(&self, conn: &Conn, id: u64) {
        self.respond(conn, id, Priority::Request, ResponseStatus::Busy, &[]);
    }
}
