//! A live connection's place: in the pool, in the roster, and with its peer's record. Given back however its task ends.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::journal::{Asker, Cause};
use groundskeeper_pool::pool::{Admission, ConnKey, Removal, Slot, Verdict};

use super::conn::Conn;
use super::handshake_error::HandshakeError;
use super::shared::Shared;
use super::wire::Hello;

/// A connection with the peer's record of earlier ones.
pub(crate) fn new_conn(shared: &Shared, peer: PeerId, key: ConnKey, hello: &Hello) -> Arc<Conn> {
    let known = shared.find(&peer).map(|other| Arc::clone(&other.record));
    let record = known.unwrap_or_else(|| shared.roster.records.take(&peer));
    Arc::new(Conn::new(peer, key, hello, record, shared.config.outbox, &*shared.state.clock))
}

/// Whether this ended the connection.
pub(crate) fn disconnect_for_shutdown(shared: &Shared, key: ConnKey) -> bool {
    let removal = Removal::new(Asker::Host, Cause::Shutdown, "this node shuts down");
    shared.state.pool.disconnect(key, removal, None) == Verdict::Closed
}

/// What has to be given back however the task ends: by itself, by a panic, or aborted.
pub(crate) struct Place {
    shared: Arc<Shared>,
    conn: Arc<Conn>,
    slot: Option<Slot>,
    /// Why it is given back, if the pool has no reason of its own.
    pub(crate) removal: Option<Removal>,
}

impl Place {
    /// Asks the pool to take the connection. A live connection has to be found in the roster, so that goes first.
    pub(crate) fn enter(
        shared: &Arc<Shared>,
        admission: Admission,
        conn: Arc<Conn>,
    ) -> Result<Self, HandshakeError> {
        shared.roster.enter(Arc::clone(&conn));
        match admission.go_live(conn.peer, conn.clone()) {
            Ok(slot) => Ok(Self { shared: Arc::clone(shared), conn, slot: Some(slot), removal: None }),
            Err(denied) => {
                shared.roster.leave(&conn);
                Err(HandshakeError::Denied { denied, peer: conn.peer })
            }
        }
    }

    pub(crate) fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(crate) fn slot(&self) -> &Slot {
        self.slot.as_ref().expect("the slot is held until the task ends")
    }

    /// Takes the connection out of the pool now.
    pub(crate) fn disconnect(&self, removal: Removal) {
        self.shared.state.pool.disconnect(self.conn.key, removal, None);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.roster.leave(&self.conn);
        self.conn.outbox.end();
        self.conn.pending.end();
        if let Some(slot) = self.slot.take() {
            slot.retire(self.removal.take().unwrap_or_else(|| {
                let words = "its task was ended from outside: a panic, or the runtime stopped";
                Removal::new(Asker::Host, Cause::OwnerDropped, words)
            }));
        }
    }
}
