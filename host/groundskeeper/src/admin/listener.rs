//! Accepts the connections of one listener, gives each its place, and owns their tasks. Knows no answer.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::connection::{Routes, answer, refuse};
use super::refusals::{ApiRefusals, Door, Turned};
use super::share::{Party, Places, Shares};
use super::socket::AdminSocket;

/// First and longest wait when the system cannot give us a descriptor; doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Time in which open answers may finish when the node stops.
const LAST_GRACE: Duration = Duration::from_millis(250);

/// Clients without a place that get the reason at one time. Further ones are only closed.
const MOST_REFUSING: usize = 16;

/// What connections come from.
pub(super) trait Accept: Send {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection and who is at its other end. Dropping the future loses no connection.
    fn accept(&mut self) -> impl Future<Output = io::Result<(Self::Stream, Party)>> + Send;
}

impl Accept for AdminSocket {
    type Stream = UnixStream;

    async fn accept(&mut self) -> io::Result<(UnixStream, Party)> {
        let stream = AdminSocket::accept(self).await?;
        let uid = stream.peer_cred()?.uid();
        Ok((stream, Party::User(uid)))
    }
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    async fn accept(&mut self) -> io::Result<(TcpStream, Party)> {
        let (stream, from) = TcpListener::accept(self).await?;
        Ok((stream, Party::at(from.ip())))
    }
}

/// One listener with its shares and its answers.
pub(super) struct ApiListener<L> {
    pub(super) listener: L,
    pub(super) door: Door,
    pub(super) shares: Shares,
    pub(super) routes: Routes,
    pub(super) refusals: Arc<ApiRefusals>,
}

impl<L: Accept> ApiListener<L> {
    /// Answers until `stop`, then gives open answers a moment to finish.
    pub(super) async fn run(self, stop: CancellationToken) {
        let Self { mut listener, door, shares, routes, refusals } = self;
        let places = Places::new(shares);
        let (mut conns, mut refused) = (JoinSet::new(), JoinSet::new());
        let mut wait = BACKOFF.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(_) = conns.join_next() => continue,
                Some(_) = refused.join_next() => continue,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, party)) => {
                    wait = BACKOFF.0;
                    if let Ok(place) = places.take(party) {
                        let answer = answer(stream, place, Arc::clone(&routes), stop.clone());
                        let refusals = Arc::clone(&refusals);
                        conns.spawn(async move {
                            if let Some(why) = answer.await {
                                refusals.note(door, why, Some(party));
                            }
                        });
                        continue;
                    }
                    refusals.note(door, Turned::Busy, Some(party));
                    if refused.len() < MOST_REFUSING {
                        refused.spawn(refuse(stream));
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    refusals.note(door, Turned::Shortage, None);
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        () = sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
        // A newcomer is refused by the system from here on.
        drop(listener);
        let finished = async { while conns.join_next().await.is_some() {} };
        _ = timeout(LAST_GRACE, finished).await;
        conns.shutdown().await;
        refused.shutdown().await;
    }
}

/// Whether only one connection failed, so that the next accept may succeed.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted | NotConnected)
}
