//! Ends connections: causes, conditions, and who is notified. The state changes in one step under the pool's lock; the
//! link and the journal are notified afterwards.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use groundskeeper_base::clock::CoarseInstant;

use super::members::Members;
use super::{ConnKey, Direction, Goodbye, Link, Pool, State, TagValue};
use crate::journal::{ActionKind, Cause, Initiator, Input, NewRecord};

/// Time for the owner of a closing connection to release its slot, before the pool aborts it.
pub const CLOSING_DEADLINE: Duration = Duration::from_secs(5);

/// Why a connection ends: initiator, cause, reason and inputs.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Who wants the connection to end.
    pub by: Initiator,
    /// Counted by the journal; part of the [`Goodbye`] if the peer gets one.
    pub cause: Cause,
    /// In words, for the journal and the goodbye.
    pub reason: String,
    /// If empty, the pool adds the current values of its columns.
    pub inputs: Vec<Input>,
}

impl Removal {
    /// A removal without inputs: the pool adds the current values of its columns.
    pub fn new(by: Initiator, cause: Cause, reason: impl Into<String>) -> Self {
        Self { by, cause, reason: reason.into(), inputs: Vec::new() }
    }
}

/// Outcome of a request to disconnect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DisconnectOutcome {
    /// The connection was live and this call has ended it.
    Closed,
    /// The connection had ended already.
    Gone,
    /// The decision was based on silence, but the peer has spoken since.
    Spoke,
    /// Fewer connections than [`DisconnectTerms::keep`] would be left.
    TooFew,
}

/// Conditions for ending a connection. All are checked and applied in one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[doc(hidden)]
pub struct DisconnectTerms {
    /// The connection stays if the peer spoke after this moment.
    pub unless_seen_since: Option<CoarseInstant>,
    /// The connection stays if fewer live connections would be left.
    pub keep: u32,
    /// The peer's key is refused for this time, starting in the same step.
    pub ban_for: Option<Duration>,
}

/// A connection that has just been closed; the journal and the link are not notified yet.
pub(super) struct ClosedConnection {
    draft: NewRecord,
    link: Option<Arc<dyn Link>>,
    goodbye: Goodbye,
}

impl Pool {
    /// Ends a live connection: removes it from the index and the live count, records it, and notifies its owner.
    ///
    /// With `unless_seen_since` the connection stays if the peer spoke after that moment.
    pub fn disconnect(
        &self,
        key: ConnKey,
        removal: Removal,
        unless_seen_since: Option<CoarseInstant>,
    ) -> DisconnectOutcome {
        self.disconnect_on(key, removal, DisconnectTerms { unless_seen_since, ..DisconnectTerms::default() })
    }
}

#[doc(hidden)]
impl Pool {
    /// [`Pool::disconnect`] with more conditions.
    pub fn disconnect_on(&self, key: ConnKey, removal: Removal, terms: DisconnectTerms) -> DisconnectOutcome {
        let mut members = self.members.lock();
        if !self.is_live(key) {
            return DisconnectOutcome::Gone;
        }
        let seen = CoarseInstant(self.last_seen[key.slot as usize].load(Relaxed));
        if terms.unless_seen_since.is_some_and(|view| seen > view) {
            return DisconnectOutcome::Spoke;
        }
        // Exact: connections become live and end only under this lock.
        if self.live.load(Relaxed) <= terms.keep {
            return DisconnectOutcome::TooFew;
        }
        let id = members.id(key.slot);
        let closed = self.close_locked(&mut members, key, removal);
        if closed.is_some()
            && let Some(time) = terms.ban_for
        {
            members.ban(id, time, self.clock.coarse());
        }
        drop(members);
        let Some(closed) = closed else { return DisconnectOutcome::Gone };
        self.finish_close(closed);
        DisconnectOutcome::Closed
    }

