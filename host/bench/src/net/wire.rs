//! Hand-made TLS for baselines: the host's own cipher and kind of key, over loopback. Verifies no identity.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use groundskeeper::net::Identity;
use groundskeeper::net::tls::{AnyRawKey, certified_key};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

pub type Near = client::TlsStream<TcpStream>;
pub type Far = server::TlsStream<TcpStream>;

/// A listener for TLS connections, and the client side for it.
pub struct Loopback {
    listener: TcpListener,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    connector: TlsConnector,
}

impl Loopback {
    pub async fn listen() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port of the system's choice is free");
        let address = listener.local_addr().expect("a bound socket has an address");
        let provider = Arc::new(default_provider());
        let key = certified_key(&Identity::generate(), &provider).expect("an identity is a key");
        let key = Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(key));
        let tls13 = &[&rustls::version::TLS13];
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .expect("the provider speaks TLS 1.3")
            .with_no_client_auth()
            .with_cert_resolver(key);
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(tls13)
            .expect("the provider speaks TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(AnyRawKey::new(&provider))
            .with_no_client_auth();
        Self { listener, address, acceptor: Arc::new(server).into(), connector: Arc::new(client).into() }
    }

    /// Both ends of a new connection.
    pub async fn connection(&self) -> (Near, Far) {
        let near = async {
            let stream = TcpStream::connect(self.address).await?;
            stream.set_nodelay(true)?;
            self.connector.connect(ServerName::IpAddress(Ipv4Addr::LOCALHOST.into()), stream).await
        };
        let far = async {
            let (stream, _) = self.listener.accept().await?;
            stream.set_nodelay(true)?;
            self.acceptor.accept(stream).await
        };
        tokio::try_join!(near, far).expect("loopback and our own keys")
    }
}
