//! The node's key: generates it, gives its id, signs with it. Does not store it.

use std::fmt;

use groundskeeper_base::peer::PeerId;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

/// Prefix of everything that an application signs. None of it can pass for a TLS handshake, which the same key signs
/// too.
const SIGNED: &[u8] = b"groundskeeper application signature 1\0";

/// The secret ed25519 key that identifies a node.
#[derive(Clone)]
pub struct Identity {
    pkcs8: Vec<u8>,
    peer_id: PeerId,
}

/// Why bytes are not an [`Identity`].
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an ed25519 key in PKCS#8 form: {0}")]
pub struct BadKey(String);

impl Identity {
    /// A fresh key from the system's randomness.
    ///
    /// # Panics
    /// If the system has no randomness: nothing secure can run there.
    pub fn generate() -> Self {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system has randomness");
        Self::from_pkcs8(document.as_ref()).expect("a key that was just generated is valid")
    }

    /// Reads a key in the form of [`Identity::to_pkcs8`].
    ///
    /// # Errors
    /// [`BadKey`] if the bytes are anything else, or the two halves of the key do not match.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, BadKey> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|rejected| BadKey(rejected.to_string()))?;
        let public = pair.public_key().as_ref().try_into().expect("an ed25519 public key has 32 bytes");
        Ok(Self { pkcs8: bytes.to_vec(), peer_id: PeerId::from_bytes(public) })
    }

    /// The key as PKCS#8 v2, 83 bytes. Secret: anyone who has it can act as this node.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public key, by which other nodes know this one.
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Signs `message` as this node; any node can check that with [`Identity::has_signed`]. Put the purpose into the
    /// message, so that a signature for one purpose cannot pass for another. Takes about 30 microseconds.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let pair = Ed25519KeyPair::from_pkcs8(&self.pkcs8).expect("the constructor has read this key before");
        let signature = pair.sign(&[SIGNED, message].concat());
        signature.as_ref().try_into().expect("an ed25519 signature has 64 bytes")
    }

    /// Whether `signature` is that of the node `peer` over `message`. Accepts any bytes. Takes about 50 microseconds.
    pub fn has_signed(peer: &PeerId, message: &[u8], signature: &[u8]) -> bool {
        let key = UnparsedPublicKey::new(&ED25519, peer.as_bytes());
        key.verify(&[SIGNED, message].concat(), signature).is_ok()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Identity").field(&self.peer_id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_bytes_and_damage_is_noticed() {
        let identity = Identity::generate();
        let again = Identity::from_pkcs8(identity.to_pkcs8()).unwrap();
        assert_eq!(again.peer_id(), identity.peer_id());
        assert_ne!(Identity::generate().peer_id(), identity.peer_id());
        let mut damaged = identity.to_pkcs8().to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(Identity::from_pkcs8(&damaged).is_err());
        assert!(Identity::from_pkcs8(b"").is_err());
    }

    #[test]
    fn a_signature_fits_one_signer_and_one_message() {
        let (one, other) = (Identity::generate(), Identity::generate());
        let signature = one.sign(b"words");
        assert!(Identity::has_signed(&one.peer_id(), b"words", &signature));
        assert!(!Identity::has_signed(&other.peer_id(), b"words", &signature));
        assert!(!Identity::has_signed(&one.peer_id(), b"word", &signature));
        assert!(!Identity::has_signed(&one.peer_id(), b"words", &signature[1..]));
        // Without the prefix, a signature is not one of ours, and ours is not one over the bare message: TLS and
        // applications cannot be confused.
        let bare = Ed25519KeyPair::from_pkcs8(one.to_pkcs8()).unwrap().sign(b"words");
        assert!(!Identity::has_signed(&one.peer_id(), b"words", bare.as_ref()));
        let id = one.peer_id();
        assert!(UnparsedPublicKey::new(&ED25519, id.as_bytes()).verify(b"words", &signature).is_err());
    }

    #[test]
    fn the_secret_is_not_printed() {
        let text = format!("{:?}", Identity::generate());
        assert!(text.starts_with("Identity(PeerId(") && text.len() < 40, "{text}");
    }
}
