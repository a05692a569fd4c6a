//! The config as it is written: every key with its default. Checks nothing but types.
//!
//! The comments here become the descriptions of the JSON schema.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::span::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, DeserializeOwned, SeqAccess, Visitor, value::SeqAccessDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use super::bootstrap::Bootstrap;
use super::bytes::Bytes;
use crate::peer::PeerId;

#[derive(Clone, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "groundskeeper.toml")]
pub(super) struct Raw {
    pub node: Node,
    pub pool: Pool,
    pub net: Net,
    pub book: Book,
    pub broadcasts: Broadcasts,
    pub journal: Journal,
    pub performance: super::performance::Raw,
    pub admin: Admin,
    pub telemetry: Telemetry,
    pub shutdown: Shutdown,
    pub log: Log,
    pub guests: Guests,
    pub phases: Phases,
}

/// Who the node is and how often it beats.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Node {
    /// Name of the network. Nodes of other networks are never connected to. 1 to 32 of a-z, 0-9 and "-".
    pub network: String,
    /// Time from one tick to the next.
    #[schemars(with = "String")]
    pub interval: Span,
    /// Folder of the node's key, state and socket. Default: $XDG_STATE_HOME/groundskeeper.
    pub data_dir: Option<PathBuf>,
}

/// How many connections there may be.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Pool {
    /// Connections in all; memory for them is reserved at the start.
    pub max_connections: u32,
    /// Connections that others opened. Default: seven eighths of max_connections, so that there is always room to dial.
    pub max_inbound: Option<u32>,
    /// Connections that this node opened. Default: max_connections.
    pub max_outbound: Option<u32>,
    /// Connections to one IPv4 /16 or IPv6 /32. Default: 64, or max_connections with net.allow_private.
    pub max_per_group: Option<u32>,
    /// Incoming handshakes in flight.
    pub max_handshakes: u32,
    /// Connections that no phase but the reaper goes below.
    pub least: u32,
    /// Connections that phases do not dial beyond. Default: max_connections.
    pub most: Option<u32>,
    /// A connection with more health than this (0 to 100) counts as healthy.
    pub healthy_above: u32,
}

/// Addresses and the limits of one connection.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Net {
    /// Addresses to accept connections on; [] accepts none. "[::]" takes IPv4 as well.
    pub listen: Vec<SocketAddr>,
    /// Addresses that others are told to reach this node at. Empty: what they observe.
    pub advertise: Vec<SocketAddr>,
    /// Nodes to begin with, as "id@host:port". Without an id whoever answers there is trusted.
    #[schemars(with = "Vec<String>")]
    pub bootstrap: Vec<Bootstrap>,
    /// Take addresses outside the public internet from others, and tell them to others.
    pub allow_private: bool,
    /// For connecting and shaking hands together.
    #[schemars(with = "String")]
    pub handshake_timeout: Span,
    /// How long an answer to a request may take.
    #[schemars(with = "String")]
    pub request_timeout: Span,
    /// Bytes a second that are read from one peer.
    #[schemars(with = "String")]
    pub bytes_per_second_per_peer: Bytes,
    /// Bytes that may wait to be sent to one peer. At least max_frame.
    #[schemars(with = "String")]
    pub queue_bytes: Bytes,
    /// The largest frame that is accepted or sent.
    #[schemars(with = "String")]
    pub max_frame: Bytes,
}

/// The addresses this node knows.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Book {
    /// Addresses in all.
    pub capacity: u32,
    /// Addresses that peers of one network group may have told. At most capacity.
    pub per_source_group: u32,
    /// The first wait after a failure is random up to this, each further one up to twice the last.
    #[schemars(with = "String")]
    pub backoff_first: Span,
    /// No wait is longer. At least backoff_first.
    #[schemars(with = "String")]
    pub backoff_most: Span,
    /// A connection clears its address' failures only if it lived this long.
    #[schemars(with = "String")]
    pub min_life: Span,
}

/// The memory of broadcasts, and how many this node may send.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Broadcasts {
    /// Broadcasts remembered, about 60 bytes each.
    pub held: u32,
    /// Broadcasts of its own that the node may send in one window.
    pub per_window: u32,
    #[schemars(with = "String")]
    pub window: Span,
}

/// The record of every action.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Journal {
    /// Disconnects, bans, dials and probes kept in memory, about 300 bytes each.
    pub notable: u32,
    /// Other records kept in memory.
    pub chatter: u32,
    /// A file for all records as JSON lines, relative to the data folder. None by default.
    pub file: Option<PathBuf>,
    /// The file turns over at this size; one older file is kept.
    #[schemars(with = "String")]
    pub file_max: Bytes,
}

