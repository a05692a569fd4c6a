//! Opens and accepts connections, and proves the identity of the other end: by TLS over TCP, or by the application's
//! transport. Moves bytes; knows no message, keeps no connection and admits no peer.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use groundskeeper_base::descriptors;
use groundskeeper_base::peer::PeerId;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_rustls::TlsStream;

use super::handshake_error::HandshakeError;
use super::tcp_info;
use super::tls::Tls;

/// A future on the heap: one allocation per accept, connection or proof, none per message.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A stream of bytes in both directions. Every type that reads, writes and may move between threads is one.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// The stream of an application's transport. Each read and write costs one more indirect call.
pub type BoxedStream = Box<dyn ByteStream>;

/// An open connection to a peer that has not proven its identity yet.
///
/// Reads and writes nothing before the first poll. Resolves to the stream with the peer's key. The caller enforces the
/// deadline of the handshake (`handshake_timeout`). Dropping it closes the connection.
///
/// The host trusts this key without a check. So the transport must prove it, or run in a network that no stranger can
/// reach. It must also refuse other networks, as TLS does by ALPN.
///
/// Failures go to the journal and to the address book, by their kind: [`HandshakeError::Lost`] and
/// [`HandshakeError::Closed`] for the connection, [`HandshakeError::NoKey`], [`HandshakeError::BadKey`],
/// [`HandshakeError::OtherNetwork`] and [`HandshakeError::Garbage`] for what the peer sent. `?` converts an
/// [`io::Error`].
pub type UnprovenStream = BoxFuture<'static, Result<ProvenStream, HandshakeError>>;

/// Reads a connection's round-trip time, if the transport knows one. Called a few times a minute, and must not block.
pub type RttProbe = Box<dyn Fn() -> Option<Duration> + Send>;

/// A connection to a peer that has proven its identity.
pub struct ProvenStream {
    pub(crate) stream: MeasuredStream<BoxedStream>,
    pub(crate) peer: PeerId,
}

impl ProvenStream {
    /// A stream to `peer`. Its round-trip time is known from pings and answers.
    pub fn new(stream: impl ByteStream, peer: PeerId) -> Self {
        Self { stream: MeasuredStream::new(Box::new(stream)), peer }
    }

    /// The peer's key.
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Also reads the round-trip time that the transport has measured, as QUIC does. It needs no ping.
    #[must_use]
    pub fn with_rtt(mut self, probe: impl Fn() -> Option<Duration> + Send + 'static) -> Self {
        self.stream.probe = Some(Box::new(probe));
        self
    }
}

/// A stream that may know its round-trip time, and how much has arrived.
pub(crate) trait SessionStream: ByteStream {
    /// The transport's own estimate.
    fn rtt(&self) -> Option<Duration>;

    /// Bytes that the peer has acknowledged.
    fn acked(&self) -> Option<u64> {
        None
    }
}

impl SessionStream for TlsStream<TcpStream> {
    fn rtt(&self) -> Option<Duration> {
        tcp_info::rtt(self.get_ref().0)
    }

    fn acked(&self) -> Option<u64> {
        tcp_info::acked(self.get_ref().0)
    }
}

/// A stream of an application.
pub(crate) struct MeasuredStream<S> {
    stream: S,
    probe: Option<RttProbe>,
}

impl<S> MeasuredStream<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, probe: None }
    }
}

impl<S: ByteStream> SessionStream for MeasuredStream<S> {
    fn rtt(&self) -> Option<Duration> {
        self.probe.as_ref()?()
    }
}

