//! The sections that no other crate reads: their keys, defaults and ranges.
//!
//! The comments here become the descriptions of the JSON schema.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::peer::PeerId;
use groundskeeper_base::units::as_span;
use groundskeeper_engine::policy::GuestCeilings;
use groundskeeper_flow::USUAL_NETWORK;
use groundskeeper_pool::settings::MOST_CONNECTIONS;
use serde::{Deserialize, Serialize};

/// Who the node is and how often it beats.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Node {
    /// Name of the network. Nodes of other networks are never connected to. 1 to 32 of a-z, 0-9 and "-".
    pub network: String,
    /// Time from one tick to the next.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub interval: Duration,
    /// Folder of the node's key, state and socket. Default: $XDG_STATE_HOME/groundskeeper.
    pub data_dir: Option<PathBuf>,
}

impl Default for Node {
    fn default() -> Self {
        Self { network: USUAL_NETWORK.into(), interval: Duration::from_secs(30), data_dir: None }
    }
}

impl Node {
    pub(super) const BOUNDS: [(&str, Bound); 1] =
        [("interval", Bound::Time(Span::millis(100), Span::hours(1)))];
}

/// The local socket that the command line talks to.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Admin {
    pub enabled: bool,
    /// Path of the socket, at most 100 bytes. Default: admin.sock in the data folder.
    pub socket: Option<PathBuf>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { enabled: true, socket: None }
    }
}

/// The read-only listener for /metrics, /healthz and /readyz.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Telemetry {
    /// Address to serve it on. Off by default; it has no authentication.
    pub listen: Option<SocketAddr>,
}

/// How the node ends.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Shutdown {
    /// For all steps together; what is not done then is cut off.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub deadline: Duration,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}

impl Shutdown {
    pub(super) const BOUNDS: [(&str, Bound); 1] = [("deadline", Bound::Time(Span::secs(1), Span::mins(5)))];
}

/// What a dropped-in phase needs to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Require {
    #[default]
    Nothing,
    /// Its manifest pins the digest of its module.
    Digest,
    /// That, and the manifest is signed.
    Signature,
}

/// Phases that are dropped in, and what all of them together may do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Guests {
    /// Folder of the manifests and modules, relative to this file. Default: phases.d in the data folder.
    pub dir: Option<PathBuf>,
    /// Load phases that are shared libraries. They are not sandboxed: whoever writes them can do what this process can.
    pub allow_native: bool,
    /// Replace those while the node runs too: for whoever writes one. None is ever unloaded.
    pub reload_native: bool,
    /// What a phase needs to be loaded: "nothing"; a "digest" of its module in its manifest; or that and a "signature"
    /// of the manifest, in a file beside it that ends with .minisig.
    pub require: Require,
    /// The key that signatures are checked against, as minisign writes it. There if require is "signature".
    pub public_key: Option<String>,
    /// Connections that all guests together end in one tick, bans included.
    pub disconnects_per_tick: u32,
    /// Connections that all guests together end in any hour. At least disconnects_per_tick.
    pub disconnects_per_hour: u32,
    /// No guest's plan leaves fewer live connections than this, nor fewer healthy ones. Default: pool.least.
    pub floor: Option<u32>,
    /// Connections that all guests together protect at one time; never more than half of those that are live.
    pub protected: u32,
    /// Bans of all guests together that hold at one time.
    pub bans: u32,
    /// Peers that no guest disconnects, bans or lowers the health of, by their ids.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub untouchable: Vec<PeerId>,
}

impl Default for Guests {
    fn default() -> Self {
        let usual = GuestCeilings::default();
        Self {
            dir: None,
            allow_native: false,
            reload_native: false,
            require: Require::Nothing,
            public_key: None,
            disconnects_per_tick: usual.disconnects_per_tick,
            disconnects_per_hour: usual.disconnects_per_hour,
            floor: None,
            protected: usual.protected,
            bans: usual.bans,
            untouchable: usual.untouchable,
        }
    }
}

impl Guests {
    pub(super) const BOUNDS: [(&str, Bound); 5] = [
        ("disconnects_per_tick", Bound::Count(0, 4096)),
        ("disconnects_per_hour", Bound::Count(0, MOST_CONNECTIONS)),
        ("floor", Bound::Count(0, MOST_CONNECTIONS)),
        ("protected", Bound::Count(0, 512)),
        ("bans", Bound::Count(0, 1024)),
    ];

    /// What all of them together may do; `least` is the pool's.
    #[doc(hidden)]
    pub fn ceilings(&self, least: u32) -> GuestCeilings {
        GuestCeilings {
            disconnects_per_tick: self.disconnects_per_tick,
            disconnects_per_hour: self.disconnects_per_hour,
            floor: self.floor.unwrap_or(least),
            protected: self.protected,
            bans: self.bans,
            untouchable: self.untouchable.clone(),
        }
    }
}

/// What is logged to standard error.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
}

/// The least important lines that are logged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// What log lines look like.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Json,
    Pretty,
}
