//! Opens connections on order: one task per attempt, each with its deadline, a bounded number in flight. Picks no one and
//! retries nothing; how an attempt ended is told to its ticket.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::book::{Dial, DialFailure, DialOrder, Dialing};
use groundskeeper_pool::pool::{Direction, Pool};
use tokio::sync::Semaphore;

use super::handshake::{Greeted, Greeter, Outgoing, settle};
use super::handshake_error::HandshakeError;
use super::settings::NetConfig;
use super::tasks::Tasks;
use super::transport::{Begun, Carrier};
use crate::NodeState;

/// While nobody is connected, an attempt that has no answer is begun again after so long, beside the first. TCP asks again
/// after 1, 3 and 7 s: an attempt of 5 s would be deaf for its last two, and a path may come back in that very moment.
const ANEW_WHEN_ALONE: Duration = Duration::from_millis(1500);

/// Takes orders to dial. Each attempt's task has a clone.
#[derive(Clone)]
pub(crate) struct Dialer {
    carrier: Carrier,
    greeter: Arc<Greeter>,
    pool: Arc<Pool>,
    tasks: Tasks,
    at_once: usize,
    in_flight: Arc<Semaphore>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

impl Dialer {
    pub(crate) fn new(
        config: &NetConfig,
        state: &NodeState,
        tasks: &Tasks,
        greeter: &Arc<Greeter>,
        carrier: Carrier,
    ) -> Arc<Self> {
        let NetConfig { connect_timeout, handshake_timeout, dials_at_once: at_once, .. } = *config;
        let (greeter, pool, tasks) = (greeter.clone(), state.pool.clone(), tasks.clone());
        let in_flight = Arc::new(Semaphore::new(at_once));
        Arc::new(Self {
            carrier,
            greeter,
            pool,
            tasks,
            at_once,
            in_flight,
            connect_timeout,
            handshake_timeout,
        })
    }

    /// Up to three tries, each beside the one before, if this node is alone; else one. The first that ends counts.
    async fn connect(&self, address: SocketAddr) -> io::Result<Begun> {
        let mut first = std::pin::pin!(self.carrier.connect(address));
        if self.pool.live() > 0 {
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

    async fn run(&self, outgoing: Outgoing, ticket: Dialing) {
        let limit = self.connect_timeout;
        let connect = tokio::time::timeout(limit, self.connect(outgoing.order.address));
        let connected = tokio::select! {
            biased;
            () = self.tasks.stopping() => return ticket.failed(&DialFailure::Abandoned),
            connected = connect => connected,
        };
        let begun = match connected {
            Ok(Ok(begun)) => begun,
            Ok(Err(error)) => return ticket.failed(&no_connection(&error)),
            Err(_) => return ticket.failed(&DialFailure::TimedOut),
        };
        let mut ticket = Some(ticket);
        let limit = self.handshake_timeout;
        let handshake = tokio::time::timeout(limit, async {
            let connected = |peer| ticket.take().map(|ticket| ticket.connected(peer));
            match begun {
                Begun::Tls(stream, tls) => {
                    let (stream, peer) = tls.connect(stream).await?;
                    self.greeter.greet_outbound(stream, peer, outgoing, connected).await
                }
                Begun::Own(unproven) => {
                    let (stream, peer) = unproven.await?;
                    self.greeter.greet_outbound(stream, peer, outgoing, connected).await
                }
            }
        });
        let ended = tokio::select! {
            biased;
            () = self.tasks.stopping() => Err(HandshakeError::Stopped),
            ended = handshake => ended.unwrap_or(Err(HandshakeError::TimedOut(limit))),
        };
        let Some(ticket) = ticket else { return };
        match ended {
            Ok(Greeted::Live(peer) | Greeted::Alive(peer)) => ticket.alive(peer),
            Err(error) => settle(ticket, error),
        }
    }
}

impl Dial for Dialer {
    fn dial(&self, order: DialOrder, ticket: Dialing) {
        if self.tasks.is_stopping() {
            return ticket.failed(&DialFailure::Abandoned);
        }
        let Ok(place) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            let most = self.at_once;
            return ticket.failed(&DialFailure::Denied(format!("{most} dials are in flight already")));
        };
        // The pool's limits before any work, as for those who come to us.
        let admission = match self.pool.admit(Direction::Outbound, order.address) {
            Ok(admission) => admission,
            Err(denied) => return ticket.failed(&DialFailure::Denied(denied.to_string())),
        };
        let dialer = self.clone();
        self.tasks.spawn(async move {
            dialer.run(Outgoing { order, admission }, ticket).await;
            drop(place);
        });
    }
}

fn no_connection(error: &io::Error) -> DialFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => DialFailure::Refused,
        io::ErrorKind::TimedOut => DialFailure::TimedOut,
        _ => DialFailure::Unreachable(error.to_string()),
    }
}
