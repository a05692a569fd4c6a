#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use groundskeeper_pool::NodeState;
use tokio::runtime::Handle;

mod allowance;
mod answering;
mod asking;
mod bootstrap;
mod broadcasting;
mod conn;
mod conn_health;
mod counters;
mod dialer;
mod exchange;
mod farewells;
mod frame;
mod handlers;
mod handshake;
mod handshake_error;
mod hello;
mod identity;
mod key_watch;
mod kinds;
mod listener;
mod node;
mod one_way;
mod open_answer;
mod peer_choice;
mod peer_record;
mod pending;
mod pings;
mod place;
mod receiving;
mod refusals;
mod request_error;
mod requests;
mod roster;
mod round_trip;
mod session;
mod settings;
mod tasks;
mod tcp_info;
#[cfg(test)]
mod tests;
#[doc(hidden)]
pub mod tls;
mod traffic;
mod transport;
mod tuning;
#[doc(hidden)]
pub mod wire;
mod write_progress;

pub use asking::{Answer, Ask};
pub use bootstrap::ResolvedBootstrap;
pub use broadcasting::{Audience, Broadcast, BroadcastError, IfFull, SendReport};
pub use handlers::{BroadcastVerdict, Capacity, Handlers};
pub use handshake_error::HandshakeError;
pub use identity::{BadKey, Identity};
pub use request_error::{AskError, RequestError, SendError};
pub use requests::WhenFull;
pub use settings::NetConfig;
pub use transport::{
    BoxFuture, BoxedStream, ByteStream, Listener, ProvenStream, RttProbe, Transport, UnprovenStream,
};

use answering::Answers;
use asking::RoutedRequests;
use bootstrap::Lookups;
use broadcasting::Broadcaster;
use dialer::Dialer;
use exchange::ask_for_peers;
use groundskeeper_base::chance::SharedRng;
use groundskeeper_base::peer::{PeerId, canonical};
use groundskeeper_flow::{
    KindSnapshot, MAX_NETWORK, PeerBreaker, Performance, TrafficReport, TrafficSnapshot,
};
use groundskeeper_pool::book::{Dial, DialOrder};
use groundskeeper_pool::pool::{Direction, PeerFacts};
use handshake::{Greeter, OutboundHandshake};
use key_watch::KeyWatch;
use listener::Acceptor;
use node::LocalNode;
use one_way::OneWayMessages;
use place::disconnect_for_shutdown;
use refusals::Refusals;
use requests::{Question, check_kind};
use roster::Roster;
use session::Sessions;
use tasks::Tasks;
use tls::Tls;
use traffic::Traffic;
use transport::{BoundListener, Connector, MeasuredStream};

/// Time for aborted tasks to end: they only need one more poll.
const ABORT_GRACE: Duration = Duration::from_secs(1);

/// The network of one node. If dropped without [`Net::shutdown`], it stops at once and sends no goodbyes.
pub struct Net {
    node: Arc<LocalNode>,
    roster: Arc<Roster>,
    traffic: Arc<Traffic>,
    sessions: Arc<Sessions>,
    acceptor: Arc<Acceptor>,
    dialer: Arc<Dialer>,
    routed: RoutedRequests,
}

/// How a shutdown went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ShutdownReport {
    /// Connections that were closed with a goodbye.
    pub goodbyes: u32,
    /// Connections whose tasks did not end in time and were aborted.
    pub aborted: u32,
}

impl Net {
    /// Binds all of `config.listen` and starts to accept. Call it inside a tokio runtime, which then runs all tasks of
    /// the network.
    ///
    /// # Errors
    /// If an address cannot be bound, the network name is empty or too long, or `identity` is not the pool's own.
    pub fn start(
        config: NetConfig,
        identity: &Identity,
        state: NodeState,
        handlers: Handlers,
    ) -> io::Result<Self> {
        check_name(&config.network)?;
        if identity.peer_id() != state.pool.self_id() {
            return Err(invalid(format!(
                "the key is that of {}, the pool that of {}",
                identity.peer_id(),
                state.pool.self_id()
            )));
        }
        let tls = Tls::new(identity, &config.network).map_err(|error| invalid(error.to_string()))?;
        let listeners = listener::bind(&config.listen)?;
        let doors = listeners.into_iter().map(|listener| BoundListener::Tls(listener, tls.clone())).collect();
        Self::open(Connector::Tls(tls), doors, config, state, handlers)
    }

