//! A live connection's place: in the pool, in the roster, and with its peer's record. Given back however its task ends.

use std::sync::Arc;

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::OutboxLimits;
use groundskeeper_pool::journal::{Asker, Cause};
use groundskeeper_pool::pool::{Admission, ConnKey, Denied, Pool, Removal, Slot, Verdict};

use super::conn::Conn;
use super::peer_record::PeerRecords;
use super::roster::Roster;
use super::settings::NetConfig;
use super::wire::Hello;
use crate::NodeState;

/// Makes connections live.
pub(crate) struct Places {
    outbox: OutboxLimits,
    pool: Arc<Pool>,
    roster: Arc<Roster>,
    records: PeerRecords,
    clock: Arc<dyn Clock>,
}

impl Places {
    pub(crate) fn new(config: &NetConfig, state: &NodeState, roster: &Arc<Roster>) -> Arc<Self> {
        let NodeState { pool, clock, .. } = state.clone();
        let (outbox, records) = (config.outbox, PeerRecords::default());
        Arc::new(Self { outbox, pool, roster: roster.clone(), records, clock })
    }

    /// A connection with the peer's record of earlier ones.
    pub(crate) fn conn(&self, peer: PeerId, key: ConnKey, hello: &Hello) -> Arc<Conn> {
        let known = self.roster.find_peer(&peer).map(|other| Arc::clone(&other.record));
        let record = known.unwrap_or_else(|| self.records.take(&peer));
        Arc::new(Conn::new(peer, key, hello, record, self.outbox, &*self.clock))
    }

    /// Asks the pool to take the connection. A live connection has to be found in the roster, so that goes first.
    pub(crate) fn enter(self: &Arc<Self>, admission: Admission, conn: Arc<Conn>) -> Result<Place, Denied> {
        self.roster.enter(Arc::clone(&conn));
        match admission.go_live(conn.peer, conn.clone()) {
            Ok(slot) => Ok(Place { places: Arc::clone(self), conn, slot: Some(slot), removal: None }),
            Err(denied) => {
                self.roster.leave(conn.key);
                self.records.keep(conn.peer, &conn.record);
                Err(denied)
            }
        }
    }

    /// Whether this ended it.
    pub(crate) fn disconnect_for_shutdown(&self, key: ConnKey) -> bool {
        let removal = Removal::new(Asker::Host, Cause::Shutdown, "this node shuts down");
        self.pool.disconnect(key, removal, None) == Verdict::Closed
    }
}

/// What has to be given back however the task ends: by itself, by a panic, or aborted.
pub(crate) struct Place {
    places: Arc<Places>,
    conn: Arc<Conn>,
    slot: Option<Slot>,
    removal: Option<Removal>,
}

impl Place {
    pub(crate) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(crate) fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("the slot is held until the task ends")
    }

    /// Takes the connection out of the pool now.
    pub(crate) fn disconnect(&self, removal: Removal) {
        self.places.pool.disconnect(self.conn.key, removal, None);
    }

    /// Why it is given back, if the pool has no reason of its own.
    pub(crate) fn set_removal(&mut self, removal: Removal) {
        self.removal = Some(removal);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.roster.leave(self.conn.key);
        self.conn.outbox.end();
        self.conn.pending.end();
        self.places.records.keep(self.conn.peer, &self.conn.record);
        if let Some(slot) = self.slot.take() {
            slot.retire(self.removal.take().unwrap_or_else(|| {
                let words = "its task was ended from outside: a panic, or the runtime stopped";
                Removal::new(Asker::Host, Cause::OwnerDropped, words)
            }));
        }
    }
}
