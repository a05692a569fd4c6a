//! Opens connections on order: one task per attempt, each with its deadline, a bounded number in flight. Picks no one and
//! retries nothing; how an attempt ended is told to its ticket.

use std::io;
use std::sync::Arc;

use super::handshake::{Greeted, HandshakeError, Outgoing, settle};
use super::node::Node;
use super::transport::Begun;
use crate::book::{Dial, DialFailure, DialOrder, Dialing};
use crate::pool::Direction;

pub(crate) struct Dialer(pub(crate) Arc<Node>);

impl Dial for Dialer {
    fn dial(&self, order: DialOrder, ticket: Dialing) {
        let node = Arc::clone(&self.0);
        if node.stop.is_cancelled() {
            return ticket.failed(&DialFailure::Abandoned);
        }
        let Ok(place) = Arc::clone(&node.dials).try_acquire_owned() else {
            let most = node.config.dials_at_once;
            return ticket.failed(&DialFailure::Denied(format!("{most} dials are in flight already")));
        };
        // The pool's limits before any work, as for those who come to us.
        let admission = match node.rooms.pool.admit(Direction::Outbound, order.address) {
            Ok(admission) => admission,
            Err(denied) => return ticket.failed(&DialFailure::Denied(denied.to_string())),
        };
        let runtime = node.runtime.clone();
        let tracker = node.tracker.clone();
        tracker.spawn_on(
            async move {
                node.attempt(Outgoing { order, admission }, ticket).await;
                drop(place);
            },
            &runtime,
        );
    }
}

impl Node {
    async fn attempt(self: Arc<Self>, outgoing: Outgoing, ticket: Dialing) {
        let limit = self.config.connect_timeout;
        let connect = tokio::time::timeout(limit, self.carrier.connect(outgoing.order.address));
        let connected = tokio::select! {
            biased;
            () = self.stop.cancelled() => return ticket.failed(&DialFailure::Abandoned),
            connected = connect => connected,
        };
        let begun = match connected {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return ticket.failed(&no_connection(&error)),
            Err(_) => return ticket.failed(&DialFailure::TimedOut),
        };
        let mut ticket = Some(ticket);
        let limit = self.config.handshake_timeout;
        let handshake = tokio::time::timeout(limit, async {
            let connected = |peer| ticket.take().map(|ticket| ticket.connected(peer));
            match begun {
                Begun::Tls(stream, tls) => {
                    let (stream, peer) = tls.connect(stream).await?;
                    self.greet_outbound(stream, peer, outgoing, connected).await
                }
                Begun::Own(unproven) => {
                    let (stream, peer) = unproven.await?;
                    self.greet_outbound(stream, peer, outgoing, connected).await
                }
            }
        });
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(HandshakeError::Stopped),
            ended = handshake => ended.unwrap_or(Err(HandshakeError::TimedOut(limit))),
        };
        let Some(ticket) = ticket else { return };
        match ended {
            Ok(Greeted::Live(peer) | Greeted::Alive(peer)) => ticket.alive(peer),
            Err(error) => settle(ticket, error),
        }
    }
}

fn no_connection(error: &io::Error) -> DialFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialFailure::Refused,
        io::ErrorKind::TimedOut => DialFailure::TimedOut,
        _ => DialFailure::Unreachable(error.to_string()),
    }
}