    /// Like [`Net::start`], over the application's own transport in place of TLS over TCP. The node has the pool's id:
    /// proving it to peers is up to the transport. Binds `config.listen` in order.
    ///
    /// Each connection costs a box, and each read or write an indirect call. Limits, deadlines, hellos, frames and
    /// everything above them are the same.
    ///
    /// # Errors
    /// If an address cannot be bound, or the network name is empty or too long.
    pub async fn start_over(
        transport: Arc<dyn Transport>,
        config: NetConfig,
        state: NodeState,
        handlers: Handlers,
    ) -> io::Result<Self> {
        check_name(&config.network)?;
        let mut doors = Vec::new();
        for &address in &config.listen {
            let listener =
                transport.bind(address).await.map_err(|error| listener::no_listening(address, &error))?;
            doors.push(BoundListener::Own(listener));
        }
        Self::open(Connector::Own(transport), doors, config, state, handlers)
    }

    /// Starts to accept at `doors`.
    fn open(
        carrier: Connector,
        doors: Vec<BoundListener>,
        mut config: NetConfig,
        state: NodeState,
        handlers: Handlers,
    ) -> io::Result<Self> {
        let bound = doors.iter().map(|door| door.local_addr().map(canonical)).collect::<io::Result<_>>()?;
        config.advertise.iter_mut().for_each(|address| *address = canonical(*address));
        let chance = SharedRng::new(config.seed);
        let turns_seed = chance.number();
        let roster = Arc::new(Roster::new(state.pool.capacity()));
        let traffic = Traffic::new(&config, &roster, &state.clock);
        let tasks = Tasks::new(Handle::current());
        let node = Arc::new(LocalNode {
            config,
            state,
            tasks,
            bound,
            boot_nonce: chance.number(),
            lookups: Lookups::default(),
            key_watch: KeyWatch::default(),
        });

        let routed = RoutedRequests::new(node.clone(), roster.clone(), traffic.clone(), turns_seed);
        let answers = Answers::start(node.clone(), traffic.clone(), handlers.requests);
        let broadcaster = Broadcaster {
            node: node.clone(),
            roster: roster.clone(),
            traffic: traffic.clone(),
            handlers: handlers.broadcasts,
        };
        let one_way = OneWayMessages {
            node: node.clone(),
            roster: roster.clone(),
            traffic: traffic.clone(),
            handlers: handlers.messages,
        };
        let sessions =
            Sessions { node: node.clone(), traffic: traffic.clone(), chance, answers, broadcaster, one_way };
        let sessions = Arc::new(sessions);
        let greeter = Greeter::new(node.clone(), roster.clone(), sessions.clone());
        let dialer = Dialer::new(node.clone(), greeter.clone(), carrier);
        let acceptor = Arc::new(Acceptor { node: node.clone(), greeter, refusals: Refusals::default() });
        for door in doors {
            node.tasks.spawn(acceptor.clone().serve(door));
        }
        Ok(Self { node, roster, traffic, sessions, acceptor, dialer, routed })
    }

