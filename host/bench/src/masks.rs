//! A transport that uses another key in each handshake, so that two networks look like thousands of peers to each
//! other. In everything else it is the host's TLS over TCP.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use groundskeeper::net::tls::{AnyRawKey, certified_key, peer_id_of};
use groundskeeper::net::{
    BoxFuture, HandshakeError, Identity, Listener, ProvenStream, Transport, UnprovenStream,
};
use rustls::client::ResolvesClientCert;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// Limit of rustls' buffers for plaintext and for records, as in the host.
const RUSTLS_BUFFER: usize = 16 * 1024;

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

/// TLS over TCP with a new key for each handshake.
#[derive(Clone)]
pub struct MaskedTls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl MaskedTls {
    /// Uses `keys` fresh keys in turn.
    ///
    /// # Panics
    /// If rustls refuses its own provider.
    pub fn new(keys: usize, network: &str) -> Self {
        let provider = Arc::new(default_provider());
        let key = |_| certified_key(&Identity::generate(), &provider).expect("an identity is a key");
        let masks = Arc::new(Masks { keys: (0..keys).map(key).collect(), next: AtomicUsize::new(0) });
        let alpn = vec![format!("bench/{network}").into_bytes()];
        let tls13 = &[&rustls::version::TLS13];

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .expect("the provider speaks TLS 1.3")
            .with_client_cert_verifier(AnyRawKey::new(&provider))
            .with_cert_resolver(Arc::clone(&masks) as _);
        server.alpn_protocols.clone_from(&alpn);
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(AnyRawKey::new(&provider))
            .with_client_cert_resolver(masks);
        client.alpn_protocols = alpn;
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;

        Self { acceptor: Arc::new(server).into(), connector: Arc::new(client).into() }
    }
}

fn proven(stream: TlsStream<TcpStream>) -> Result<ProvenStream, HandshakeError> {
    let (_, connection) = stream.get_ref();
    let key = connection.peer_certificates().and_then(|keys| keys.first());
    let peer = key.and_then(|key| peer_id_of(key)).ok_or(HandshakeError::NoKey)?;
    Ok(ProvenStream::new(stream, peer))
}

impl Transport for MaskedTls {
    fn connect(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<UnprovenStream>> {
        Box::pin(async move {
            let tcp = TcpStream::connect(address).await?;
            tcp.set_nodelay(true)?;
            let connector = self.connector.clone();
            let unproven: UnprovenStream = Box::pin(async move {
                let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
                let limit = |tls: &mut rustls::ClientConnection| tls.set_buffer_limit(Some(RUSTLS_BUFFER));
                proven(TlsStream::Client(connector.connect_with(name, tcp, limit).await?))
            });
            Ok(unproven)
        })
    }

    fn bind(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let (listener, acceptor) = (TcpListener::bind(address).await?, self.acceptor.clone());
            Ok(Box::new(MaskedListener { listener, acceptor }) as Box<dyn Listener>)
        })
    }
}

struct MaskedListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for MaskedListener {
    fn accept(&self) -> BoxFuture<'_, io::Result<(UnprovenStream, SocketAddr)>> {
        Box::pin(async move {
            let (tcp, address) = self.listener.accept().await?;
            let acceptor = self.acceptor.clone();
            let unproven: UnprovenStream = Box::pin(async move {
                tcp.set_nodelay(true)?;
                let limit = |tls: &mut rustls::ServerConnection| tls.set_buffer_limit(Some(RUSTLS_BUFFER));
                proven(TlsStream::Server(acceptor.accept_with(tcp, limit).await?))
            });
            Ok((unproven, address))
        })
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_handshake_shows_the_next_key() {
        let (masked, plain) = (MaskedTls::new(2, "one"), MaskedTls::new(1, "one"));
        let listener = masked.bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut shown = Vec::new();
        for _ in 0..3 {
            let (far, near) = tokio::join!(listener.accept(), plain.connect(address));
            let (far, near) = tokio::join!(far.unwrap().0, near.unwrap());
            far.unwrap();
            shown.push(near.unwrap().peer());
        }
        assert_ne!(shown[0], shown[1]);
        assert_eq!(shown[0], shown[2]);
    }
}
