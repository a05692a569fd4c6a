//! Another key for each handshake, so that two networks in one process can be thousands of peers to each other. For
//! measurements only: a node that means to be known has one key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::Identity;
use super::tls::{Tls, certified_key};

#[derive(Debug)]
struct Masks {
    keys: Vec<Arc<CertifiedKey>>,
    next: AtomicUsize,
}

impl Masks {
    fn next(&self) -> Option<Arc<CertifiedKey>> {
        let at = self.next.fetch_add(1, Ordering::Relaxed) % self.keys.len().max(1);
        self.keys.get(at).cloned()
    }
}

impl ResolvesServerCert for Masks {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.next()
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }
}

impl ResolvesClientCert for Masks {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.next()
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Tls {
    /// Shows the keys of `masks` in turn.
    pub(super) fn masked(masks: &[Identity], network: &str) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let keys = masks.iter().map(|mask| certified_key(mask, &provider)).collect::<Result<_, _>>()?;
        let masks = Arc::new(Masks { keys, next: AtomicUsize::new(0) });
        Self::showing(Arc::clone(&masks) as _, masks, provider, network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_handshake_shows_the_next_key() {
        let masks = [Identity::generate(), Identity::generate()];
        let masked = Tls::masked(&masks, "one").unwrap();
        let plain = Tls::new(&Identity::generate(), "one").unwrap();
        for expected in [&masks[0], &masks[1], &masks[0]] {
            let (near, far) = tokio::io::duplex(16 * 1024);
            let (accepted, connected) = tokio::join!(masked.accept(near), plain.connect(far));
            accepted.unwrap();
            assert_eq!(connected.unwrap().1, expected.peer_id());
        }
    }
}