    /// The addresses that it listens on, with the ports that the system chose.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.node.bound.clone()
    }

    /// Opens connections when the cycle orders them.
    pub fn dialer(&self) -> Arc<dyn Dial> {
        self.dialer.clone()
    }

    /// Changes the settings that bound traffic and choose peers, from now on.
    pub fn tune(&self, performance: Performance, healthy_above: u8) {
        self.traffic.tune(performance, healthy_above);
    }

    /// Tasks now: one per listener, connection, handshake, dial, and worker of a request kind with a [`Capacity`].
    #[doc(hidden)]
    pub fn tasks(&self) -> usize {
        self.node.tasks.count()
    }

    /// Takes a stream from a known peer, and runs handshake and session as for any other connection. For tests and
    /// benches.
    ///
    /// # Errors
    /// [`HandshakeError`]; the stream is closed.
    #[doc(hidden)]
    pub async fn adopt<S>(&self, stream: S, facts: PeerFacts) -> Result<(), HandshakeError>
    where
        S: ByteStream,
    {
        let stream = MeasuredStream::new(stream);
        let PeerFacts { id, address, direction } = facts;
        let greeter = &self.acceptor.greeter;
        let admitted = self.node.state.pool.admit(direction, address);
        let admission = admitted.map_err(|denied| HandshakeError::Denied { denied, peer: id })?;
        let limit = self.node.config.handshake_timeout;
        let greeting = async {
            match direction {
                Direction::Inbound => greeter.greet_inbound(stream, id, address, admission).await,
                Direction::Outbound => {
                    let order = DialOrder { address, expect: Some(id), probe: false };
                    greeter.greet_outbound(stream, id, OutboundHandshake { order, admission }, |_| None).await
                }
            }
        };
        tokio::time::timeout(limit, greeting).await.unwrap_or(Err(HandshakeError::TimedOut(limit)))
    }

    /// Stops in order: refuses new connections, sends all peers a goodbye, waits for the tasks, and aborts those that
    /// are left at `deadline`. Takes at most a second more than `deadline`.
    pub async fn shutdown(&self, deadline: Duration) -> ShutdownReport {
        let LocalNode { state, tasks, .. } = &*self.node;
        state.pool.refuse_newcomers();
        tasks.stop.cancel();
        let mut live = Vec::new();
        self.roster.for_each(|conn| live.push(conn.key));
        let mut goodbyes = 0;
        for key in live {
            goodbyes += u32::from(disconnect_for_shutdown(&state.pool, key));
        }
        let mut aborted = 0;
        if !tasks.ended_within(deadline).await {
            aborted = self.roster.abort_all();
            tasks.ended_within(ABORT_GRACE).await;
        }
        self.acceptor.refusals.flush(&state.journal);
        ShutdownReport { goodbyes, aborted }
    }

    /// Asks `peer` once and waits at most `timeout` for the answer. Dropping the future cancels the request.
    ///
    /// [`Net::ask`] chooses the peer and the time-out, and can try again.
    ///
    /// # Errors
    /// [`RequestError`]. If `timeout` covers the time that the peer usually takes, a missing answer costs the peer
    /// health and counts as a failure for its breaker.
    pub async fn request(
        &self,
        peer: PeerId,
        kind: &str,
        payload: &[u8],
        timeout: Duration,
    ) -> Result<Bytes, RequestError> {
        check_kind(kind)?;
        let conn =
            self.roster.find_peer(&self.node.state.pool, &peer).ok_or(RequestError::NotConnected(peer))?;
        let requests = &self.routed.requests;
        requests.ask_once(&conn, &requests.kinds.of(kind), Question::new(kind, payload), timeout).await
    }

    /// Asks a healthy peer. If that fails, an idempotent request is tried again with another peer.
    ///
    /// Each attempt waits as long as that peer usually takes for the kind (`performance.timeouts`). Peers with an open
    /// breaker for the kind are skipped. Choosing takes well under a microsecond with [`Route::RoundRobin`] and
    /// [`Route::LeastLoaded`]; [`Route::LowestRtt`] looks at all connections. Dropping the future cancels everything.
    ///
    /// [`Route::RoundRobin`]: groundskeeper_flow::Route::RoundRobin
    /// [`Route::LeastLoaded`]: groundskeeper_flow::Route::LeastLoaded
    /// [`Route::LowestRtt`]: groundskeeper_flow::Route::LowestRtt
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask(&self, ask: Ask<'_>) -> Result<Answer, AskError> {
        self.routed.ask(&ask).await
    }

    /// The peer that [`Net::ask`] would ask now. For applications that send by themselves, and for measuring.
    pub fn choose(&self, ask: &Ask<'_>) -> Option<PeerId> {
        self.routed.choose(ask)
    }

    /// Queues `payload` for every connection of `audience`. Takes microseconds per hundred peers and never waits.
    ///
    /// Uses one place of the broadcast window. The node remembers the broadcast, so it is not delivered here when a
    /// peer sends it back.
    ///
    /// # Errors
    /// [`BroadcastError`]: no peer got it.
    pub fn broadcast(
        &self,
        topic: &str,
        payload: &[u8],
        audience: Audience<'_>,
    ) -> Result<SendReport, BroadcastError> {
        self.sessions.broadcaster.send(&Broadcast::new(topic, payload).to(audience))
    }

    /// Like [`Net::broadcast`], with a choice of priority and of what to do about full queues.
    ///
    /// # Errors
    /// [`BroadcastError`]: no peer got it, except for [`BroadcastError::Full`].
    pub async fn broadcast_with(&self, broadcast: Broadcast<'_>) -> Result<SendReport, BroadcastError> {
        self.sessions.broadcaster.send_with(broadcast).await
    }

    /// Queues a message for one connected peer; there is no answer. It arrives at most once, after those that were sent to the
    /// same peer before it. Takes well under a microsecond plus a copy of `payload`, and never waits.
    ///
    /// Messages that must not be lost are requests: nothing tells the sender that the connection ended before this one left,
    /// that the peer has no handler of the `kind`, or that it took as many as it takes a second.
    ///
    /// # Errors
    /// [`SendError`]: the peer does not get it.
    pub fn send(&self, peer: PeerId, kind: &str, payload: &[u8]) -> Result<(), SendError> {
        self.sessions.one_way.send(peer, kind, payload)
    }

    /// Resolves all bootstrap names concurrently within 5 s and adds their addresses to the address book. For the
    /// start, and for a node that has lost all peers. Addresses may have changed, so nothing is cached.
    pub async fn resolve_bootstrap(&self) -> ResolvedBootstrap {
        bootstrap::resolve(&self.node).await
    }

    /// Asks one random connection for addresses and adds the answer to the address book. False if no connection could
    /// be asked.
    ///
    /// For nodes with no address left to dial: a peer that knew none when it was first asked may know some now.
    pub fn ask_for_addresses(&self) -> bool {
        // Fails if the send queue or the table of requests is full: the next tick asks another peer.
        let drawn = self.roster.draw(&self.sessions.chance);
        drawn.is_some_and(|conn| ask_for_peers(&self.traffic, &conn).is_ok())
    }
}

