//! From a byte stream to a live connection: TLS, then hellos both ways, then the pool's word. Whoever accepted decides
//! first, so that both ends keep the same one of two connections. Never retries, never waits without a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::clock::Clock;
use groundskeeper_base::peer::PeerId;
use groundskeeper_pool::book::{Book, DialOrder, Dialing, Learned, Source, Tenure};
use groundskeeper_pool::journal::{Asker, Cause};
use groundskeeper_pool::pool::{Admission, Denied, Link, Pool, Removal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::farewells::Farewells;
use super::handshake_error::HandshakeError;
use super::hello::{Hellos, read_hello};
use super::place::Places;
use super::roster::Roster;
use super::session::Sessions;
use super::settings::NetConfig;
use super::wire::{FEATURE_ALONE, FEATURE_PROBE, Hello};
use crate::NodeState;

/// An outgoing connection attempt.
pub(crate) struct Outgoing {
    pub(crate) order: DialOrder,
    pub(crate) admission: Admission,
}

/// What came of an outgoing handshake.
pub(crate) enum Greeted {
    /// Live; the closure's session runs.
    Live(PeerId),
    /// Alive, and let go of as ordered.
    Alive(PeerId),
}

/// Greets peers and brings connections to life.
pub(crate) struct Greeter {
    hellos: Hellos,
    farewells: Farewells,
    places: Arc<Places>,
    sessions: Arc<Sessions>,
    roster: Arc<Roster>,
    pool: Arc<Pool>,
    book: Arc<Book>,
    clock: Arc<dyn Clock>,
    /// No handshake is older.
    longest_handshake: Duration,
}

impl Greeter {
    pub(crate) fn new(
        config: &NetConfig,
        state: &NodeState,
        roster: &Arc<Roster>,
        places: &Arc<Places>,
        sessions: &Arc<Sessions>,
        hellos: Hellos,
    ) -> Arc<Self> {
        let NodeState { pool, book, clock, .. } = state.clone();
        let (connect, handshake) = (config.connect_timeout, config.handshake_timeout);
        Arc::new(Self {
            hellos,
            farewells: Farewells::new(),
            places: places.clone(),
            sessions: sessions.clone(),
            roster: roster.clone(),
            pool,
            book,
            clock,
            longest_handshake: 2 * (connect + handshake),
        })
    }

    /// Greets one who came to us, whose key is proven, and brings the connection to life.
    ///
    /// We go live before we answer: the dialer goes live when it reads our hello. So of two dials by the same node
    /// one gets a hello and one a goodbye, in whatever order it reads them.
    pub(crate) async fn greet_inbound<S>(
        &self,
        mut stream: S,
        peer: PeerId,
        address: SocketAddr,
        admission: Admission,
    ) -> Result<(), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let hello = if peer == self.pool.self_id() {
            Err(HandshakeError::SelfDial)
        } else {
            read_hello(&mut stream).await
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                drop(admission);
                self.farewells.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        if hello.features & FEATURE_PROBE != 0 {
            self.hellos.say(&mut stream, 0).await?;
            // The prober says goodbye; the caller's deadline ends it otherwise.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            return Ok(());
        }
        if hello.features & FEATURE_ALONE != 0 {
            self.bury_ghost(&peer, hello.boot_nonce);
        }
        let conn = self.places.conn(peer, admission.key(), &hello);
        conn.control(self.hellos.ours(0)).expect("an empty queue has room for a hello");
        let place = match self.places.enter(admission, conn) {
            Ok(place) => place,
            Err(denied) => {
                let error = HandshakeError::Denied { denied, peer };
                self.farewells.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        let tenure = self.learn_listen_address(&hello, peer, address);
        self.sessions.start(stream, place, address, tenure);
        Ok(())
    }

    /// Greets one to whom we came, whose key is proven. `connected` is called once the pool has taken it.
    pub(crate) async fn greet_outbound<S>(
        &self,
        mut stream: S,
        peer: PeerId,
        Outgoing { order, admission }: Outgoing,
        connected: impl FnOnce(PeerId) -> Option<Tenure>,
    ) -> Result<Greeted, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let greeted = if peer == self.pool.self_id() {
            Err(HandshakeError::SelfDial)
        } else if order.expect.is_some_and(|expected| expected != peer) {
            Err(HandshakeError::WrongKey { got: peer })
        } else {
            self.exchange_hellos(&mut stream, &peer, order.probe).await
        };
        let hello = match greeted {
            Ok(hello) => hello,
            Err(error) => {
                drop(admission);
                self.farewells.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        if order.probe {
            drop(admission);
            let text = "only asked whether you are there";
            self.farewells.say_goodbye(stream, Cause::Phase, text).await;
            return Ok(Greeted::Alive(peer));
        }
        let conn = self.places.conn(peer, admission.key(), &hello);
        match self.places.enter(admission, conn) {
            Ok(place) => {
                self.sessions.start(stream, place, order.address, connected(peer));
                Ok(Greeted::Live(peer))
            }
            Err(denied) => {
                let error = HandshakeError::Denied { denied, peer };
                self.farewells.turn_away(stream, &error).await;
                Err(error)
            }
        }
    }

    async fn exchange_hellos<S>(
        &self,
        stream: &mut S,
        peer: &PeerId,
        probe: bool,
    ) -> Result<Hello, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let probing = if probe { FEATURE_PROBE } else { 0 };
        let alone = if self.pool.find(peer).is_none() { FEATURE_ALONE } else { 0 };
        self.hellos.say(stream, probing | alone).await?;
        read_hello(stream).await
    }

    /// Drops our end of a connection that the peer, who is the same as then, says it does not have.
    ///
    /// Only of one that is older than any handshake: a younger one may be on its way to the peer.
    fn bury_ghost(&self, peer: &PeerId, boot_nonce: u64) {
        let Some(ghost) = self.roster.find_peer(peer) else { return };
        let age = self.clock.mono().saturating_sub(ghost.since);
        if ghost.boot_nonce() == boot_nonce && age > self.longest_handshake {
            let words = "the peer has lost this connection and came again";
            let removal = Removal::new(Asker::Host, Cause::Replaced, words);
            self.pool.disconnect(ghost.key, removal, None);
        }
    }

    /// A peer that came to us listens where we saw it, at the port it names. What it says of other hosts is not heard.
    fn learn_listen_address(&self, hello: &Hello, peer: PeerId, seen: SocketAddr) -> Option<Tenure> {
        let same_family = hello.listen.iter().find(|at| at.is_ipv4() == seen.is_ipv4());
        let port = same_family.or(hello.listen.first())?.port();
        let address = SocketAddr::new(seen.ip(), port);
        match self.book.learn(address, Some(peer), Source::Itself) {
            Learned::Refused(_) => None,
            _ => Some(self.book.tenure(address)),
        }
    }
}

/// Ends a ticket as the handshake ended.
pub(crate) fn settle(ticket: Dialing, error: HandshakeError) {
    match error {
        HandshakeError::Denied { denied: Denied::Duplicate, peer } => ticket.duplicate(peer),
        other => ticket.failed(&other.into_failure()),
    }
}