/// The local socket that the command line talks to.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Admin {
    pub enabled: bool,
    /// Path of the socket, at most 100 bytes. Default: admin.sock in the data folder.
    pub socket: Option<PathBuf>,
}

/// The read-only listener for /metrics, /healthz and /readyz.
#[derive(Clone, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Telemetry {
    /// Address to serve it on. Off by default; it has no authentication.
    pub listen: Option<SocketAddr>,
}

/// How the node ends.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Shutdown {
    /// For all steps together; what is not done then is cut off.
    #[schemars(with = "String")]
    pub deadline: Span,
}

/// What a dropped-in phase needs to be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Guests {
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
    #[schemars(with = "Vec<String>")]
    pub untouchable: Vec<PeerId>,
}

/// What is logged to standard error.
#[derive(Clone, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    pub level: Level,
    pub format: LogFormat,
}

/// The least important lines that are logged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

/// What log lines look like.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people on a terminal, JSON elsewhere.
    #[default]
    Auto,
    Json,
    Pretty,
}

/// The four built-in phases.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Phases {
    /// Pings quiet peers and disconnects silent ones.
    #[schemars(with = "Phase<Described<Reaper>>")]
    pub reaper: Phase<Reaper>,
    /// Dials known addresses while there are too few connections.
    #[schemars(with = "Phase<Described<Reconnect>>")]
    pub reconnect: Phase<Reconnect>,
    /// Forgets old broadcasts.
    #[schemars(with = "Phase<Described<BroadcastCleanup>>")]
    pub broadcast_cleanup: Phase<BroadcastCleanup>,
    /// Forgets addresses that nobody names any more.
    #[schemars(with = "Phase<Described<ExchangeCleanup>>")]
    pub exchange_cleanup: Phase<ExchangeCleanup>,
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields, bound(deserialize = "S: Default + DeserializeOwned"))]
#[schemars(bound = "S: Default + Serialize + JsonSchema")]
pub(super) struct Phase<S> {
    /// Whether it runs at all.
    pub enabled: bool,
    /// When it runs.
    pub schedule: Schedule,
    /// What it decides by.
    pub settings: S,
}

#[derive(Clone, Default, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Schedule {
    /// Runs at each n-th tick (1 to 1051200), or a list of steps of which the first that fits holds.
    #[schemars(schema_with = "cadence_schema")]
    pub every_n_ticks: Option<EveryNTicks>,
    /// Ticks by which its runs are moved, less than every_n_ticks.
    pub offset: Option<u32>,
    /// What wakes it between two ticks: "isolated" when the last connection ends.
    pub wake_on: Option<Vec<WakeOn>>,
    /// Phases that run before it when both are due.
    pub after: Option<Vec<String>>,
    /// Phases that run after it when both are due.
    pub before: Option<Vec<String>>,
    /// Runs at the first tick as well, whenever it ran last.
    pub run_on_start: Option<bool>,
}

/// What wakes a phase between two ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WakeOn {
    /// No connection is live.
    Isolated,
}

/// A number of ticks, or steps by the number of connections.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum EveryNTicks {
    Number(u32),
    Steps(Vec<Step>),
}

/// One step of an adaptive cadence: holds while there are fewer than `below_connections`, always if it names none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub below_connections: Option<u32>,
    pub every_n_ticks: u32,
}

/// By hand, because serde's untagged enums answer every mistake with "did not match any variant".
impl<'de> Deserialize<'de> for EveryNTicks {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NumberOrSteps;
        impl<'de> Visitor<'de> for NumberOrSteps {
            type Value = EveryNTicks;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of ticks, or a list of { below_connections, every_n_ticks }")
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<EveryNTicks, E> {
                let n = u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
                Ok(EveryNTicks::Number(n))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<EveryNTicks, E> {
                let n = u32::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Unsigned(n), &self))?;
                Ok(EveryNTicks::Number(n))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, steps: A) -> Result<EveryNTicks, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(steps)).map(EveryNTicks::Steps)
            }
        }
        from.deserialize_any(NumberOrSteps)
    }
}

fn cadence_schema(_: &mut SchemaGenerator) -> Schema {
    let number = json_schema!({ "type": "integer", "minimum": 1, "maximum": super::bounds::MOST_TICKS });
    json_schema!({ "anyOf": [number, {
        "type": "array",
        "items": {
            "type": "object",
            "properties": { "below_connections": { "type": "integer", "minimum": 1 }, "every_n_ticks": number },
            "required": ["every_n_ticks"],
            "additionalProperties": false,
        },
    }] })
}

