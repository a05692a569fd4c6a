//! A live connection's place: in the pool, in the roster, and with its peer's record. Given back however its task ends.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::journal::{Asker, Cause};
use groundskeeper_pool::pool::{Admission, ConnKey, Pool, Removal, Slot, Verdict};

use super::conn::Conn;
use super::handshake_error::HandshakeError;
use super::node::Node;
use super::roster::Roster;
use super::wire::Hello;

/// A connection with the peer's record of earlier ones.
pub(crate) fn new_conn(node: &Node, roster: &Roster, peer: PeerId, key: ConnKey, hello: &Hello) -> Arc<Conn> {
    let known = roster.find_peer(&node.state.pool, &peer).map(|other| Arc::clone(&other.record));
    let record = known.unwrap_or_else(|| roster.records.take(&peer));
    Arc::new(Conn::new(peer, key, hello, record, node.config.outbox, &*node.state.clock))
}

/// Whether this ended the connection.
pub(crate) fn disconnect_for_shutdown(pool: &Pool, key: ConnKey) -> bool {
    let removal = Removal::new(Asker::Host, Cause::Shutdown, "this node shuts down");
    pool.disconnect(key, removal, None) == Verdict::Closed
}

/// What has to be given back however the task ends: by itself, by a panic, or aborted.
pub(crate) struct Place {
    node: Arc<Node>,
    roster: Arc<Roster>,
    conn: Arc<Conn>,
    slot: Option<Slot>,
    /// Why it is given back, if the pool has no reason of its own.
    pub(crate) removal: Option<Removal>,
}

impl Place {
    /// Asks the pool to take the connection. A live connection has to be found in the roster, so that goes first.
    pub(crate) fn enter(
        node: &Arc<Node>,
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

impl Drop for Place {
    fn drop(&mut self) {
        self.roster.leave(&self.conn);
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
