//! The address of a bootstrap node in the config: `id@host:port` or `host:port`. Does not resolve names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::peer::{BadPeerId, PeerId};

/// A node that this node dials first, to join the network.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrap {
    /// Without an id, any node that answers is trusted: see [`Bootstrap::warning`].
    pub id: Option<PeerId>,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    /// 1 to 65535 in a parsed entry.
    pub port: u16,
}

/// Why a text is not a valid [`Bootstrap`] entry.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadBootstrap {
    #[error("bootstrap {text:?}: {why}")]
    Id { text: String, why: BadPeerId },
    #[error("bootstrap {0:?} has no port; write id@host:port or host:port")]
    NoPort(String),
    #[error("bootstrap {text:?}: port {port:?} is not a number from 1 to 65535")]
    Port { text: String, port: String },
    #[error("bootstrap {0:?} has no host; write id@host:port or host:port")]
    NoHost(String),
    #[error("bootstrap {0:?}: an IPv6 address goes in brackets, as in [::1]:7000")]
    Brackets(String),
    #[error("bootstrap {0:?}: a host has no spaces and none of / @ [ ]; write id@host:port or host:port")]
    Host(String),
}

impl FromStr for Bootstrap {
    type Err = BadBootstrap;

    fn from_str(text: &str) -> Result<Self, BadBootstrap> {
        let (id, place) = match text.split_once('@') {
            None => (None, text),
            Some((id, place)) => {
                let id = id.parse().map_err(|why| BadBootstrap::Id { text: text.into(), why })?;
                (Some(id), place)
            }
        };
        let (host, port) = place.rsplit_once(':').ok_or_else(|| BadBootstrap::NoPort(text.into()))?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(BadBootstrap::Host(text.into())),
            None if host.contains(':') => return Err(BadBootstrap::Brackets(text.into())),
            None => host,
        };
        if host.is_empty() {
            return Err(BadBootstrap::NoHost(text.into()));
        }
        if host.contains(|c: char| c.is_whitespace() || c.is_control() || "/@[]".contains(c)) {
            return Err(BadBootstrap::Host(text.into()));
        }
        match port.parse() {
            Ok(port) if port != 0 => Ok(Self { id, host: host.into(), port }),
            _ => Err(BadBootstrap::Port { text: text.into(), port: port.into() }),
        }
    }
}

impl fmt::Display for Bootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(id) = &self.id {
            write!(f, "{id}@")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Bootstrap {
    /// A warning for the operator, if the entry has no id.
    pub fn warning(&self) -> Option<String> {
        self.id.is_none().then(|| {
            format!(
                "bootstrap {self} has no id: any node that answers there is trusted; write <id>@{self} to check it"
            )
        })
    }
}

impl Serialize for Bootstrap {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Bootstrap {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let id = PeerId::from_bytes([3; 32]);
        for text in ["a.example:7000", "[::1]:1", "10.0.0.1:65535", &format!("{id}@a.example:7000")] {
            let entry: Bootstrap = text.parse().unwrap();
            assert_eq!(entry.to_string(), text);
            assert_eq!(entry.warning().is_none(), text.contains('@'));
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (text, words) in [
            ("a.example", "has no port"),
            ("a.example:0", "from 1 to 65535"),
            ("a.example:99999", "from 1 to 65535"),
            (":7000", "has no host"),
            ("::1:7000", "goes in brackets"),
            ("[zz]:7000", "a host has no spaces"),
            ("a b:7000", "a host has no spaces"),
            ("abc@a.example:7000", "a peer id has 52"),
            ("", "has no port"),
        ] {
            let error = text.parse::<Bootstrap>().unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
