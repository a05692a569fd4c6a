//! Encryption and proof of identity: mutual TLS 1.3 with raw ed25519 keys (RFC 7250) on both sides. Trusts no
//! authority, resumes no session, and leaves it to others which keys are welcome.

use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::handshake_error::HandshakeError;
use super::identity::Identity;
use super::wire::PROTOCOL_MAJOR;

/// The first bytes of an ed25519 key as SubjectPublicKeyInfo (RFC 8410, section 4). The 32 bytes of the key follow.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// Limit for plaintext and for records that rustls holds while the socket takes none: one full record each way. So a
/// peer that does not read costs this node only its send queue.
const RUSTLS_BUFFER: usize = 16 * 1024;

/// The two TLS configurations of a node, shared by all its connections.
#[derive(Clone)]
pub(crate) struct Tls {
    acceptor: TlsAcceptor,
    connector: TlsConnector,
    alpn: Arc<[u8]>,
}

/// A peer's key from its SubjectPublicKeyInfo; None if it is not exactly one ed25519 key.
pub fn peer_id_of(spki: &[u8]) -> Option<PeerId> {
    let key = spki.strip_prefix(&ED25519_SPKI)?;
    Some(PeerId::from_bytes(key.try_into().ok()?))
}

/// Accepts any ed25519 key that signs the handshake. Callers that know the `PeerId` decide which peers are welcome.
#[derive(Debug)]
pub struct AnyRawKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyRawKey {
    /// Checks signatures as `provider` does.
    pub fn new(provider: &CryptoProvider) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms })
    }

    fn check(&self, key: &CertificateDer<'_>, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        match peer_id_of(key) {
            Some(_) if chain.is_empty() => Ok(()),
            _ => Err(rustls::CertificateError::BadEncoding.into()),
        }
    }
}

impl ServerCertVerifier for AnyRawKey {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(key, chain).map(|()| ServerCertVerified::assertion())
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
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for AnyRawKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(key, chain).map(|()| ClientCertVerified::assertion())
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
        ServerCertVerifier::verify_tls13_signature(self, message, key, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl Tls {
    /// The configurations of the node `identity` in the network `network`. Uses no process-wide default.
    pub(crate) fn new(identity: &Identity, network: &str) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = certified_key(identity, &provider)?;
        let any_key = AnyRawKey::new(&provider);
        let alpn: Arc<[u8]> = format!("gk/{PROTOCOL_MAJOR}/{network}").into_bytes().into();

        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(any_key.clone())
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(Arc::clone(&key))));
        server.alpn_protocols = vec![alpn.to_vec()];
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(any_key)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(key)));
        client.alpn_protocols = vec![alpn.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        client.enable_sni = false;

        Ok(Self {
            acceptor: TlsAcceptor::from(Arc::new(server)),
            connector: TlsConnector::from(Arc::new(client)),
            alpn,
        })
    }

    /// Does the TLS handshake with a peer that connected to us. The caller sets the deadline.
    pub(crate) async fn accept<S>(&self, stream: S) -> Result<(TlsStream<S>, PeerId), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let limit =
            |connection: &mut rustls::ServerConnection| connection.set_buffer_limit(Some(RUSTLS_BUFFER));
        let stream = self.acceptor.accept_with(stream, limit).await?;
        self.finish(TlsStream::Server(stream))
    }

    /// Does the TLS handshake with a peer that we dialed. The caller sets the deadline.
    pub(crate) async fn connect<S>(&self, stream: S) -> Result<(TlsStream<S>, PeerId), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // The name is neither sent nor checked; TLS wants one.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
        let limit =
            |connection: &mut rustls::ClientConnection| connection.set_buffer_limit(Some(RUSTLS_BUFFER));
        let stream = self.connector.connect_with(name, stream, limit).await?;
        self.finish(TlsStream::Client(stream))
    }

    fn finish<S>(&self, stream: TlsStream<S>) -> Result<(TlsStream<S>, PeerId), HandshakeError> {
        let (_, connection) = stream.get_ref();
        // rustls accepts a peer that sends no ALPN at all.
        if connection.alpn_protocol() != Some(&self.alpn) {
            return Err(HandshakeError::OtherNetwork);
        }
        let key =
            connection.peer_certificates().and_then(|keys| keys.first()).ok_or(HandshakeError::NoKey)?;
        let peer = peer_id_of(key).ok_or(HandshakeError::NoKey)?;
        Ok((stream, peer))
    }
}

/// The key that a node shows in the handshake.
///
/// # Errors
/// If the provider does not know ed25519.
pub fn certified_key(
    identity: &Identity,
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let secret = PrivatePkcs8KeyDer::from(identity.to_pkcs8().to_vec());
    let signer = provider.key_provider.load_private_key(secret.into())?;
    let spki = [&ED25519_SPKI[..], identity.peer_id().as_bytes()].concat();
    Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pair(
        server: &Tls,
        client: &Tls,
    ) -> (Result<PeerId, HandshakeError>, Result<PeerId, HandshakeError>) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (server, client) = tokio::join!(server.accept(ours), client.connect(theirs));
        (server.map(|(_, peer)| peer), client.map(|(_, peer)| peer))
    }

    #[tokio::test]
    async fn each_side_learns_the_others_key() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let (server, client) = pair(&Tls::new(&a, "test").unwrap(), &Tls::new(&b, "test").unwrap()).await;
        assert_eq!((server.unwrap(), client.unwrap()), (b.peer_id(), a.peer_id()));
    }

    #[tokio::test]
    async fn networks_do_not_mix() {
        let (a, b) = (Identity::generate(), Identity::generate());
        let (server, client) = pair(&Tls::new(&a, "one").unwrap(), &Tls::new(&b, "two").unwrap()).await;
        assert!(matches!(server, Err(HandshakeError::OtherNetwork)), "{server:?}");
        assert!(matches!(client, Err(HandshakeError::OtherNetwork)), "{client:?}");
    }

    #[test]
    fn only_exact_ed25519_keys_are_read() {
        let exact = [&ED25519_SPKI[..], &[7; 32]].concat();
        assert_eq!(peer_id_of(&exact), Some(PeerId::from_bytes([7; 32])));
        assert_eq!(peer_id_of(&exact[..43]), None);
        assert_eq!(peer_id_of(&[&exact[..], &[0]].concat()), None);
        let mut x25519 = exact.clone();
        x25519[8] = 0x6e;
        assert_eq!(peer_id_of(&x25519), None);
    }
}
