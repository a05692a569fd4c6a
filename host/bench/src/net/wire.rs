//! TLS by hand, for baselines: the host's own cipher and kind of key, over loopback. Asks nobody who they are.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use groundskeeper::net::Identity;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring::default_provider, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How an ed25519 key begins as a SubjectPublicKeyInfo (RFC 8410, section 4).
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub type Near = client::TlsStream<TcpStream>;
pub type Far = server::TlsStream<TcpStream>;

/// Where TLS connections come in, and what opens them.
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
        let key = Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(fresh_key(&provider)));
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
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
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

fn fresh_key(provider: &CryptoProvider) -> Arc<CertifiedKey> {
    let identity = Identity::generate();
    let secret = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec());
    let signer = provider.key_provider.load_private_key(secret.into()).expect("an identity is a key");
    let spki = [&ED25519_SPKI[..], identity.peer_id().as_bytes()].concat();
    Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer))
}

/// Any key will do whose owner signs.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _key: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _key: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
