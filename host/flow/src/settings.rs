//! The config sections `[net]` and `[performance]`. Opens nothing, so a config can be read without a network.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use groundskeeper_base::bootstrap::Bootstrap;
use groundskeeper_base::bounds::{Bound, Span};
use groundskeeper_base::bytes::ByteSize;
use groundskeeper_base::units::{as_bytes, as_span};
use serde::{Deserialize, Serialize};

use crate::{BreakerSettings, OutboxLimits, RetrySettings, TimeoutSettings};

/// The network of a node if its config names none.
pub const USUAL_NETWORK: &str = "groundskeeper";

/// Maximum bytes of a network's name.
pub const MAX_NETWORK: usize = 32;

/// The config's `[net]`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[allow(
    rustdoc::broken_intra_doc_links,
    reason = "the schema shows this text as it is: [] and [::] are values"
)]
pub struct NetSettings {
    /// Addresses to accept connections on; [] accepts none. "[::]" takes IPv4 as well.
    pub listen: Vec<SocketAddr>,
    /// Addresses at which other nodes should reach this one. Empty: the addresses that they observe.
    pub advertise: Vec<SocketAddr>,
    /// Nodes to start with, as "id@host:port". Without an id, any node that answers there is trusted.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<String>"))]
    pub bootstrap: Vec<Bootstrap>,
    /// Accept addresses outside the public internet from peers, and send them to peers.
    pub allow_private: bool,
    /// Longest time for a handshake, after the connection is open.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub handshake_timeout: Duration,
    /// Longest time that this node's handlers may take to answer a request.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub request_timeout: Duration,
    /// Bytes per second that are read from one peer.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub bytes_per_second_per_peer: u64,
    /// Broadcasts and one-way messages that are taken from one peer per second. The rest is dropped. Their digests
    /// and handlers may use at most a tenth of each second.
    pub broadcasts_per_second_per_peer: u32,
    /// Bytes that may wait to be sent to one peer. At least max_frame.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub queue_bytes: usize,
    /// The largest frame that is accepted or sent.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_frame: usize,
}

impl Default for NetSettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), 7420)],
            advertise: Vec::new(),
            bootstrap: Vec::new(),
            allow_private: false,
            handshake_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(10),
            bytes_per_second_per_peer: 4 << 20,
            // What bytes_per_second_per_peer lets in if each has 1 KiB: larger ones wait at the sender and are not dropped.
            broadcasts_per_second_per_peer: 4096,
            queue_bytes: OutboxLimits::default().data_bytes,
            max_frame: 1 << 20,
        }
    }
}

impl NetSettings {
    /// The ranges of its keys.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 6] = [
        ("handshake_timeout", Bound::Time(Span::millis(500), Span::mins(1))),
        ("request_timeout", Bound::Time(Span::millis(100), Span::mins(5))),
        ("bytes_per_second_per_peer", Bound::Size(ByteSize::kib(16), ByteSize::gib(16))),
        ("broadcasts_per_second_per_peer", Bound::Count(1, 1_000_000)),
        ("queue_bytes", Bound::Size(ByteSize::kib(64), ByteSize::gib(1))),
        ("max_frame", Bound::Size(ByteSize::kib(4), ByteSize::mib(64))),
    ];
}

/// How the node behaves under load.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Performance {
    /// Always true: there is no other mode. The key is kept for configs that set it.
    pub enable_lock_free: bool,
    /// Limits of requests and send queues.
    pub backpressure: Backpressure,
    /// When requests of one kind to a peer that fails them are stopped.
    pub circuit_breaker: BreakerSettings,
    /// Retries of requests that allow them.
    pub retry: RetrySettings,
    /// By kind of request; "default" applies to all other kinds.
    pub timeouts: BTreeMap<String, TimeoutSettings>,
}

/// Limits of requests and send queues.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Backpressure {
    /// Requests of this node that may be open at once, over all peers.
    #[cfg_attr(feature = "schema", schemars(with = "u32"))]
    pub max_pending: usize,
    /// Requests overtake broadcasts, broadcasts overtake bulk. Off: all are sent in the order they were queued.
    pub enable_priority: bool,
    /// Fraction of queue_budget above which bulk frames are refused and dropped, and soon after broadcasts.
    pub memory_pressure_threshold: f64,
    /// Bytes that all send queues together may hold. Large frames that are being received may hold as much again.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub queue_budget: usize,
}

impl Default for Performance {
    fn default() -> Self {
        Self {
            enable_lock_free: true,
            backpressure: Backpressure::default(),
            circuit_breaker: BreakerSettings::default(),
            retry: RetrySettings::default(),
            timeouts: [(Self::ALL_KINDS.to_owned(), TimeoutSettings::default().for_all_kinds())].into(),
        }
    }
}

impl Performance {
    /// The name of the time-outs for request kinds without their own.
    pub const ALL_KINDS: &str = "default";

    /// The same, with a least time-out for each kind.
    #[doc(hidden)]
    #[must_use]
    pub fn resolved(mut self) -> Self {
        let all = self.timeouts.entry(Self::ALL_KINDS.to_owned()).or_default();
        *all = all.for_all_kinds();
        for timeout in self.timeouts.values_mut() {
            timeout.least = timeout.least.or(Some(timeout.base));
        }
        self
    }
}

impl Default for Backpressure {
    fn default() -> Self {
        Self {
            max_pending: 10_000,
            enable_priority: true,
            memory_pressure_threshold: 0.8,
            queue_budget: 64 << 20,
        }
    }
}

impl Backpressure {
    /// The ranges of its keys.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 3] = [
        ("max_pending", Bound::Count(1, 1_000_000)),
        ("memory_pressure_threshold", Bound::Fraction(0.1, 1.0)),
        ("queue_budget", Bound::Size(ByteSize::mib(1), ByteSize::gib(64))),
    ];
}