impl TrafficReport for Net {
    fn traffic(&self) -> TrafficSnapshot {
        let now = self.node.state.clock.mono();
        let newcomers_refused = self.acceptor.refusals.counts();
        let key_conflict = self.node.key_watch.snapshot(now);
        TrafficSnapshot { newcomers_refused, key_conflict, ..self.traffic.snapshot(now) }
    }

    fn kinds(&self) -> Vec<KindSnapshot> {
        let now = self.node.state.clock.mono();
        self.routed.requests.kinds.snapshot(now, |kind| self.traffic.tuning.timeout_of(kind))
    }

    fn breakers(&self) -> Vec<PeerBreaker> {
        let now = self.node.state.clock.mono();
        let listed = self.roster.listed();
        let mut breakers = Vec::new();
        for conn in &listed.conns {
            for (kind, state) in conn.record.breakers(now) {
                breakers.push(PeerBreaker { peer: conn.peer, kind, state });
            }
        }
        breakers
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

fn check_name(network: &str) -> io::Result<()> {
    if (1..=MAX_NETWORK).contains(&network.len()) {
        return Ok(());
    }
    Err(invalid(format!("network {network:?} has {} bytes; 1 to {MAX_NETWORK} are allowed", network.len())))
}

impl Drop for Net {
    fn drop(&mut self) {
        self.node.tasks.stop.cancel();
        self.roster.abort_all();
    }
}
