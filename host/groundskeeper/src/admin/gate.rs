//! How many connections a listener serves at once, and for how long each. Does not look at what they carry.

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

/// A connection carries one request. Whoever has not read the answer by then, or on the admin socket has read nothing for
/// so long, holds a place that others need.
const LONGEST: Duration = Duration::from_secs(10);

/// A listener whose connections are few and short.
pub struct Gate<L> {
    listener: L,
    /// Whoever reads may go on reading.
    may_stay: bool,
    places: Arc<Semaphore>,
}

impl<L> Gate<L> {
    pub fn new(listener: L) -> Self {
        Self { listener, may_stay: false, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// A gate for answers without an end: time is counted from the last that was read.
    pub fn for_streams(listener: L) -> Self {
        Self { may_stay: true, ..Self::new(listener) }
    }

    /// The listener; connections that it let in stay.
    pub fn into_inner(self) -> L {
        self.listener
    }
}

impl<L: Listener> Listener for Gate<L> {
    type Io = Visit<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        let (stream, from) = self.listener.accept().await;
        let may_stay = self.may_stay;
        (Visit { stream, may_stay, end: Box::pin(sleep(LONGEST)), _place: place }, from)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// One connection and its time.
pub struct Visit<S> {
    stream: S,
    may_stay: bool,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl<S> Visit<S> {
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.end.as_mut().poll(cx).is_ready()
    }
}

fn time_is_up<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
}

impl<S: AsyncRead + Unpin> AsyncRead for Visit<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_over(cx) { time_is_up() } else { Pin::new(&mut self.stream).poll_read(cx, buf) }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Visit<S> {
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
