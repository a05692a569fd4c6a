//! Accepts connections. Asks the pool before it spends anything, gives each handshake a deadline, and refuses newcomers
//! before the process runs out of descriptors. Keeps no connection itself.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::descriptors;
use groundskeeper_base::peer::canonical;
use groundskeeper_flow::NewcomerRefusal;
use groundskeeper_pool::pool::{Admission, Direction};
use rustix::io::Errno;
use tokio::net::{TcpListener, TcpSocket};

use super::handshake::Greeter;
use super::node::LocalNode;
use super::refusals::Refusals;
use super::transport::{BoundListener, NewConnection, ProvenStream, no_descriptor, prompt};

/// Connections that the kernel holds for us while we are busy.
const BACKLOG: u32 = 1024;

/// First and longest wait when the system cannot give us a descriptor; doubled in between.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Binds all of `addresses`, or none.
///
/// `[::]` takes IPv4 too, unless the list has an IPv4 address with the same port. On a machine without IPv6 it becomes
/// `0.0.0.0`, unless the list has such an address.
pub(crate) fn bind(addresses: &[SocketAddr]) -> io::Result<Vec<TcpListener>> {
    let addresses: Vec<SocketAddr> = addresses.iter().copied().map(canonical).collect();
    let mut listeners = Vec::with_capacity(addresses.len());
    for &address in &addresses {
        let (address, bound) = match bind_one(address, &addresses) {
            Err(error) if is_without_ipv6(address, &error) => {
                if has_v4(&addresses, address.port()) {
                    continue;
                }
                let v4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
                (v4, bind_one(v4, &addresses))
            }
            bound => (address, bound),
        };
        listeners.push(bound.map_err(|error| no_listening(address, &error))?);
    }
    Ok(listeners)
}

fn has_v4(all: &[SocketAddr], port: u16) -> bool {
    all.iter().any(|other| other.is_ipv4() && other.port() == port)
}

/// Whether binding every address failed because the kernel has no IPv6, or a container has none.
fn is_without_ipv6(address: SocketAddr, error: &io::Error) -> bool {
    let without = [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT];
    address.ip() == Ipv6Addr::UNSPECIFIED
        && Errno::from_io_error(error).is_some_and(|errno| without.contains(&errno))
}

fn bind_one(address: SocketAddr, all: &[SocketAddr]) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => {
            let socket = TcpSocket::new_v6()?;
            let dual = address.ip() == Ipv6Addr::UNSPECIFIED && !has_v4(all, address.port());
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
                Err(error) => {
                    self.note_shortage(None, &error);
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

    /// Too little of something for another connection: one record and one line in the log for all of a window.
    fn note_shortage(&self, address: Option<SocketAddr>, error: &io::Error) {
        let why = || format!("no room for another connection: {error}");
        let noted = self.refusals.note(&self.node.state, NewcomerRefusal::Shortage, None, address, why);
        if let Some(refused) = noted {
            let limit = descriptors::limit().get();
            tracing::warn!(%error, refused, limit, "refusing connections: raise the limit of open files, or lower pool.max_connections");
        }
    }

    fn admit(self: &Arc<Self>, begun: NewConnection, address: SocketAddr) {
        if begun.is_of_reserve() {
            return self.note_shortage(Some(address), &no_descriptor());
        }
        match self.node.state.pool.admit(Direction::Inbound, address) {
            Ok(admission) => {
                let acceptor = Arc::clone(self);
                self.node.tasks.spawn(async move { acceptor.welcome(begun, address, admission).await });
            }
            Err(denied) => {
                drop(begun);
                let why = || denied.to_string();
                self.refusals.note(&self.node.state, NewcomerRefusal::Limit, None, Some(address), why);
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
                    let ProvenStream { stream, peer } = unproven.await?;
                    proven = Some(peer);
                    self.greeter.greet_inbound(stream, peer, address, admission).await
                }
            }
        };
        if let Err(error) = self.greeter.in_time(handshake).await {
            let why = || error.to_string();
            self.refusals.note(&self.node.state, error.kind(), proven, Some(address), why);
        }
    }
}

/// Whether only one connection failed, so that the next accept may succeed. Linux also reports errors that wait on the new
/// connection (accept(2)). Otherwise descriptors or memory are short.
fn is_about_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionReset
            | Kind::Interrupted
            | Kind::NetworkDown
            | Kind::NetworkUnreachable
            | Kind::HostUnreachable
    )
}

pub(crate) fn no_listening(address: SocketAddr, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_machine_without_ipv6_listens_on_ipv4_instead() {
        let any: SocketAddr = "[::]:7420".parse().unwrap();
        let of = |address, errno: Errno| is_without_ipv6(address, &errno.into());
        assert!(of(any, Errno::AFNOSUPPORT) && of(any, Errno::ADDRNOTAVAIL));
        assert!(!of(any, Errno::ADDRINUSE) && !of(any, Errno::ACCESS) && !of(any, Errno::MFILE));
        assert!(!of("[::1]:7420".parse().unwrap(), Errno::ADDRNOTAVAIL), "the operator named it");
    }

    #[tokio::test]
    async fn a_mapped_address_is_its_ipv4_address() {
        let bound = bind(&["[::ffff:127.0.0.1]:0".parse().unwrap()]).unwrap();
        let address = bound[0].local_addr().unwrap();
        assert!(address.is_ipv4() && address.ip().is_loopback(), "{address}");
    }
}
