//! The sections that no other crate reads: their keys, defaults and ranges.
//!
//! The doc comments here become the descriptions in the JSON schema.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::bytes::ByteSize;
use groundskeeper_base::paths;
use groundskeeper_base::peer::PeerId;
use groundskeeper_base::units::{as_bytes, as_span};
use groundskeeper_engine::policy::GuestCeilings;
use groundskeeper_flow::USUAL_NETWORK;
use groundskeeper_pool::settings::MOST_CONNECTIONS;
use serde::{Deserialize, Serialize};

/// The identity of the node and the time between its ticks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Name of the network. The node never connects to nodes of other networks. 1 to 32 characters of a-z, 0-9 and "-".
    pub network: String,
    /// Time from one tick to the next.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub interval: Duration,
    /// Folder of the node's key, state and socket. Default: $XDG_STATE_HOME/groundskeeper.
    #[serde(serialize_with = "paths::lossy_option")]
    pub data_dir: Option<PathBuf>,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self { network: USUAL_NETWORK.into(), interval: Duration::from_secs(30), data_dir: None }
    }
}

impl NodeSettings {
    pub(super) const BOUNDS: [(&str, Bound); 1] =
        [("interval", Bound::Time(Span::millis(100), Span::hours(1)))];
}

/// The local socket for the command line.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct AdminSection {
    /// Whether the node opens the socket.
    pub enabled: bool,
    /// Path of the socket. Default: admin.sock in the data folder.
    #[serde(serialize_with = "paths::lossy_option")]
    pub socket: Option<PathBuf>,
}

impl Default for AdminSection {
    fn default() -> Self {
        Self { enabled: true, socket: None }
    }
}

/// The read-only listener for /metrics, /healthz and /readyz.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// Address of the listener. Off by default. It has no authentication.
    pub listen: Option<SocketAddr>,
}

/// How the node shuts down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ShutdownSettings {
    /// Time for all steps together. Steps that take longer are cut off.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub deadline: Duration,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(10) }
    }
}

impl ShutdownSettings {
    pub(super) const BOUNDS: [(&str, Bound); 1] = [("deadline", Bound::Time(Span::secs(1), Span::mins(5)))];
}

/// What the host requires to load a phase from the drop-in folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum TrustRequirement {
    /// The manifest needs no signature, and no digest unless the phase is native.
    #[default]
    Nothing,
    /// The manifest must name the digest of its module.
    Digest,
    /// The manifest must also be signed.
    Signature,
}

/// Phases in the drop-in folder, and what all of them may do together.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct GuestSettings {
    /// Folder of the manifests and modules, relative to this file. Default: phases.d in the data folder.
    #[serde(serialize_with = "paths::lossy_option")]
    pub dir: Option<PathBuf>,
    /// Load phases that are shared libraries. They have no sandbox and can do everything that this process can do.
    pub allow_native: bool,
    /// Also replace native phases while the node runs, for their authors. A library is never unloaded.
    pub reload_native: bool,
    /// What the host requires to load a phase: "nothing"; "digest": its manifest names the digest of its module;
    /// "signature": the manifest is also signed, in a file beside it that ends with .minisig.
    pub require: TrustRequirement,
    /// The public key for signatures, as minisign writes it. Needed if require is "signature".
    pub public_key: Option<String>,
    /// Connections that all guests together may end in one tick, bans included.
    pub disconnects_per_tick: u32,
    /// Connections that all guests together may end in any hour, bans included. At least disconnects_per_tick.
    pub disconnects_per_hour: u32,
    /// No guest's plan may leave fewer live connections than this, or fewer healthy ones. Default: pool.least.
    pub floor: Option<u32>,
    /// Connections that all guests together may protect at one time. Never more than half of the live ones.
    pub protected: u32,
    /// Bans of all guests together that may be active at one time.
    pub bans: u32,
    /// Ids of peers that no guest may disconnect or ban. No guest may lower their health either.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub untouchable: Vec<PeerId>,
    /// Bytes of log lines that all guests together may write in one tick. The rest is counted and dropped.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub log_bytes_per_tick: u64,
}

impl Default for GuestSettings {
    fn default() -> Self {
        let usual = GuestCeilings::default();
        Self {
            dir: None,
            allow_native: false,
            reload_native: false,
            require: TrustRequirement::Nothing,
            public_key: None,
            disconnects_per_tick: usual.disconnects_per_tick,
            disconnects_per_hour: usual.disconnects_per_hour,
            floor: None,
            protected: usual.protected,
            bans: usual.bans,
            untouchable: usual.untouchable,
            log_bytes_per_tick: usual.log_bytes_per_tick,
        }
    }
}

impl GuestSettings {
    pub(super) const BOUNDS: [(&str, Bound); 6] = [
        ("disconnects_per_tick", Bound::Count(0, 4096)),
        ("disconnects_per_hour", Bound::Count(0, MOST_CONNECTIONS)),
        ("floor", Bound::Count(0, MOST_CONNECTIONS)),
        ("protected", Bound::Count(0, 512)),
        ("bans", Bound::Count(0, 1024)),
        ("log_bytes_per_tick", Bound::Size(ByteSize::kib(4), ByteSize::mib(16))),
    ];

    /// What all guests may do together; `least` is `pool.least`.
    #[doc(hidden)]
    pub fn ceilings(&self, least: u32) -> GuestCeilings {
        GuestCeilings {
            disconnects_per_tick: self.disconnects_per_tick,
            disconnects_per_hour: self.disconnects_per_hour,
            floor: self.floor.unwrap_or(least),
            protected: self.protected,
            bans: self.bans,
            untouchable: self.untouchable.clone(),
            log_bytes_per_tick: self.log_bytes_per_tick,
        }
    }
}

/// What the node logs to standard error.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The lowest level that is logged.
    pub level: LogLevel,
    /// The format of log lines.
    pub format: LogFormat,
}

/// The lowest level that is logged.
#[expect(missing_docs, reason = "the type says what a level does; the names are those of tracing")]
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// The format of log lines.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Pretty on a terminal, JSON elsewhere.
    #[default]
    Auto,
    /// One JSON object per line.
    Json,
    /// Text, with colours on a terminal.
    Pretty,
}
