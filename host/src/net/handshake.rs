//! From a byte stream to a live connection: TLS, then hellos both ways, then the pool's word. Whoever accepted decides
//! first, so that both ends keep the same one of two connections. Never retries, never waits without a deadline.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::conn::Conn;
use super::frame::{NoFrame, read_one};
use super::handshake_error::HandshakeError;
use super::node::Node;
use super::session::Session;
use super::wire::{
    FAREWELL, FEATURE_ALONE, FEATURE_PROBE, GREATEST_VERSION, Hello, LEAST_VERSION, MAX_WORDS, Message,
    cause_of, clipped, code_of, printable,
};
use crate::book::{DialOrder, Dialing, Source, Tenure};
use crate::journal::{Asker, Cause};
use crate::peer::PeerId;
use crate::pool::{Admission, ConnKey, Denied, Removal, Slot};

/// An attempt to be at the other end of which there is somebody.
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

impl Node {
    /// Greets one who came to us, whose key is proven, and brings the connection to life.
    ///
    /// We go live before we answer: the dialer goes live when it reads our hello. So of two dials by the same node
    /// one gets a hello and one a goodbye, in whatever order it reads them.
    pub(crate) async fn greet_inbound<S>(
        self: &Arc<Self>,
        mut stream: S,
        peer: PeerId,
        address: SocketAddr,
        admission: Admission,
    ) -> Result<(), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let hello = if peer == self.self_id {
            Err(HandshakeError::SelfDial)
        } else {
            self.read_hello(&mut stream).await
        };
        let hello = match hello {
            Ok(hello) => hello,
            Err(error) => {
                drop(admission);
                self.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        if hello.features & FEATURE_PROBE != 0 {
            stream.write_all(&self.hello(0)).await?;
            stream.flush().await?;
            // The prober says goodbye; the caller's deadline ends it otherwise.
            while stream.read(&mut [0; 64]).await.is_ok_and(|read| read > 0) {}
            return Ok(());
        }
        if hello.features & FEATURE_ALONE != 0 {
            self.bury_ghost(&peer, hello.boot_nonce);
        }
        let conn = Arc::new(self.conn(peer, admission.key(), &hello));
        conn.control(self.hello(0)).expect("an empty queue has room for a hello");
        let slot = match self.enter(admission, &conn) {
            Ok(slot) => slot,
            Err(denied) => {
                let error = HandshakeError::Denied { denied, peer };
                self.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        let tenure = self.learn_listen_address(&hello, peer, address);
        Session::start(self, stream, conn, slot, address, tenure);
        Ok(())
    }

    /// Greets one to whom we came, whose key is proven. `connected` is called once the pool has taken it.
    pub(crate) async fn greet_outbound<S>(
        self: &Arc<Self>,
        mut stream: S,
        peer: PeerId,
        Outgoing { order, admission }: Outgoing,
        connected: impl FnOnce(PeerId) -> Option<Tenure>,
    ) -> Result<Greeted, HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let greeted = if peer == self.self_id {
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
                self.turn_away(stream, &error).await;
                return Err(error);
            }
        };
        if order.probe {
            drop(admission);
            let text = "only asked whether you are there";
            self.say_goodbye(stream, Cause::Phase, text).await;
            return Ok(Greeted::Alive(peer));
        }
        let conn = Arc::new(self.conn(peer, admission.key(), &hello));
        match self.enter(admission, &conn) {
            Ok(slot) => {
                Session::start(self, stream, conn, slot, order.address, connected(peer));
                Ok(Greeted::Live(peer))
            }
            Err(denied) => {
                let error = HandshakeError::Denied { denied, peer };
                self.turn_away(stream, &error).await;
                Err(error)
            }
        }
    }

    /// A connection with the peer's record of earlier ones.
    fn conn(&self, peer: PeerId, key: ConnKey, hello: &Hello) -> Conn {
        let known = self.connection_to(&peer).map(|other| Arc::clone(&other.standing));
        let standing = known.unwrap_or_else(|| self.traffic.standings.take(&peer));
        Conn::new(peer, key, hello, standing, &self.config, &*self.rooms.clock)
    }

    /// Asks the pool to take the connection. Whoever finds it live finds it in the roster too, so that goes first.
    fn enter(&self, admission: Admission, conn: &Arc<Conn>) -> Result<Slot, Denied> {
        self.roster.enter(Arc::clone(conn));
        admission.go_live(conn.peer, conn.clone()).inspect_err(|_| {
            self.roster.leave(conn.key);
            self.traffic.standings.keep(conn.peer, &conn.standing);
        })
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
        let alone = if self.rooms.pool.find(peer).is_none() { FEATURE_ALONE } else { 0 };
        stream.write_all(&self.hello(probing | alone)).await?;
        stream.flush().await?;
        self.read_hello(stream).await
    }

    async fn read_hello<S: AsyncRead + Unpin>(&self, stream: &mut S) -> Result<Hello, HandshakeError> {
        let frame = read_one(stream).await.map_err(|error| match error {
            NoFrame::Bad(bad) => HandshakeError::BadHello(bad.to_string()),
            NoFrame::Lost(lost) => lost.into(),
        })?;
        match Message::decode(frame.kind, &frame.body) {
            Ok(Message::Hello(hello)) => {
                let Hello { least_version: least, greatest_version: greatest, .. } = hello;
                if least > greatest || least > GREATEST_VERSION || greatest < LEAST_VERSION {
                    return Err(HandshakeError::Version { least, greatest });
                }
                Ok(Hello { agent: printable(&hello.agent), ..hello })
            }
            Ok(Message::Goodbye { code, text }) => {
                Err(HandshakeError::TurnedAway { cause: cause_of(code), text: printable(text) })
            }
            Ok(other) => Err(HandshakeError::BadHello(format!("a {}", other.kind()))),
            Err(bad) => Err(HandshakeError::BadHello(bad.to_string())),
        }
    }

    /// Drops our end of a connection that the peer, who is the same as then, says it does not have.
    ///
    /// Only of one that is older than any handshake: a younger one may be on its way to the peer.
    fn bury_ghost(&self, peer: &PeerId, boot_nonce: u64) {
        let Some(ghost) = self.connection_to(peer) else { return };
        let age = self.rooms.clock.mono().saturating_sub(ghost.since);
        let oldest_handshake = 2 * (self.config.connect_timeout + self.config.handshake_timeout);
        if crate::pool::Link::boot_nonce(&*ghost) == boot_nonce && age > oldest_handshake {
            let words = "the peer has lost this connection and came again";
            let removal = Removal::new(Asker::Host, Cause::Replaced, words);
            self.rooms.pool.disconnect(ghost.key, removal, None);
        }
    }

    /// A peer that came to us listens where we saw it, at the port it names. What it says of other hosts is not heard.
    fn learn_listen_address(&self, hello: &Hello, peer: PeerId, seen: SocketAddr) -> Option<Tenure> {
        let same_family = hello.listen.iter().find(|at| at.is_ipv4() == seen.is_ipv4());
        let port = same_family.or(hello.listen.first())?.port();
        let address = SocketAddr::new(seen.ip(), port);
        match self.rooms.book.learn(address, Some(peer), Source::Itself) {
            crate::book::Learned::Refused(_) => None,
            _ => Some(self.rooms.book.tenure(address)),
        }
    }

    /// Tells the other side why, if that can be told.
    pub(crate) async fn turn_away<S>(&self, stream: S, error: &HandshakeError)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Some((cause, text)) = error.farewell() {
            self.say_goodbye(stream, cause, &text).await;
        }
    }

    async fn say_goodbye<S>(&self, mut stream: S, cause: Cause, text: &str)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Ok(_permit) = self.farewells.try_acquire() else { return };
        let frame = self.encode(&Message::Goodbye { code: code_of(cause), text: clipped(text, MAX_WORDS) });
        let said = async {
            stream.write_all(&frame).await?;
            stream.shutdown().await?;
            // Closing with bytes unread would reset the connection and could take the goodbye with it.
            while stream.read(&mut [0; 64]).await? > 0 {}
            std::io::Result::Ok(())
        };
        // It is a courtesy: whoever does not take it in time goes without.
        _ = tokio::time::timeout(FAREWELL, said).await;
    }
}

/// Ends a ticket as the handshake ended.
pub(crate) fn settle(ticket: Dialing, error: HandshakeError) {
    match error {
        HandshakeError::Denied { denied: Denied::Duplicate, peer } => ticket.duplicate(peer),
        other => ticket.failed(&other.into_failure()),
    }
}
