//! The identity of a peer and the part of the network that it is in. Knows nothing about connections.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::{DecodeKind, Encoding, Specification};
use serde::{Deserialize, Serialize};

/// A peer's ed25519 public key. Two connections with the same key are the same peer, wherever they come from.
///
/// Printed as 52 characters of lower-case base32 without padding (RFC 4648), the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId([u8; 32]);

/// Why a text is not a valid [`PeerId`].
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadPeerId {
    #[error("peer id {0:?} has {1} characters; a peer id has 52, as `groundskeeper peers` prints it")]
    Length(String, usize),
    #[error("peer id {0:?} is not base32: {1}; copy it from `groundskeeper peers`")]
    Alphabet(String, &'static str),
}

fn base32() -> &'static Encoding {
    static ENCODING: std::sync::OnceLock<Encoding> = std::sync::OnceLock::new();
    ENCODING.get_or_init(|| {
        let mut spec = Specification::new();
        spec.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
        spec.encoding().expect("a constant alphabet of 32 distinct symbols")
    })
}

impl PeerId {
    /// Does not check that the bytes are a valid ed25519 key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The public key, as in RFC 8032.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first ten characters: enough for a person to distinguish peers. Never used as a key.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32().encode(&self.0))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({})", self.short())
    }
}

impl FromStr for PeerId {
    type Err = BadPeerId;

    fn from_str(text: &str) -> Result<Self, BadPeerId> {
        if text.len() != 52 {
            return Err(BadPeerId::Length(text.chars().take(80).collect(), text.chars().count()));
        }
        let bytes = base32().decode(text.to_ascii_lowercase().as_bytes()).map_err(|error| {
            let why = match error.kind {
                DecodeKind::Symbol => "it has a character outside a-z and 2-7",
                DecodeKind::Trailing | DecodeKind::Padding | DecodeKind::Length => {
                    "its last character is damaged"
                }
            };
            BadPeerId::Alphabet(text.to_owned(), why)
        })?;
        Ok(Self(bytes.try_into().expect("52 base32 characters without trailing bits are 32 bytes")))
    }
}

impl Serialize for PeerId {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() { to.collect_str(self) } else { self.0.serialize(to) }
    }
}

impl<'de> Deserialize<'de> for PeerId {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        if from.is_human_readable() {
            String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
        } else {
            <[u8; 32]>::deserialize(from).map(Self)
        }
    }
}

/// The peer behind a row of the peer table, for logs and operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLabel {
    /// The key that the pool has for the connection.
    pub id: PeerId,
    /// The remote address of the connection; the peer may listen elsewhere.
    pub address: SocketAddr,
    /// Software name that the peer claims. Untrusted.
    pub agent: String,
}

/// The form in which addresses are compared and stored: `::ffff:a.b.c.d` becomes the IPv4 address that it contains.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A part of the network that one operator may control: an IPv4 /16 or an IPv6 /32.
///
/// IPv4 groups are below 65,536 and global IPv6 groups are above 2^29, so one `u32` holds both.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct NetGroup(pub u32);

impl NetGroup {
    /// The group of an address. An IPv4-mapped IPv6 address is in the group of its IPv4 address.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(v4) => {
                let [a, b, ..] = v4.octets();
                Self(u32::from(u16::from_be_bytes([a, b])))
            }
            IpAddr::V6(v6) => {
                let [a, b, c, d, ..] = v6.octets();
                Self(u32::from_be_bytes([a, b, c, d]))
            }
        }
    }
}

/// Whether an address belongs to the public internet, so that this node may send it to strangers.
pub fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_documentation()
                || v4.is_multicast()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b)))
        }
        IpAddr::V6(v6) => {
            let first = v6.segments()[0];
            let documentation = first == 0x2001 && v6.segments()[1] == 0x0db8;
            (0x2000..0x4000).contains(&first) && !documentation
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_form_round_trips_and_names_what_is_wrong() {
        let id = PeerId::from_bytes(std::array::from_fn(|i| i as u8 * 7));
        let text = id.to_string();
        assert_eq!(text.len(), 52);
        assert_eq!(text.parse::<PeerId>().unwrap(), id);
        assert_eq!(text.to_uppercase().parse::<PeerId>().unwrap(), id);
        assert!(matches!("abc".parse::<PeerId>(), Err(BadPeerId::Length(_, 3))));
        assert!(matches!(text.replace('a', "1").parse::<PeerId>(), Err(BadPeerId::Alphabet(..))));
    }

    #[test]
    fn groups_are_16_bits_of_ipv4_and_32_of_ipv6() {
        let group = |text: &str| NetGroup::of(text.parse().unwrap());
        assert_eq!(group("10.1.2.3"), group("10.1.200.9"));
        assert_ne!(group("10.1.2.3"), group("10.2.2.3"));
        assert_eq!(group("::ffff:10.1.2.3"), group("10.1.0.0"));
        assert_eq!(group("2a00:1450:1::1"), group("2a00:1450:ffff::2"));
        assert_ne!(group("2a00:1450::1"), group("2a00:1451::1"));
    }

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for private in [
            "10.0.0.1",
            "127.0.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "203.0.113.9",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
        for public in ["1.1.1.1", "100.128.0.1", "2a00:1450::1", "::ffff:8.8.8.8"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
    }
}
