//! Dials on order: one task per attempt, each with its deadline, a bounded number in flight. Picks no peer and retries
//! nothing; the ticket of an attempt gets its outcome.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use groundskeeper_pool::book::{Dial, DialAttempt, DialFailure, DialOrder};
use groundskeeper_pool::pool::{Denied, Direction};
use tokio::sync::Semaphore;

use super::handshake::{Greeter, OutboundHandshake};
use super::handshake_error::HandshakeError;
use super::node::LocalNode;
use super::transport::{Connector, NewConnection, ProvenStream, is_shortage};

/// While no peer is connected, an attempt without an answer gets another beside it after this time. TCP repeats its SYN
/// after 1, 3 and 7 s: an attempt of 5 s sends nothing in its last two, and the path may come back just then.
const ANEW_WHEN_ALONE: Duration = Duration::from_millis(1500);

/// Carries out orders to dial. Each attempt's task has a clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    node: Arc<LocalNode>,
    greeter: Arc<Greeter>,
    carrier: Connector,
    in_flight: Arc<Semaphore>,
}

impl Dialer {
    pub(crate) fn new(node: Arc<LocalNode>, greeter: Arc<Greeter>, carrier: Connector) -> Arc<Self> {
        let in_flight = Arc::new(Semaphore::new(node.config.dials_at_once));
        Arc::new(Self { node, greeter, carrier, in_flight })
    }

    /// Connects with up to three parallel tries if this node has no connection, else with one. The first that ends
    /// counts.
    async fn connect(&self, address: SocketAddr) -> io::Result<NewConnection> {
        let most = if self.node.state.pool.live() > 0 { 1 } else { 3 };
        let mut tries = vec![Box::pin(self.carrier.connect(address))];
        loop {
            let beside = tries.len();
            let first = poll_fn(|cx| {
                for attempt in &mut tries {
                    if let Poll::Ready(ended) = attempt.as_mut().poll(cx) {
                        return Poll::Ready(ended);
                    }
                }
                Poll::Pending
            });
            if beside == most {
                return first.await;
            }
            if let Ok(ended) = tokio::time::timeout(ANEW_WHEN_ALONE, first).await {
                return ended;
            }
            tries.push(Box::pin(self.carrier.connect(address)));
        }
    }

    async fn run(&self, outgoing: OutboundHandshake, ticket: DialAttempt) {
        let LocalNode { config, tasks, .. } = &*self.node;
        let connect = tokio::time::timeout(config.connect_timeout, self.connect(outgoing.order.address));
        let connected = tokio::select! {
            biased;
            () = tasks.stop.cancelled() => return ticket.failed(&DialFailure::Abandoned),
            connected = connect => connected,
        };
        let begun = match connected {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return ticket.failed(&no_connection(&error)),
            Err(_) => return ticket.failed(&DialFailure::TimedOut),
        };
        let (mut ticket, mut proven) = (Some(ticket), None);
        let handshake = async {
            let connected = |peer| ticket.take().map(|ticket| ticket.connected(peer));
            match begun {
                NewConnection::Tls(stream, tls) => {
                    let (stream, peer) = tls.connect(stream).await?;
                    proven = Some(peer);
                    self.greeter.greet_outbound(stream, peer, outgoing, connected).await?;
                    Ok(peer)
                }
                NewConnection::Own(unproven) => {
                    let ProvenStream { stream, peer } = unproven.await?;
                    proven = Some(peer);
                    self.greeter.greet_outbound(stream, peer, outgoing, connected).await?;
                    Ok(peer)
                }
            }
        };
        let ended = self.greeter.in_time(handshake).await;
        let Some(mut ticket) = ticket else { return };
        proven.into_iter().for_each(|peer| ticket.proven_by(peer));
        match ended {
            Ok(peer) => ticket.probe_succeeded(peer),
            Err(HandshakeError::Denied { denied: Denied::Duplicate, peer }) => ticket.duplicate(peer),
            Err(error) => ticket.failed(&error.into_failure()),
        }
    }
}

impl Dial for Dialer {
    fn dial(&self, order: DialOrder, ticket: DialAttempt) {
        let LocalNode { config, state, tasks, .. } = &*self.node;
        if tasks.stop.is_cancelled() {
            return ticket.failed(&DialFailure::Abandoned);
        }
        let Ok(place) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            let most = config.dials_at_once;
            return ticket.failed(&DialFailure::Denied(format!("{most} dials are in flight already")));
        };
        // Checks the pool's limits before any work, as for incoming connections.
        let admission = match state.pool.admit(Direction::Outbound, order.address) {
            Ok(admission) => admission,
            Err(denied) => return ticket.failed(&DialFailure::Denied(denied.to_string())),
        };
        let dialer = self.clone();
        tasks.spawn(async move {
            dialer.run(OutboundHandshake { order, admission }, ticket).await;
            drop(place);
        });
    }
}

fn no_connection(error: &io::Error) -> DialFailure {
    if is_shortage(error) {
        return DialFailure::Denied(format!("no room for another connection: {error}"));
    }
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialFailure::Refused,
        io::ErrorKind::TimedOut => DialFailure::TimedOut,
        _ => DialFailure::Unreachable(error.to_string()),
    }
}
