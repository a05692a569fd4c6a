//! Connections to other nodes: transport, handshake, frames, sessions, dialer, listener, requests and broadcasts.
//! Carries out what others decide: it keeps no timer, picks no peer and drops none but for breaking the protocol.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;

mod allowance;
mod answering;
mod asking;
mod bootstrap;
mod broadcasting;
mod conn;
mod dialer;
mod exchange;
#[doc(hidden)]
pub mod frame;
mod handlers;
mod handshake;
mod handshake_error;
mod identity;
mod kinds;
mod listener;
mod node;
mod pending;
mod pings;
mod refusals;
mod request_error;
mod requests;
mod roster;
mod session;
mod settings;
mod standing;
#[cfg(test)]
mod tests;
mod tls;
mod traffic;
mod transport;
mod tuning;
#[doc(hidden)]
pub mod wire;

pub use asking::{Answer, Ask, AskError};
pub use bootstrap::Resolved;
pub use broadcasting::{Audience, Broadcast, BroadcastError, IfFull, Sent};
pub use frame::FrameCaps;
pub use handlers::{BUILT_IN, Capacity, Handlers, Verdict};
pub use handshake_error::HandshakeError;
pub use identity::{BadKey, Identity};
pub use request_error::{MAX_PENDING, RequestError};
pub use requests::WhenFull;
pub use settings::{MAX_NETWORK, NetConfig, Rooms};
pub use transport::{BoxFuture, BoxedStream, ByteStream, Listener, Transport, Unproven};
pub use tuning::Tuning;

use crate::book::{Dial, DialOrder};
use crate::flow::{KindSnapshot, PeerBreaker, TrafficReport, TrafficSnapshot};
use crate::pool::{Direction, PeerFacts};
use dialer::Dialer;
use handshake::Outgoing;
use node::Node;
use tls::Tls;
use transport::{Carrier, Door};

/// For aborted tasks to be gone: they only have to be polled once more.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The network of one node. Dropped without [`Net::shutdown`] it stops at once and says goodbye to nobody.
pub struct Net {
    node: Arc<Node>,
}

/// How a shutdown went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Stopped {
    /// Connections that were told goodbye.
    pub goodbyes: u32,
    /// Connections whose tasks did not end in time and were aborted.
    pub aborted: u32,
}

impl Net {
    /// Binds all of `config.listen` and starts to accept. Call inside a tokio runtime, which runs every task of it.
    ///
    /// # Errors
    /// An address that cannot be bound, a network name that is empty or too long, or an `identity` that is not the
    /// pool's own.
    pub fn start(
        config: NetConfig,
        identity: &Identity,
        rooms: Rooms,
        handlers: Handlers,
    ) -> io::Result<Self> {
        check_name(&config.network)?;
        if identity.peer_id() != rooms.pool.self_id() {
            return Err(invalid(format!(
                "the key is that of {}, the pool that of {}",
                identity.peer_id(),
                rooms.pool.self_id()
            )));
        }
        let tls = Tls::new(identity, &config.network).map_err(|error| invalid(error.to_string()))?;
        let listeners = listener::bind(&config.listen)?;
        let doors = listeners.into_iter().map(|listener| Door::Tls(listener, tls.clone())).collect();
        Self::open(Carrier::Tls(tls), doors, config, rooms, handlers)
    }

    /// The same over a transport that the application brings, in place of TLS over TCP. The node is the pool's own id:
    /// whether its peers can prove that is up to the transport. `config.listen` is bound in its order.
    ///
    /// Connections cost a box each and their reads and writes an indirect call; limits, deadlines, hellos, frames and all
    /// that follows are the same.
    ///
    /// # Errors
    /// An address that cannot be bound, or a network name that is empty or too long.
    pub async fn start_over(
        transport: Arc<dyn Transport>,
        config: NetConfig,
        rooms: Rooms,
        handlers: Handlers,
    ) -> io::Result<Self> {
        check_name(&config.network)?;
        let mut doors = Vec::new();
        for &address in &config.listen {
            let listener = transport.bind(address).await.map_err(|error| no_listening(address, &error))?;
            doors.push(Door::Own(listener));
        }
        Self::open(Carrier::Own(transport), doors, config, rooms, handlers)
    }

