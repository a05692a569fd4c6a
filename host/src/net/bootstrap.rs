//! Nodes that the operator names, as `id@host:port` or `host:port`. Resolves names at each use; dials nobody.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::Net;
use crate::book::{Learned, Source};
use crate::peer::{BadPeerId, PeerId};

/// For a name server to answer. All names are asked for at once.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A node to begin with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bootstrap {
    /// Without it, whoever answers first is trusted: see [`Bootstrap::warning`].
    pub id: Option<PeerId>,
    /// A name, an IPv4 address, or an IPv6 address without brackets.
    pub host: String,
    pub port: u16,
}

/// Why a text is not a [`Bootstrap`] entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
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
    /// What the operator should hear about this entry.
    pub fn warning(&self) -> Option<String> {
        self.id.is_none().then(|| {
            format!(
                "bootstrap {self} has no id: whoever answers there is trusted; write <id>@{self} to be sure"
            )
        })
    }
}

/// What became of the bootstrap list.
#[derive(Debug, Default)]
pub struct Resolved {
    /// Addresses now in the book.
    pub addresses: Vec<SocketAddr>,
    /// Entries of which nothing came, with the reason.
    pub failed: Vec<(Bootstrap, String)>,
}

impl Net {
    /// Resolves all bootstrap names, at once and within 5 s, and puts what they say into the book. For the start, and
    /// for a node that has lost everybody. The entries' addresses may have changed, so nothing is cached.
    pub async fn resolve_bootstrap(&self) -> Resolved {
        let mut lookups = tokio::task::JoinSet::new();
        for entry in self.node.config.bootstrap.iter().cloned() {
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
        let mut resolved = Resolved::default();
        while let Some(done) = lookups.join_next().await {
            let Ok((entry, found)) = done else { continue };
            let found = found.map(|all| self.learn_bootstrap(&entry, all));
            match found {
                Ok(Ok(addresses)) => resolved.addresses.extend(addresses),
                Ok(Err(why)) | Err(why) => resolved.failed.push((entry, why)),
            }
        }
        resolved
    }

    fn learn_bootstrap(&self, entry: &Bootstrap, found: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, String> {
        let mut why = "the name has no addresses".to_owned();
        let mut taken = Vec::new();
        for address in found {
            match self.node.rooms.book.learn(address, entry.id, Source::Bootstrap) {
                Learned::Refused(words) => why = format!("{address}: {words}"),
                Learned::New | Learned::Known => taken.push(crate::peer::canonical(address)),
            }
        }
        if taken.is_empty() { Err(why) } else { Ok(taken) }
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
