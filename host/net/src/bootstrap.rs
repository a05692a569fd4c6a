//! Resolves the bootstrap nodes that the operator names. Caches nothing and dials no peer.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_base::bootstrap::Bootstrap;
use groundskeeper_base::peer::canonical;
use groundskeeper_pool::book::{AddressSource, LearnOutcome};
use tokio::sync::{Semaphore, oneshot};

use super::node::LocalNode;

/// Time limit for a name server, for each name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Look-ups at one time. Each has a thread, which the system's resolver may hold for much longer than the time limit.
const AT_ONCE: usize = 4;

/// Looks names up, each on a thread of its own. Neither a runtime nor the end of a node waits for these threads.
pub(crate) struct Lookups {
    free: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { free: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Lookups {
    /// The addresses of `host`; at once if it is an address itself.
    async fn find(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        let place = Arc::clone(&self.free).acquire_owned().await.map_err(io::Error::other)?;
        let (found_tx, found) = oneshot::channel();
        let host = host.to_owned();
        std::thread::Builder::new().name("gk-lookup".into()).spawn(move || {
            let addresses = (host.as_str(), port).to_socket_addrs().map(Iterator::collect);
            drop(place);
            // The caller may have stopped waiting.
            _ = found_tx.send(addresses);
        })?;
        found.await.map_err(io::Error::other)?
    }
}

/// The result of resolving the bootstrap list.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ResolvedBootstrap {
    /// Addresses that are now in the address book.
    pub addresses: Vec<SocketAddr>,
    /// Entries that gave no address, with the reason.
    pub failed: Vec<(Bootstrap, String)>,
}

/// Resolves all entries, four at a time, and adds their addresses to the address book. Takes at most 5 s: an entry that has
/// no turn in that time fails.
pub(crate) async fn resolve(node: &Arc<LocalNode>) -> ResolvedBootstrap {
    let mut lookups = tokio::task::JoinSet::new();
    for entry in node.config.bootstrap.iter().cloned() {
        let node = Arc::clone(node);
        lookups.spawn(async move {
            let lookup = node.lookups.find(&entry.host, entry.port);
            let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Err(_) => Err(format!("the name was not resolved within {RESOLVE_TIMEOUT:?}")),
                Ok(found) => found.map_err(|error| error.to_string()),
            };
            (entry, found)
        });
    }
    let mut resolved = ResolvedBootstrap::default();
    while let Some(done) = lookups.join_next().await {
        let Ok((entry, found)) = done else { continue };
        match found.and_then(|found| learn(node, &entry, found)) {
            Ok(addresses) => resolved.addresses.extend(addresses),
            Err(why) => resolved.failed.push((entry, why)),
        }
    }
    resolved
}

fn learn(node: &LocalNode, entry: &Bootstrap, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
    let mut why = "the name has no addresses".to_owned();
    let mut taken = Vec::new();
    for address in found {
        match node.state.book.learn(address, entry.id, AddressSource::Bootstrap) {
            LearnOutcome::Refused(reason) => why = format!("{address}: {reason}"),
            LearnOutcome::New | LearnOutcome::Known => taken.push(canonical(address)),
        }
    }
    if taken.is_empty() { Err(why) } else { Ok(taken) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_that_hang_hold_up_no_address() {
        let lookups = Lookups::default();
        // What name servers that do not answer hold.
        let held = Arc::clone(&lookups.free).acquire_many_owned(AT_ONCE as u32).await.unwrap();
        for host in ["192.0.2.1", "::1"] {
            let found = lookups.find(host, 7420).await.unwrap();
            assert_eq!(found, [SocketAddr::new(host.parse().unwrap(), 7420)]);
        }
        let waits = tokio::time::timeout(Duration::from_millis(50), lookups.find("localhost", 7420));
        assert!(waits.await.is_err(), "a name waits for its turn");
        drop(held);
        let found = lookups.find("localhost", 7420).await.unwrap();
        assert!(found.iter().all(|address| address.ip().is_loopback()) && !found.is_empty(), "{found:?}");
        assert_eq!(lookups.free.available_permits(), AT_ONCE, "the place is free again");
    }
}
