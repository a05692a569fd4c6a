//! The node's key: makes it, names it, signs with it. Does not store it.

use std::fmt;

use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use crate::peer::PeerId;

/// The secret ed25519 key that a node is known by.
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
    /// If the system has no randomness to give: nothing secure can run there.
    pub fn generate() -> Self {
        let document =
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("the system gives randomness");
        Self::from_pkcs8(document.as_ref()).expect("a key that was just made is one")
    }

    /// The key in `bytes`, as [`Identity::to_pkcs8`] gave it.
    ///
    /// # Errors
    /// [`BadKey`], if it is anything else, or its two halves do not belong together.
    pub fn from_pkcs8(bytes: &[u8]) -> Result<Self, BadKey> {
        let pair = Ed25519KeyPair::from_pkcs8(bytes).map_err(|rejected| BadKey(rejected.to_string()))?;
        let public = pair.public_key().as_ref().try_into().expect("an ed25519 public key has 32 bytes");
        Ok(Self { pkcs8: bytes.to_vec(), peer_id: PeerId::from_bytes(public) })
    }

    /// The key as PKCS#8 v2, 83 bytes. Secret: whoever has it is this node.
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    pub fn peer_id(&self) -> PeerId {
        self.peer_id
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
    fn the_secret_is_not_printed() {
        let text = format!("{:?}", Identity::generate());
        assert!(text.starts_with("Identity(PeerId(") && text.len() < 40, "{text}");
    }
}
