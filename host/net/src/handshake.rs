//! From a stream with a proven key to a live connection: hellos both ways, then admission by the pool. The accepting
//! side decides first, so both ends keep the same one of two connections. Never retries; every wait has a deadline.

use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::book::{AddressSource, ConnectedGuard, DialOrder, LearnOutcome};
use groundskeeper_pool::journal::{Cause, Initiator};
use groundskeeper_pool::pool::{Admission, Link, Removal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::farewells::GoodbyeSender;
use super::handshake_error::HandshakeError;
use super::hello::{own_hello, read_hello, say_hello};
use super::node::LocalNode;
use super::place::{ConnGuard, new_conn};
use super::roster::Roster;
use super::session::Sessions;
use super::transport::SessionStream;
use super::wire::{FEATURE_ALONE, FEATURE_PROBE, Hello};

/// An outgoing connection attempt.
pub(crate) struct OutboundHandshake {
    pub(crate) order: DialOrder,
    pub(crate) admission: Admission,
}

/// Greets peers and makes connections live.
pub(crate) struct Greeter {
    node: Arc<LocalNode>,
    roster: Arc<Roster>,
    sessions: Arc<Sessions>,
    farewells: GoodbyeSender,
}

impl Greeter {
    pub(crate) fn new(node: Arc<LocalNode>, roster: Arc<Roster>, sessions: Arc<Sessions>) -> Arc<Self> {
        Arc::new(Self { node, roster, sessions, farewells: GoodbyeSender::new() })
    }

    /// Runs `handshake` until its deadline, or until the node stops.
    pub(crate) async fn in_time<T>(
        &self,
        handshake: impl Future<Output = Result<T, HandshakeError>>,
    ) -> Result<T, HandshakeError> {
        let limit = self.node.config.handshake_timeout;
        tokio::select! {
            biased;
            () = self.node.tasks.stop.cancelled() => Err(HandshakeError::Stopped),
            ended = tokio::time::timeout(limit, handshake) => ended.unwrap_or(Err(HandshakeError::TimedOut(limit))),
        }
    }

    /// Greets a peer that connected to us and has proven its key, and makes the connection live.
    ///
    /// This side goes live before it answers; the dialer goes live when it reads our hello. So if one node dials twice,
    /// one dial gets a hello and the other a goodbye, in whatever order it reads them.
    pub(crate) async fn greet_inbound<S>(
        &self,
        mut stream: S,
        peer: PeerId,
        address: SocketAddr,
        admission: Admission,
    ) -> Result<(), HandshakeError>
    where
        S: SessionStream,
    {
        match self.meet_inbound(&mut stream, peer, address, admission).await {
            Ok(Some((place, tenure))) => self.sessions.start(stream, place, address, tenure),
            Ok(None) => {}
            Err(error) => return Err(self.farewells.turn_away(stream, error).await),
        }
        Ok(())
    }

    /// None for a probe, which only asks whether this node is alive.
    async fn meet_inbound<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: PeerId,
        address: SocketAddr,
        admission: Admission,
    ) -> Result<Option<(ConnGuard, Option<ConnectedGuard>)>, HandshakeError> {
        if peer == self.node.state.pool.self_id() {
            let hello = read_hello(stream).await;
            // The dialer, too, must find out who this is. A lost answer changes nothing here.
            _ = say_hello(&self.node, stream, 0).await;
            return Err(self.own_key(hello, address));
        }
        let hello = read_hello(stream).await?;
        if hello.features & FEATURE_PROBE != 0 {
            say_hello(&self.node, stream, 0).await?;
            // The prober says goodbye; otherwise the caller's deadline ends the wait.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            return Ok(None);
        }
        if hello.features & FEATURE_ALONE != 0 {
            self.bury_ghost(&peer, hello.boot_nonce);
        }
        let conn = new_conn(&self.node, &self.roster, peer, admission.key(), &hello);
        conn.control(own_hello(&self.node, 0)).expect("an empty queue has room for a hello");
        let place = ConnGuard::enter(&self.node, &self.roster, admission, conn)?;
        Ok(Some((place, self.learn_listen_address(&hello, peer, address))))
    }

    /// Greets a peer that we dialed and that has proven its key. Makes the connection live, or closes it if the order
    /// is a probe. Calls `connected` once the pool has taken the connection.
    pub(crate) async fn greet_outbound<S>(
        &self,
        mut stream: S,
        peer: PeerId,
        OutboundHandshake { order, admission }: OutboundHandshake,
        connected: impl FnOnce(PeerId) -> Option<ConnectedGuard>,
    ) -> Result<(), HandshakeError>
    where
        S: SessionStream,
    {
        match self.meet_outbound(&mut stream, peer, &order, admission).await {
            Ok(Some(place)) => self.sessions.start(stream, place, order.address, connected(peer)),
            Ok(None) => {
                let text = "only asked whether you are there";
                self.farewells.say_goodbye(stream, Cause::Phase, text).await;
            }
            Err(error) => return Err(self.farewells.turn_away(stream, error).await),
        }
        Ok(())
    }

    /// None if the order is a probe.
    async fn meet_outbound<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        peer: PeerId,
        order: &DialOrder,
        admission: Admission,
    ) -> Result<Option<ConnGuard>, HandshakeError> {
        let pool = &self.node.state.pool;
        if peer == pool.self_id() {
            say_hello(&self.node, stream, FEATURE_PROBE).await?;
            return Err(self.own_key(read_hello(stream).await, order.address));
        }
        if order.expect.is_some_and(|expected| expected != peer) {
            return Err(HandshakeError::WrongKey { got: peer });
        }
        let probing = if order.probe { FEATURE_PROBE } else { 0 };
        let alone = if pool.find(&peer).is_none() { FEATURE_ALONE } else { 0 };
        say_hello(&self.node, stream, probing | alone).await?;
        let hello = read_hello(stream).await?;
        if order.probe {
            return Ok(None);
        }
        let conn = new_conn(&self.node, &self.roster, peer, admission.key(), &hello);
        ConnGuard::enter(&self.node, &self.roster, admission, conn).map(Some)
    }

    /// What is at `address`, which has proven this node's own key: this process, or another one. Versions before this check
    /// hang up without a hello; they count as this process.
    fn own_key(&self, hello: Result<Hello, HandshakeError>, address: SocketAddr) -> HandshakeError {
        let LocalNode { state, boot_nonce, key_watch, .. } = &*self.node;
        match hello {
            Ok(hello) if hello.boot_nonce != *boot_nonce => {
                key_watch.met(state, address);
                HandshakeError::KeyConflict
            }
            _ => HandshakeError::SelfDial,
        }
    }

    /// Drops our end of a connection that the peer says it does not have, if the peer has not restarted since.
    ///
    /// Only if the connection is older than any handshake: a younger one may still be on its way to the peer.
    fn bury_ghost(&self, peer: &PeerId, boot_nonce: u64) {
        let LocalNode { config, state, .. } = &*self.node;
        let Some(ghost) = self.roster.find_peer(&state.pool, peer) else { return };
        let age = state.clock.mono().saturating_sub(ghost.since);
        let longest_handshake = 2 * (config.connect_timeout + config.handshake_timeout);
        if ghost.boot_nonce() == boot_nonce && age > longest_handshake {
            let reason = "the peer has lost this connection and came again";
            let removal = Removal::new(Initiator::Host, Cause::Replaced, reason);
            state.pool.disconnect(ghost.key, removal, None);
        }
    }

    /// Learns where a peer that connected to us listens: the address that we see, with the port that it names. Ignores
    /// what it says of other hosts.
    fn learn_listen_address(&self, hello: &Hello, peer: PeerId, seen: SocketAddr) -> Option<ConnectedGuard> {
        let same_family = hello.listen.iter().find(|at| at.is_ipv4() == seen.is_ipv4());
        let port = same_family.or(hello.listen.first())?.port();
        let address = SocketAddr::new(seen.ip(), port);
        let book = &self.node.state.book;
        match book.learn(address, Some(peer), AddressSource::Itself) {
            LearnOutcome::Refused(_) => None,
            _ => Some(book.connected_guard(address)),
        }
    }
}
