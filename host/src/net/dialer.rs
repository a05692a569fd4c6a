//! Opens connections on order: one task per attempt, each with its deadline, a bounded number in flight. Picks no one and
//! retries nothing; how an attempt ended is told to its ticket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::handshake::{Greeted, Outgoing, settle};
use super::handshake_error::HandshakeError;
use super::node::Node;
use super::transport::Begun;
use crate::book::{Dial, DialFailure, DialOrder, Dialing};
use crate::pool::Direction;

/// While nobody is connected, an attempt that has no answer is begun again after so long, beside the first. TCP asks again
/// after 1, 3 and 7 s: an attempt of 5 s would be deaf for its last two, and a path may come back in that very moment.
const ANEW_WHEN_ALONE: Duration = Duration::from_millis(1500);

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
    /// Up to three tries, each beside the one before, if this node is alone; else one. The first that ends counts.
    async fn connect(&self, address: SocketAddr) -> io::Result<Begun> {
        let mut first = std::pin::pin!(self.carrier.connect(address));
        if self.rooms.pool.live() > 0 {
            return first.await;
        }
        if let Ok(ended) = tokio::time::timeout(ANEW_WHEN_ALONE, &mut first).await {
            return ended;
        }
        let mut second = std::pin::pin!(self.carrier.connect(address));
        let both = async {
            tokio::select! {
                biased;
                ended = &mut first => ended,
                ended = &mut second => ended,
            }
        };
        let mut both = std::pin::pin!(both);
        if let Ok(ended) = tokio::time::timeout(ANEW_WHEN_ALONE, &mut both).await {
            return ended;
        }
        tokio::select! {
            biased;
            ended = both => ended,
            ended = self.carrier.connect(address) => ended,
        }
    }

    async fn attempt(self: Arc<Self>, outgoing: Outgoing, ticket: Dialing) {
        let limit = self.config.connect_timeout;
        let connect = tokio::time::timeout(limit, self.connect(outgoing.order.address));
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
