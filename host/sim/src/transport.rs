//! The transport of a simulated host: turmoil's TCP, with peer ids that are not verified. Adds what turmoil lacks:
//! retransmission of lost SYNs, readers that stop, connections that break.

use std::io::{self, IoSlice};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use groundskeeper::net::{BoxFuture, Listener, ProvenStream, Transport, UnprovenStream};
use groundskeeper::peer::PeerId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::weather::{Weather, ip_of};

/// Time until a SYN is sent again, doubled each time: RFC 6298, as in Linux.
const SYN_AGAIN: Duration = Duration::from_secs(1);

/// Maximum size of one write. Turmoil's window counts 64 writes, so this makes a window of 256 KiB.
const SEGMENT: usize = 4096;

/// How one host opens and accepts connections.
#[derive(Clone)]
pub(crate) struct Plain {
    pub(crate) host: usize,
    pub(crate) id: PeerId,
    pub(crate) weather: Arc<Weather>,
}

impl Plain {
    fn prove(&self, inner: TcpStream, there: usize) -> UnprovenStream {
        let breaks = self.weather.breaks(self.host, there);
        let mut stream =
            PlainStream { inner, here: self.host, there, breaks, weather: Arc::clone(&self.weather) };
        let id = self.id;
        Box::pin(async move {
            stream.write_all(id.as_bytes()).await?;
            let mut theirs = [0; 32];
            stream.read_exact(&mut theirs).await?;
            Ok(ProvenStream::new(stream, PeerId::from_bytes(theirs)))
        })
    }
}

impl Transport for Plain {
    /// Turmoil drops a SYN on a cut link and reports a refused connection at once. In a real network there is no
    /// answer, and the SYN is sent again.
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>> {
        Box::pin(async move {
            let there = self.weather.host_at(address.ip()).ok_or(io::ErrorKind::HostUnreachable)?;
            let mut again = SYN_AGAIN;
            loop {
                if self.weather.passes(self.host, there) {
                    match TcpStream::connect(address).await {
                        Ok(stream) => return Ok(self.prove(stream, there)),
                        Err(error) if self.weather.passes(self.host, there) => return Err(error),
                        Err(_) => {}
                    }
                }
                tokio::time::sleep(again).await;
                again *= 2;
            }
        })
    }

    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await?;
            Ok(Box::new(Door { listener, plain: self.clone() }) as Box<dyn Listener>)
        })
    }
}

struct Door {
    listener: TcpListener,
    plain: Plain,
}

impl Listener for Door {
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.listener.accept().await?;
            let there = self.plain.weather.host_at(from.ip()).ok_or(io::ErrorKind::ConnectionAborted)?;
            Ok((self.plain.prove(stream, there), from))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(SocketAddr::new(ip_of(self.plain.host), self.listener.local_addr()?.port()))
    }
}

struct PlainStream {
    inner: TcpStream,
    here: usize,
    there: usize,
    /// Number of breaks between the two hosts when it was made.
    breaks: u32,
    weather: Arc<Weather>,
}

impl PlainStream {
    fn check(&self) -> io::Result<()> {
        if self.weather.breaks(self.here, self.there) == self.breaks {
            return Ok(());
        }
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        if self.weather.holds_back(self.here, cx.waker()) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PlainStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        let most = bytes.len().min(SEGMENT);
        Pin::new(&mut self.inner).poll_write(cx, &bytes[..most])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One segment carries several small frames, as on a real socket.
        let mut segment = Vec::with_capacity(SEGMENT);
        for slice in slices {
            let room = SEGMENT - segment.len();
            segment.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        self.poll_write(cx, &segment)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
