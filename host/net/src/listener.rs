//! Accepts connections. Asks the pool before it spends anything, gives each handshake a deadline, and backs off when the
//! system has no descriptors. Keeps no connection itself.

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::peer::canonical;
use groundskeeper_pool::pool::{Admission, Direction};
use tokio::net::{TcpListener, TcpSocket};

use super::handshake::Greeter;
use super::node::LocalNode;
use super::refusals::{Refusal, Refusals};
use super::transport::{BoundListener, NewConnection, prompt};

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: u32 = 1024;

/// First and longest wait when the system cannot give us a descriptor; doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Binds all of `addresses`, or none.
///
/// `[::]` takes IPv4 too, unless the list has an IPv4 address with the same port.
pub(crate) fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    addresses
        .iter()
        .map(|&address| bind_one(address, addresses).map_err(|error| no_listening(address, &error)))
        .collect()
}

fn bind_one(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            let has_v4 = all.iter().any(|other| other.is_ipv4() && other.port() == address.port());
            let dual = address.ip() == Ipv6Addr::UNSPECIFIED && !has_v4;
            rustix::net::sockopt::set_ipv6_v6only(&socket, !dual)?;
            socket
        }
    };
    // A restarted node must not wait until the system forgets its old connections.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Accepts incoming connections.
pub(crate) struct Acceptor {
    pub(crate) node: Arc<LocalNode>,
    pub(crate) greeter: Arc<Greeter>,
    pub(crate) refusals: Refusals,
}

impl Acceptor {
    /// Accepts until the node stops.
    pub(crate) async fn serve(self: Arc<Self>, door: BoundListener) {
        let mut wait = BACKOFF.0;
        loop {
            let accepted = tokio::select! {
                biased;
                () = self.node.tasks.stop.cancelled() => return,
                accepted = door.accept() => accepted,
            };
            match accepted {
                Ok((begun, address)) => {
                    wait = BACKOFF.0;
                    self.admit(begun, canonical(address));
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(_) => {
                    tokio::select! {
                        biased;
                        () = self.node.tasks.stop.cancelled() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                    wait = (wait * 2).min(BACKOFF.1);
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, begun: NewConnection, address: SocketAddr) {
        match self.node.state.pool.admit(Direction::Inbound, address) {
            Ok(admission) => {
                let acceptor = Arc::clone(self);
                self.node.tasks.spawn(async move { acceptor.welcome(begun, address, admission).await });
            }
            Err(denied) => {
                drop(begun);
                self.refusals.note(&self.node.state, Refusal::Limit, None, address, || denied.to_string());
            }
        }
    }

    async fn welcome(&self, begun: NewConnection, address: SocketAddr, admission: Admission) {
        let mut proven = None;
        let handshake = async {
            match begun {
                NewConnection::Tls(stream, tls) => {
                    let (stream, peer) = tls.accept(prompt(stream)).await?;
                    proven = Some(peer);
                    self.greeter.greet_inbound(stream, peer, address, admission).await
                }
                NewConnection::Own(unproven) => {
                    let (stream, peer) = unproven.await?;
                    proven = Some(peer);
                    self.greeter.greet_inbound(stream, peer, address, admission).await
                }
            }
        };
        if let Err(error) = self.greeter.in_time(handshake).await {
            self.refusals.note(&self.node.state, error.kind(), proven, address, || error.to_string());
        }
    }
}

/// Whether only one connection failed, so that the next accept may succeed. Otherwise descriptors or memory are short.
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

pub(crate) fn no_listening(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}
