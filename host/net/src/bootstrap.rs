//! Resolves the bootstrap nodes that the operator names. Caches nothing and dials no peer.

use std::net::SocketAddr;
use std::time::Duration;

use groundskeeper_base::bootstrap::Bootstrap;
use groundskeeper_base::peer::canonical;
use groundskeeper_pool::book::{AddressSource, LearnOutcome};

use super::node::LocalNode;

/// Time limit for a name server. All names are resolved concurrently.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The result of resolving the bootstrap list.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ResolvedBootstrap {
    /// Addresses that are now in the address book.
    pub addresses: Vec<SocketAddr>,
    /// Entries that gave no address, with the reason.
    pub failed: Vec<(Bootstrap, String)>,
}

/// Resolves all entries concurrently within 5 s and adds their addresses to the address book.
pub(crate) async fn resolve(node: &LocalNode) -> ResolvedBootstrap {
    let mut lookups = tokio::task::JoinSet::new();
    for entry in node.config.bootstrap.iter().cloned() {
        lookups.spawn(async move {
            let lookup = tokio::net::lookup_host((entry.host.as_str(), entry.port));
            let found = match tokio::time::timeout(RESOLVE_TIMEOUT, lookup).await {
                Err(_) => Err(format!("the name was not resolved within {RESOLVE_TIMEOUT:?}")),
                Ok(Err(error)) => Err(error.to_string()),
                Ok(Ok(found)) => Ok(found.collect::<Vec<_>>()),
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
