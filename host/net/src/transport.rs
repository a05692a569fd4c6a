//! How connections are opened and accepted, and how the far end proves who it is: TLS over TCP, or what an application
//! brings. Moves bytes; knows no message, keeps no connection and decides nobody's welcome.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

use super::handshake_error::HandshakeError;
use super::tls::Tls;

/// A future on the heap: one allocation per accept, connection or proof, none per message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes both ways. Everything that reads, writes and may move between threads is one.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// The stream of a transport that is not the host's own. Reads and writes cost one indirect call more.
pub type BoxedStream = Box<dyn ByteStream>;

/// A connection that is there and whose far end has proven nothing yet.
///
/// Nothing is read or written before the first poll. Ends with the stream and the key of who is at the other end, within
/// the handshake's deadline (`handshake_timeout`), which the caller keeps. Dropped, it closes the connection.
///
/// The host takes the key at its word: whatever this says, that peer *is*. A transport must prove it, or its network must
/// be one that nobody else can reach. It must refuse other networks too, as TLS does by ALPN: the host asks no more.
///
/// Failures go to the journal and to the address book, by their kind: [`HandshakeError::Lost`] and
/// [`HandshakeError::Closed`] for the connection, [`HandshakeError::NoKey`], [`HandshakeError::BadKey`],
/// [`HandshakeError::OtherNetwork`] and [`HandshakeError::Garbage`] for what was said. An [`io::Error`] becomes one by `?`.
pub type Unproven = BoxFuture<'static, Result<(BoxedStream, PeerId), HandshakeError>>;

/// Opens and accepts connections in place of TLS over TCP: another protocol, or a simulated network.
///
/// Both ways take two steps. A connection comes into being first, for which the pool has been asked or is asked next; only
/// then is time spent on who it is. So whoever is over a limit costs an accept and nothing else.
///
/// A stream that fails tells how by the kind of its error: `UnexpectedEof` is a peer that closed without a word,
/// `ConnectionReset` one that was cut off, anything else is lost with the error's own words.
pub trait Transport: Send + Sync + 'static {
    /// Connects to `address`, within `connect_timeout`, which the caller keeps.
    ///
    /// # Errors
    /// `ConnectionRefused` if nothing listens there, `TimedOut` if nobody answers; any other is "unreachable", with the
    /// error's words. Each counts as a failure of the address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Unproven>>;

    /// Begins to listen on `address`, one of `NetConfig::listen`.
    ///
    /// # Errors
    /// Whatever keeps it from that: the network does not start then.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// Where connections come in.
pub trait Listener: Send + Sync + 'static {
    /// The next connection and where it comes from. Dropping the future loses no connection.
    ///
    /// # Errors
    /// After `ConnectionAborted`, `ConnectionReset` and `Interrupted` the next one is awaited at once: they are about one
    /// connection. Any other is about the listener, which is left alone for 50 ms, then for up to 1 s.
    fn accept(&self) -> BoxFuture<'_, io::Result<(Unproven, SocketAddr)>>;

    /// Where it listens, with the port that it got if it asked for none.
    ///
    /// # Errors
    /// If it cannot tell: the network does not start then.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// What opens a node's connections. TLS over TCP is known by its types, so that its streams are in no box.
#[derive(Clone)]
pub(crate) enum Carrier {
    Tls(Tls),
    Own(Arc<dyn Transport>),
}

/// One place to listen at.
pub(crate) enum Door {
    Tls(TcpListener, Tls),
    Own(Box<dyn Listener>),
}

/// A connection before anybody has proven anything.
pub(crate) enum Begun {
    Tls(TcpStream, Tls),
    Own(Unproven),
}

impl Carrier {
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<Begun> {
        match self {
            Self::Tls(tls) => Ok(Begun::Tls(prompt(TcpStream::connect(address).await?), tls.clone())),
            Self::Own(transport) => transport.connect(address).await.map(Begun::Own),
        }
    }
}

impl Door {
    pub(crate) async fn accept(&self) -> io::Result<(Begun, SocketAddr)> {
        match self {
            Self::Tls(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Ok((Begun::Tls(stream, tls.clone()), address))
            }
            Self::Own(listener) => {
                let (unproven, address) = listener.accept().await?;
                Ok((Begun::Own(unproven), address))
            }
        }
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tls(listener, _) => listener.local_addr(),
            Self::Own(listener) => listener.local_addr(),
        }
    }
}

/// Sends small frames at once.
pub(crate) fn prompt(stream: TcpStream) -> TcpStream {
    // Only delays small frames, if it fails.
    _ = stream.set_nodelay(true);
    stream
}