    /// Live to closing under the lock. Returns the notifications to send once the lock is released.
    pub(super) fn close_locked(
        &self,
        members: &mut Members,
        key: ConnKey,
        removal: Removal,
    ) -> Option<ClosedConnection> {
        let at = key.slot as usize;
        let before = self.tags[at].close(key.conn)?;
        let now = self.clock.coarse();
        let Removal { by, cause, reason, mut inputs } = removal;
        if inputs.is_empty() {
            inputs = self.inputs_now(key.slot, before, now);
        }
        let draft = NewRecord {
            cause: Some(cause),
            inputs,
            ..NewRecord::new(by, ActionKind::Disconnect, reason.clone())
        };
        let draft = members.about(key, draft);
        let link = members.link(key.slot);
        members.leave(key.slot);
        members.protected.remove(&key.slot);
        self.connected_at[at].store(now.0, Relaxed);
        self.closing.fetch_add(1, Relaxed);
        self.removals.fetch_add(1, Relaxed);
        if self.live.fetch_sub(1, Relaxed) == 1 {
            self.isolated.notify_one();
        }
        Some(ClosedConnection { draft, link, goodbye: Goodbye { cause, text: reason } })
    }

    pub(super) fn finish_close(&self, closed: ClosedConnection) {
        self.journal.record(closed.draft);
        if let Some(link) = closed.link {
            link.close(&closed.goodbye);
        }
    }

    fn inputs_now(&self, slot: u32, word: TagValue, now: CoarseInstant) -> Vec<Input> {
        let at = slot as usize;
        vec![
            ("idle-s".into(), now.seconds_since(CoarseInstant(self.last_seen[at].load(Relaxed)))),
            ("age-s".into(), now.seconds_since(CoarseInstant(self.connected_at[at].load(Relaxed)))),
            ("health".into(), word.health().into()),
            ("rtt-us".into(), self.rtt_us[at].load(Relaxed)),
            ("pings-lost".into(), word.pings_lost().into()),
        ]
    }

    /// Frees a slot, by its owner. If the connection is still live, first ends it as `removal` says.
    pub(super) fn release(&self, key: ConnKey, direction: Direction, removal: Option<Removal>) {
        let mut members = self.members.lock();
        let mut closed = None;
        match self.tags[key.slot as usize].load().state() {
            State::Live => {
                let removal = removal.unwrap_or_else(|| {
                    Removal::new(
                        Initiator::Application,
                        Cause::OwnerDropped,
                        "its owner let go without a reason",
                    )
                });
                closed = self.close_locked(&mut members, key, removal);
                self.closing.fetch_sub(1, Relaxed);
            }
            State::Closing => _ = self.closing.fetch_sub(1, Relaxed),
            State::Handshaking => members.handshake_over(direction),
            State::Vacant => unreachable!("a slot has one owner, who frees it once"),
        }
        members.vacate(key.slot, direction);
        self.tags[key.slot as usize].set(TagValue::vacant(members.free));
        members.free = key.slot;
        drop(members);
        if let Some(closed) = closed {
            // The caller is the owner, so the link is not notified.
            self.journal.record(closed.draft);
        }
    }

    /// Aborts the owners of connections that have been closing for [`CLOSING_DEADLINE`]. O(slots), O(1) if none closes.
    pub fn abort_overdue(&self) -> u32 {
        if self.closing.load(Relaxed) == 0 {
            return 0;
        }
        let now = self.clock.coarse();
        let mut overdue = Vec::new();
        for slot in 0..self.high.load(Relaxed) {
            let word = self.tags[slot as usize].load();
            let since = CoarseInstant(self.connected_at[slot as usize].load(Relaxed));
            if word.state() == State::Closing && now.since(since) >= CLOSING_DEADLINE {
                overdue.push((slot, word.conn()));
            }
        }
        let mut aborted = 0;
        for (slot, conn) in overdue {
            let members = self.members.lock();
            let word = self.tags[slot as usize].load();
            if word.state() != State::Closing || word.conn() != conn {
                continue;
            }
            // Abort each owner once. An owner that ignores the abort keeps its slot until it releases it.
            self.connected_at[slot as usize].store(u32::MAX, Relaxed);
            let draft =
                NewRecord::new(Initiator::Host, ActionKind::Aborted, "did not let go of its slot in time");
            let (draft, link) = (members.about(ConnKey { slot, conn }, draft), members.link(slot));
            drop(members);
            aborted += 1;
            self.aborted.fetch_add(1, Relaxed);
            self.journal.record(draft);
            if let Some(link) = link {
                link.abort();
            }
        }
        aborted
    }
}