impl<S: ByteStream> AsyncRead for MeasuredStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: ByteStream> AsyncWrite for MeasuredStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Opens and accepts connections in place of TLS over TCP: another protocol, or a simulated network.
///
/// Both directions take two steps. First the connection is opened; the pool is asked before a dial and after an accept.
/// Only then is time spent on the proof of identity. So a peer over a limit costs one accept and nothing else.
///
/// The kind of a stream's error says how it failed: `UnexpectedEof` is a peer that closed without a goodbye,
/// `ConnectionReset` a connection that was cut off. Any other is a lost connection, with the text of the error.
pub trait Transport: Send + Sync + 'static {
    /// Connects to `address`. The caller enforces `connect_timeout`.
    ///
    /// # Errors
    /// `ConnectionRefused` if nothing listens there, `TimedOut` if there is no answer. Any other means "unreachable",
    /// with the text of the error. Each counts as a failure of the address.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>>;

    /// Starts to listen on `address`, one of `NetConfig::listen`.
    ///
    /// # Errors
    /// If it cannot listen there: the network does not start then.
    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>>;
}

/// Accepts connections at one address.
pub trait Listener: Send + Sync + 'static {
    /// The next connection and where it comes from. Dropping the future loses no connection.
    ///
    /// # Errors
    /// `ConnectionAborted`, `ConnectionReset` and `Interrupted` are about one connection: the host accepts the next one
    /// at once. Any other is about the listener: the host waits 50 ms, then up to 1 s, before it accepts again.
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>>;

    /// The address that it listens on, with the port that the system chose for port 0.
    ///
    /// # Errors
    /// If it cannot tell: the network does not start then.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// Opens a node's connections. TLS over TCP has its own variant, so that its streams need no box.
#[derive(Clone)]
pub(crate) enum Connector {
    Tls(Tls),
    Own(Arc<dyn Transport>),
}

/// One address to listen on.
pub(crate) enum BoundListener {
    Tls(TcpListener, Tls),
    Own(Box<dyn Listener>),
}

/// A connection before the peer has proven its identity.
pub(crate) enum NewConnection {
    Tls(TcpStream, Tls),
    Own(UnprovenStream),
}

impl Connector {
    pub(crate) async fn connect(&self, address: SocketAddr) -> io::Result<NewConnection> {
        match self {
            Self::Tls(tls) => {
                let socket = match address {
                    SocketAddr::V4(_) => TcpSocket::new_v4()?,
                    SocketAddr::V6(_) => TcpSocket::new_v6()?,
                };
                // Before it waits for the other end: many at once may wait for seconds.
                if is_reserved(&socket) {
                    return Err(no_descriptor());
                }
                Ok(NewConnection::Tls(prompt(socket.connect(address).await?), tls.clone()))
            }
            Self::Own(transport) => transport.connect(address).await.map(NewConnection::Own),
        }
    }
}

impl NewConnection {
    /// Whether it has one of the descriptors that are kept for state files and the local API. A transport of the
    /// application may use none, and counts its own.
    pub(crate) fn is_of_reserve(&self) -> bool {
        match self {
            Self::Tls(stream, _) => is_reserved(stream),
            Self::Own(_) => false,
        }
    }
}

fn is_reserved(socket: &impl AsRawFd) -> bool {
    let number = u32::try_from(socket.as_raw_fd()).unwrap_or(0);
    descriptors::limit().is_reserved(number)
}

/// The error of a process that has as many descriptors as it may.
pub(crate) fn no_descriptor() -> io::Error {
    Errno::MFILE.into()
}

/// Whether a connection failed for want of descriptors or memory here, so that the other end has no part in it.
pub(crate) fn is_shortage(error: &io::Error) -> bool {
    let code = Errno::from_io_error(error);
    code.is_some_and(|code| [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].contains(&code))
}

impl BoundListener {
    pub(crate) async fn accept(&self) -> io::Result<(NewConnection, SocketAddr)> {
        match self {
            Self::Tls(listener, tls) => {
                let (stream, address) = listener.accept().await?;
                Ok((NewConnection::Tls(stream, tls.clone()), address))
            }
            Self::Own(listener) => {
                let (unproven, address) = listener.accept().await?;
                Ok((NewConnection::Own(unproven), address))
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

/// Makes TCP send small frames at once.
pub(crate) fn prompt(stream: TcpStream) -> TcpStream {
    // If this fails, small frames are only delayed.
    _ = stream.set_nodelay(true);
    stream
}