    /// Starts to accept at `doors`.
    fn open(
        carrier: Carrier,
        doors: Vec<Door>,
        config: NetConfig,
        rooms: Rooms,
        handlers: Handlers,
    ) -> io::Result<Self> {
        let bound = doors.iter().map(Door::local_addr).collect::<io::Result<_>>()?;
        let node = Arc::new(Node::new(config, rooms, carrier, handlers, Handle::current()));
        *node.bound.lock() = bound;
        answering::start_workers(&node);
        for door in doors {
            node.tracker.spawn(listener::serve(Arc::clone(&node), door));
        }
        Ok(Self { node })
    }

    /// Where it listens, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.node.bound.lock().clone()
    }

    /// What opens connections when the cycle asks for them.
    pub fn dialer(&self) -> Arc<dyn Dial> {
        Arc::new(Dialer(Arc::clone(&self.node)))
    }

    /// Incoming connections that never became live, since the start. The journal has them in sums.
    pub fn refused(&self) -> u64 {
        self.node.refusals.total()
    }

    /// Other numbers to bound traffic by, from now on.
    pub fn tune(&self, tuning: Tuning) {
        self.node.traffic.tune(tuning);
    }

    /// Tasks now: one per listener, connection, handshake, dial, and request that is being worked on at once.
    pub fn tasks(&self) -> usize {
        self.node.tracker.len()
    }

    /// Brings in a stream whose peer is known already: a plain transport, as simulations have. Greets it and runs it
    /// like any other connection.
    ///
    /// # Errors
    /// [`HandshakeError`]; the stream is closed.
    pub async fn adopt<S>(&self, stream: S, facts: PeerFacts) -> Result<(), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let PeerFacts { id, address, direction } = facts;
        let node = &self.node;
        let admission = node
            .rooms
            .pool
            .admit(direction, address)
            .map_err(|denied| HandshakeError::Denied { denied, peer: id })?;
        let limit = node.config.handshake_timeout;
        let greeting = async {
            match direction {
                Direction::Inbound => node.greet_inbound(stream, id, address, admission).await,
                Direction::Outbound => {
                    let order = DialOrder { address, expect: Some(id), probe: false };
                    node.greet_outbound(stream, id, Outgoing { order, admission }, |_| None).await.map(drop)
                }
            }
        };
        tokio::time::timeout(limit, greeting).await.unwrap_or(Err(HandshakeError::TimedOut(limit)))
    }

    /// Stops in order: no newcomers, goodbye to everybody, wait for their tasks, abort what is left at `deadline`.
    /// Takes at most a second more than `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> Stopped {
        let node = &self.node;
        node.rooms.pool.refuse_newcomers();
        node.stop.cancel();
        let mut live = Vec::new();
        node.roster.for_each(|conn| live.push(conn.key));
        let mut goodbyes = 0;
        for key in live {
            goodbyes += u32::from(node.disconnect_for_shutdown(key));
        }
        node.tracker.close();
        let mut aborted = 0;
        if tokio::time::timeout(deadline, node.tracker.wait()).await.is_err() {
            aborted = node.abort_sessions();
            _ = tokio::time::timeout(ABORT_GRACE, node.tracker.wait()).await;
        }
        node.refusals.flush(&node.rooms.journal);
        Stopped { goodbyes, aborted }
    }
}

impl TrafficReport for Net {
    fn traffic(&self) -> TrafficSnapshot {
        self.node.traffic.snapshot()
    }

    fn kinds(&self) -> Vec<KindSnapshot> {
        self.node.traffic.kinds.snapshot()
    }

    fn breakers(&self) -> Vec<PeerBreaker> {
        let now = self.node.rooms.clock.mono();
        let listed = self.node.roster.listed();
        let of = |conn: &Arc<conn::Conn>| {
            let peer = conn.peer;
            let breakers = conn.standing.breakers(now).into_iter();
            breakers.map(move |(kind, state)| PeerBreaker { peer, kind, state })
        };
        listed.conns.iter().flat_map(of).collect()
    }
}

fn invalid(words: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, words)
}

fn no_listening(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

fn check_name(network: &str) -> io::Result<()> {
    if (1..=MAX_NETWORK).contains(&network.len()) {
        return Ok(());
    }
    Err(invalid(format!("network {network:?} has {} bytes; 1 to {MAX_NETWORK} are allowed", network.len())))
}

impl Drop for Net {
    fn drop(&mut self) {
        self.node.stop.cancel();
        self.node.tracker.close();
        self.node.abort_sessions();
    }
}
