//! Limits how many connections a listener serves at once, and for how long. Does not look at their content.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// Connections served at once; more wait in the system's queue. People and scrapers come one by one.
const AT_ONCE: usize = 32;

/// Time limit of a connection, which carries one request. On the admin socket it restarts with each write that the client
/// accepts. A connection beyond it would hold a place that others need.
const LONGEST: Duration = Duration::from_secs(10);

/// A listener with few, short connections.
pub struct ConnectionLimiter<L> {
    listener: L,
    /// Each write restarts the time limit.
    may_stay: bool,
    places: Arc<Semaphore>,
}

impl<L> ConnectionLimiter<L> {
    pub fn new(listener: L) -> Self {
        Self { listener, may_stay: false, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// A gate for endless answers: the time limit restarts with each write.
    pub fn for_streams(listener: L) -> Self {
        Self { may_stay: true, ..Self::new(listener) }
    }

    /// The listener. Connections that were accepted stay.
    pub fn into_inner(self) -> L {
        self.listener
    }
}

impl<L: Listener> Listener for ConnectionLimiter<L> {
    type Io = LimitedConnection<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = self.listener.accept().await;
        let may_stay = self.may_stay;
        (LimitedConnection { stream, may_stay, end: Box::pin(sleep(LONGEST)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// One connection and its time limit.
pub struct LimitedConnection<S> {
    stream: S,
    may_stay: bool,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> LimitedConnection<S> {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
    }
}

fn time_is_up<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl<S: AsyncRead + Unpin> AsyncRead for LimitedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) { time_is_up() } else { Pin::new(&mut self.stream).poll_read(cx, buf) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LimitedConnection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.is_over(cx) {
            return time_is_up();
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if self.may_stay && matches!(written, Poll::Ready(Ok(1..))) {
            self.end.as_mut().reset(Instant::now() + LONGEST);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_over(cx) { time_is_up() } else { Pin::new(&mut self.stream).poll_flush(cx) }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
