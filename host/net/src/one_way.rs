//! One-way messages: to one peer, at most once, in order, without an answer.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use groundskeeper_flow::Priority;
use groundskeeper_pool::pool::Link;

use super::conn::Conn;
use super::handlers::MessageHandler;
use super::node::LocalNode;
use super::request_error::SendError;
use super::roster::Roster;
use super::traffic::Traffic;
use super::wire::{FEATURE_ONE_WAY, MAX_NAME, Message};

/// Sends the one-way messages of this node, and delivers those of peers.
pub(crate) struct OneWayMessages {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) traffic: Arc<Traffic>,
    pub(crate) handlers: HashMap<String, MessageHandler>,
}

impl OneWayMessages {
    /// Queues a message for `peer`. Waits for nothing.
    pub(crate) fn send(&self, peer: PeerId, kind: &str, payload: &[u8]) -> Result<(), SendError> {
        if kind.is_empty() || kind.len() > MAX_NAME {
            return Err(SendError::BadKind(kind.to_owned()));
        }
        let found = self.roster.find_peer(&self.node.state.pool, &peer);
        let conn = found.ok_or(SendError::NotConnected(peer))?;
        if !conn.has(FEATURE_ONE_WAY) {
            return Err(SendError::NotSupported { peer, agent: conn.agent().to_owned() });
        }
        let frame = self.traffic.encode(&Message::OneWay { kind, payload })?;
        let frame = self.traffic.charge(Priority::Request, frame)?;
        Ok(self.traffic.queue(&conn, Priority::Request, frame.into())?)
    }

    /// Delivers what `from` sent. Ignores kinds without a handler. Returns the handler's time.
    pub(crate) fn take(&self, from: &Conn, kind: &str, payload: Bytes) -> Duration {
        let Some(handler) = self.handlers.get(kind) else { return Duration::ZERO };
        let clock: &dyn Clock = &*self.node.state.clock;
        let began = clock.mono();
        // A panic in the handler must not end the connection: the peer did nothing wrong.
        _ = catch_unwind(AssertUnwindSafe(|| handler(&from.peer, &payload)));
        clock.mono().saturating_sub(began)
    }
}
