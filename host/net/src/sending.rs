//! Puts frames into send queues, within the byte budget of all connections. Chooses no connection.

use bytes::Bytes;
use groundskeeper_flow::{NotQueued, Parcel, Pressure, Priority};
use tokio::time::{Instant, timeout_at};

use super::conn::Conn;
use super::shared::Shared;
use super::wire::{Message, Status, TooLarge};

impl Shared {
    /// # Errors
    /// [`TooLarge`] if the frame would break the cap of its kind.
    pub(crate) fn encode(&self, message: &Message<'_>) -> Result<Bytes, TooLarge> {
        message.encode(self.config.max_frame)
    }

    /// Counts `frame` against the budget, after having made room if there is too little.
    ///
    /// # Errors
    /// [`Pressure`].
    pub(crate) fn charge(&self, priority: Priority, frame: Bytes) -> Result<Bytes, Pressure> {
        if self.budget.is_pressed() {
            let shed = |frames| self.counters.shed(frames);
            self.roster.relieve(self.state.clock.coarse(), self.budget.limit(), shed);
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

    /// Queues the answer to a request. One that is too large, or for which there is no room, becomes a short refusal; if
    /// not even that fits, the asker's time-out tells it.
    pub(crate) fn respond(&self, conn: &Conn, id: u64, priority: Priority, status: Status, payload: &[u8]) {
        let frame = self.encode(&Message::Response { id, status, payload }).or_else(|too_large| {
            let words = too_large.to_string();
            self.encode(&Message::Response { id, status: Status::Failed, payload: words.as_bytes() })
        });
        let queued = frame.is_ok_and(|frame| {
            let charged = self.charge(priority, frame);
            charged.is_ok_and(|frame| self.queue(conn, priority, frame.into()).is_ok())
        });
        if !queued
            && let Ok(busy) = self.encode(&Message::Response { id, status: Status::Busy, payload: &[] })
        {
            // The last resort, when nothing else has room.
            _ = conn.control(busy);
        }
    }

    /// Tells the asker at once that there is too much to do. Many are told so in one moment, and the control lane is
    /// short: a peer that is not told waits for its time-out, and takes a busy node for a dead one.
    pub(crate) fn refuse(&self, conn: &Conn, id: u64) {
        self.respond(conn, id, Priority::Request, Status::Busy, &[]);
    }
}
