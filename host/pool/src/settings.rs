//! The config sections `[pool]` and `[journal]`, and the limits that follow from them.

use std::path::PathBuf;

use groundskeeper_base::bounds::Bound;
use groundskeeper_base::bytes::ByteSize;
use groundskeeper_base::paths;
use groundskeeper_base::units::as_bytes;
use serde::{Deserialize, Serialize};

use crate::journal::JournalLimits;
use crate::pool::PoolLimits;

/// A useful connection costs about 10 KiB: one machine carries at most about a million.
#[doc(hidden)]
pub const MOST_CONNECTIONS: u64 = 1_000_000;

/// Connections to one network group unless private addresses are allowed. Sixteen groups fill the default pool.
const PER_GROUP: u32 = 64;

/// The config section `[pool]`. The default of an optional key depends on other keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PoolSettings {
    /// Connections in total; their memory is reserved at the start.
    pub max_connections: u32,
    /// Inbound connections. Default: seven eighths of max_connections, so that there is always room to dial.
    pub max_inbound: Option<u32>,
    /// Outbound connections. Default: max_connections.
    pub max_outbound: Option<u32>,
    /// Connections to one IPv4 /16 or IPv6 /32. Default: 64, or max_connections with net.allow_private.
    pub max_per_group: Option<u32>,
    /// Inbound handshakes in flight.
    pub max_handshakes: u32,
    /// Phases keep at least this number of connections; only the reaper may go below it.
    pub least: u32,
    /// Phases do not dial beyond this number of connections. Default: max_connections.
    pub most: Option<u32>,
    /// A connection with more health than this (0 to 100) counts as healthy.
    pub healthy_above: u32,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_inbound: None,
            max_outbound: None,
            max_per_group: None,
            max_handshakes: 64,
            least: 5,
            most: None,
            healthy_above: 30,
        }
    }
}

impl PoolSettings {
    /// The allowed range of each key.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 8] = [
        ("max_connections", Bound::Count(1, MOST_CONNECTIONS)),
        ("max_inbound", Bound::Count(0, MOST_CONNECTIONS)),
        ("max_outbound", Bound::Count(1, MOST_CONNECTIONS)),
        ("max_per_group", Bound::Count(1, MOST_CONNECTIONS)),
        ("max_handshakes", Bound::Count(1, 100_000)),
        ("least", Bound::Count(0, MOST_CONNECTIONS)),
        ("most", Bound::Count(1, MOST_CONNECTIONS)),
        ("healthy_above", Bound::Count(0, 99)),
    ];

    /// The same settings with a value for each key.
    #[doc(hidden)]
    #[must_use]
    pub fn resolved(self, allow_private: bool) -> Self {
        let PoolLimits { inbound, outbound, per_group, .. } = self.limits(allow_private);
        Self {
            max_inbound: Some(inbound),
            max_outbound: Some(outbound),
            max_per_group: Some(per_group),
            most: Some(self.most()),
            ..self
        }
    }

    /// The limits of the pool.
    #[doc(hidden)]
    pub fn limits(&self, allow_private: bool) -> PoolLimits {
        let all = self.max_connections;
        let per_group = if allow_private { all } else { PER_GROUP.min(all) };
        PoolLimits {
            capacity: all,
            inbound: self.max_inbound.unwrap_or(all - all / 8),
            outbound: self.max_outbound.unwrap_or(all),
            per_group: self.max_per_group.unwrap_or(per_group),
            handshakes: self.max_handshakes,
        }
    }

    #[doc(hidden)]
    pub fn most(&self) -> u32 {
        self.most.unwrap_or(self.max_connections)
    }

    #[doc(hidden)]
    pub fn healthy_above(&self) -> u8 {
        u8::try_from(self.healthy_above).unwrap_or(u8::MAX)
    }
}

/// Two files of this size hold some five hours of a node that dials all the time without success, and weeks of a quiet
/// one, on the smallest disks.
const DEFAULT_FILE_MAX: u64 = 16 << 20;

/// The config section `[journal]`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Records kept in memory, about 300 bytes each: three eighths for disconnects and bans, three for dials and probes,
    /// one for refused connections, one for changes of phases and config.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub notable: usize,
    /// Other records kept in memory: half for phases, half for everything else.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub chatter: usize,
    /// A file for all records as JSON lines, relative to the data folder. The program's default is "journal.jsonl", a
    /// library has none; "" turns it off.
    #[serde(serialize_with = "paths::lossy_option")]
    pub file: Option<PathBuf>,
    /// The file is rotated at this size; one older file is kept.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub file_max: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        let JournalLimits { notable, chatter } = JournalLimits::default();
        Self { notable, chatter, file: None, file_max: DEFAULT_FILE_MAX }
    }
}

impl JournalSettings {
    /// The allowed range of each key.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 3] = [
        ("notable", Bound::Count(16, 1_000_000)),
        ("chatter", Bound::Count(16, 1_000_000)),
        ("file_max", Bound::Size(ByteSize::kib(64), ByteSize::gib(1024))),
    ];

    /// The limits of the journal.
    #[doc(hidden)]
    pub fn limits(&self) -> JournalLimits {
        JournalLimits { notable: self.notable, chatter: self.chatter }
    }
}