/// Stands for the settings of a built-in phase in the schema, where its type knows nothing of schemas: keys, types and
/// defaults are read off its default.
#[derive(Default, Serialize)]
#[serde(transparent)]
struct Described<S>(S);

impl<S: Default + Serialize> JsonSchema for Described<S> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        std::any::type_name::<S>().rsplit("::").next().unwrap_or("Settings").to_owned().into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let defaults = serde_json::to_value(S::default()).expect("settings are plain data");
        let properties: serde_json::Map<String, serde_json::Value> = defaults
            .as_object()
            .expect("settings are a struct")
            .iter()
            .map(|(key, value)| {
                let kind = if value.is_string() { "string" } else { "integer" };
                (key.clone(), serde_json::json!({ "type": kind, "default": value }))
            })
            .collect();
        json_schema!({ "type": "object", "properties": properties, "additionalProperties": false })
    }
}

impl Default for Node {
    fn default() -> Self {
        Self { network: "groundskeeper".into(), interval: Span::secs(30), data_dir: None }
    }
}

impl Default for Pool {
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

impl Default for Net {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), 7420)],
            advertise: Vec::new(),
            bootstrap: Vec::new(),
            allow_private: false,
            handshake_timeout: Span::secs(5),
            request_timeout: Span::secs(10),
            bytes_per_second_per_peer: Bytes::mib(4),
            queue_bytes: Bytes::mib(4),
            max_frame: Bytes::mib(1),
        }
    }
}

impl Default for Book {
    fn default() -> Self {
        Self {
            capacity: 4096,
            per_source_group: 256,
            backoff_first: Span::secs(5),
            backoff_most: Span::hours(1),
            min_life: Span::secs(60),
        }
    }
}

impl Default for Broadcasts {
    fn default() -> Self {
        Self { held: 65_536, per_window: 600, window: Span::secs(60) }
    }
}

impl Default for Journal {
    fn default() -> Self {
        Self { notable: 8192, chatter: 4096, file: None, file_max: Bytes::mib(64) }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { enabled: true, socket: None }
    }
}

impl Default for Guests {
    fn default() -> Self {
        Self {
            dir: None,
            allow_native: false,
            reload_native: false,
            require: Require::Nothing,
            public_key: None,
            disconnects_per_tick: 4,
            disconnects_per_hour: 40,
            floor: None,
            protected: 64,
            bans: 64,
            untouchable: Vec::new(),
        }
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { deadline: Span::secs(10) }
    }
}

impl<S: Default> Default for Phase<S> {
    fn default() -> Self {
        Self { enabled: true, schedule: Schedule::default(), settings: S::default() }
    }
}

impl<S: Default> Phase<S> {
    fn running(every_n_ticks: EveryNTicks, wake_on: Vec<WakeOn>) -> Self {
        let schedule = Schedule {
            every_n_ticks: Some(every_n_ticks),
            offset: Some(0),
            wake_on: Some(wake_on),
            after: Some(Vec::new()),
            before: Some(Vec::new()),
            run_on_start: Some(false),
        };
        Self { schedule, ..Self::default() }
    }
}

impl Default for Phases {
    fn default() -> Self {
        let steps = [(Some(5), 1), (Some(8), 2), (None, 4)];
        let steps = steps.map(|(below_connections, every_n_ticks)| Step { below_connections, every_n_ticks });
        Self {
            reaper: Phase::running(EveryNTicks::Number(1), Vec::new()),
            reconnect: Phase::running(EveryNTicks::Steps(steps.into()), vec![WakeOn::Isolated]),
            broadcast_cleanup: Phase::running(EveryNTicks::Number(2), Vec::new()),
            exchange_cleanup: Phase::running(EveryNTicks::Number(120), Vec::new()),
        }
    }
}

impl Schedule {
    /// What was written, and `usual` for the rest.
    pub fn or(self, usual: Schedule) -> Schedule {
        Schedule {
            every_n_ticks: self.every_n_ticks.or(usual.every_n_ticks),
            offset: self.offset.or(usual.offset),
            wake_on: self.wake_on.or(usual.wake_on),
            after: self.after.or(usual.after),
            before: self.before.or(usual.before),
            run_on_start: self.run_on_start.or(usual.run_on_start),
        }
    }
}
