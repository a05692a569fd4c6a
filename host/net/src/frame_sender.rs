//! Puts frames into send queues, within the byte budget of all connections. Chooses no connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use bytes::Bytes;
use groundskeeper_base::clock::{Clock, Coarse};
use groundskeeper_flow::{Budget, NotQueued, Parcel, Pressure, Priority, TrafficSnapshot};
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::counters::Counters;
use super::frame::FrameCaps;
use super::roster::Roster;
use super::settings::NetConfig;
use super::tuning::{CurrentTuning, Tuning};
use super::wire::{Message, TooLarge};
use crate::NodeState;

pub(crate) struct FrameSender {
    caps: FrameCaps,
    budget: Arc<Budget>,
    tuning: Arc<CurrentTuning>,
    counters: Arc<Counters>,
    roster: Arc<Roster>,
    clock: Arc<dyn Clock>,
    /// When queues were last told to drop what matters least.
    relieved: AtomicU32,
}

impl FrameSender {
    pub(crate) fn new(
        config: &NetConfig,
        state: &NodeState,
        tuning: &Arc<CurrentTuning>,
        counters: &Arc<Counters>,
        roster: &Arc<Roster>,
    ) -> Arc<Self> {
        let budget = Budget::new(config.tuning.budget, config.tuning.pressure);
        Arc::new(Self {
            caps: config.frame_caps,
            budget,
            tuning: tuning.clone(),
            counters: counters.clone(),
            roster: roster.clone(),
            clock: state.clock.clone(),
            relieved: AtomicU32::new(0),
        })
    }

    /// Bounds queues and requests by other numbers from now on.
    pub(crate) fn tune(&self, tuning: Tuning) {
        self.budget.set(tuning.budget, tuning.pressure);
        self.tuning.set(tuning);
    }

    pub(crate) fn snapshot(&self) -> TrafficSnapshot {
        self.counters.snapshot(&self.budget)
    }

    /// # Errors
    /// [`TooLarge`] if the frame would break the cap of its kind.
    pub(crate) fn encode(&self, message: &Message<'_>) -> Result<Bytes, TooLarge> {
        message.encode(&self.caps)
    }

    /// Counts `frame` against the budget, after having made room if there is too little.
    ///
    /// # Errors
    /// [`Pressure`].
    pub(crate) fn charge(&self, priority: Priority, frame: Bytes) -> Result<Bytes, Pressure> {
        if self.budget.is_pressed() {
            self.relieve(self.clock.coarse());
        }
        self.budget.charge(priority, frame)
    }

    /// Puts a charged frame into the connection's queue, in the lane that it has now.
    pub(crate) fn queue(&self, conn: &Conn, priority: Priority, parcel: Parcel) -> Result<(), NotQueued> {
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

    /// Waits until the budget has room for a frame of `size` bytes.
    pub(crate) async fn budget_room(&self, priority: Priority, size: usize) {
        self.budget.room(priority, size).await;
    }

    /// Has queues above their fair share drop bulk, then broadcasts: who does not read pays, not who does. At most once
    /// in an eighth of a second. O(connections).
    fn relieve(&self, now: Coarse) {
        // One more than the time: 0 is never.
        let moment = now.0.wrapping_add(1);
        if self.relieved.swap(moment, Relaxed) == moment {
            return;
        }
        let listed = self.roster.listed();
        let fair = self.budget.limit() / (2 * listed.conns.len().max(1));
        for conn in &listed.conns {
            self.counters.shed(conn.shed(fair));
        }
    }
}
