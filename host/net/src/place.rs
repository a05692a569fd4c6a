//! Registers a live connection in the pool and the roster, and removes it however its task ends.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::journal::{Cause, Initiator};
use groundskeeper_pool::pool::{Admission, ConnKey, DisconnectOutcome, Pool, Removal, Slot};

use super::conn::Conn;
use super::handshake_error::HandshakeError;
use super::node::LocalNode;
use super::roster::Roster;
use super::wire::Hello;

/// A new connection that continues the peer's record of earlier ones.
pub(crate) fn new_conn(
    node: &LocalNode,
    roster: &Roster,
    peer: PeerId,
    key: ConnKey,
    hello: &Hello,
) -> Arc<Conn> {
    let known = roster.find_peer(&node.state.pool, &peer).map(|other| Arc::clone(&other.record));
    let record = known.unwrap_or_else(|| roster.records.take(&peer));
    Arc::new(Conn::new(peer, key, hello, record, node.config.outbox, &*node.state.clock))
}

/// Closes a connection because of the shutdown. False if it was closed already.
pub(crate) fn disconnect_for_shutdown(pool: &Pool, key: ConnKey) -> bool {
    let removal = Removal::new(Initiator::Host, Cause::Shutdown, "this node shuts down");
    pool.disconnect(key, removal, None) == DisconnectOutcome::Closed
}

/// Frees the slot and the roster entry however the task ends: by itself, by a panic, or aborted.
pub(crate) struct ConnGuard {
    node: Arc<LocalNode>,
    roster: Arc<Roster>,
    conn: Arc<Conn>,
    slot: Option<Slot>,
    /// Why the connection ends, if the pool has no reason already.
    pub(crate) removal: Option<Removal>,
}

impl ConnGuard {
    /// Asks the pool to take the connection. It enters the roster first, since a live connection must be found there.
    pub(crate) fn enter(
        node: &Arc<LocalNode>,
        roster: &Arc<Roster>,
        admission: Admission,
        conn: Arc<Conn>,
    ) -> Result<Self, HandshakeError> {
        roster.enter(Arc::clone(&conn));
        match admission.go_live(conn.peer, conn.clone()) {
            Ok(slot) => {
                Ok(Self { node: node.clone(), roster: roster.clone(), conn, slot: Some(slot), removal: None })
            }
            Err(denied) => {
                roster.leave(&conn);
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
        self.node.state.pool.disconnect(self.conn.key, removal, None);
    }
}

impl Drop for ConnGuard {
    fn drop(&mut self) {
        self.roster.leave(&self.conn);
        self.conn.outbox.end();
        self.conn.pending.end();
        if let Some(slot) = self.slot.take() {
            slot.retire(self.removal.take().unwrap_or_else(|| {
                let reason = "its task was ended from outside: a panic, or the runtime stopped";
                Removal::new(Initiator::Host, Cause::OwnerDropped, reason)
            }));
        }
    }
}
