//! What a manifest allows a phase: grants with their ceilings, limits of a run, settings of the circuit breaker. Plans
//! are checked elsewhere.

use std::time::Duration;

use groundskeeper_sdk::contract::Interface;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use groundskeeper_base::bounds::Bound;
use groundskeeper_base::peer::PeerId;
use groundskeeper_base::units::{as_bytes, as_span};

/// Whether the host applies the asks of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The host applies its asks, up to its grants.
    #[default]
    Enforce,
    /// Runs as usual. Every ask is journalled; none is applied.
    Shadow,
    /// Does not run.
    Off,
}

/// Who is responsible for a phase. Decides which rules apply besides its grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Built in, or from the embedding application. Only its own circuit breaker can stop it.
    Host,
    /// Loaded from the drop-in folder. The node-wide budget, the floor and quarantine apply to it.
    Guest,
}

/// What a phase may read and ask for. `None` and `false` mean "not granted"; a number is the highest allowed value.
///
/// The fields are the contract's interfaces that need a grant, in the contract's order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Reads the connections.
    pub peers: bool,
    /// Reads the address book.
    pub book: bool,
    /// Reads how many broadcasts the node remembers.
    pub broadcasts: bool,
    /// Ends connections.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<DisconnectGrant>"))]
    pub disconnect: Option<DisconnectGrant>,
    /// Changes the health of peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<HealthGrant>"))]
    pub health: Option<HealthGrant>,
    /// Pings peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<PingGrant>"))]
    pub ping: Option<PingGrant>,
    /// Dials and probes addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<DialGrant>"))]
    pub dial: Option<DialGrant>,
    /// Prevents other phases from disconnecting peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<ProtectGrant>"))]
    pub protect: Option<ProtectGrant>,
    /// Ends connections and refuses the peers for a while. Each ban counts as a disconnect too.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<BanGrant>"))]
    pub ban: Option<BanGrant>,
    /// Clears old broadcasts and addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<ForgetGrant>"))]
    pub forget: Option<ForgetGrant>,
    /// May ask to run again sooner.
    pub cadence: bool,
    /// Stores bytes from one run to the next.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<MemoryGrant>"))]
    pub memory: Option<MemoryGrant>,
    /// Reports its own metrics.
    pub metrics: bool,
}

/// How a grant with ceilings is written, for the schema: `true` for the default ceilings, or a table of ceilings.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Ceilings<T> {
    Usual(bool),
    Own(T),
}

/// How many connections a phase may end, bans included.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DisconnectGrant {
    /// Disconnects in one tick, urgent beats after it included.
    pub max_per_tick: u32,
    /// Disconnects in any hour. At least max_per_tick.
    pub max_per_hour: u32,
    /// The phase disconnects no peer if fewer live connections than this would be left.
    pub min_connections_left: u32,
}

impl Default for DisconnectGrant {
    /// Two per tick can be replaced before the next tick. Twenty per hour replace a pool of eight, and are visible in
    /// every graph long before they isolate a node. Below eight connections the reconnect phase would dial as fast as
    /// this phase disconnects.
    fn default() -> Self {
        Self { max_per_tick: 2, max_per_hour: 20, min_connections_left: 8 }
    }
}

/// How far a phase may change the health of peers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HealthGrant {
    /// Points by which it changes the health of one peer in any hour, up and down together.
    pub max_delta_per_peer_per_hour: u32,
    /// It lowers no peer's health below this. Default: the lowest health that still counts as healthy (31, one above
    /// pool.healthy_above), so that a guest makes a peer unhealthy only if this value allows it.
    pub floor: Option<u32>,
}

impl Default for HealthGrant {
    /// Half of the scale per hour.
    fn default() -> Self {
        Self { max_delta_per_peer_per_hour: 50, floor: None }
    }
}

/// How many peers a phase may ping.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PingGrant {
    /// Pinged peers (not asks) in one tick.
    pub max_per_tick: u32,
}

impl Default for PingGrant {
    /// About 10 KB of traffic per tick.
    fn default() -> Self {
        Self { max_per_tick: 256 }
    }
}

/// How many addresses a phase may dial or probe, and which.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DialGrant {
    /// Dials and probes together, in one tick.
    pub max_per_tick: u32,
    /// Which addresses it may dial.
    pub from: DialFrom,
}

impl Default for DialGrant {
    /// A quarter of what the reconnect phase starts at once, so that exploring does not displace reconnecting.
    fn default() -> Self {
        Self { max_per_tick: 2, from: DialFrom::Book }
    }
}

/// Which addresses a phase may dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DialFrom {
    /// Those in the address book. There is no other choice yet.
    #[default]
    Book,
}

/// How many peers a phase may protect, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ProtectGrant {
    /// Peers that this phase protects at one time.
    pub max_active: u32,
    /// Longer requests are shortened to this.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_duration: Duration,
}

impl Default for ProtectGrant {
    /// Enough for a phase to keep its best peers, and short enough to end soon after the phase stops asking.
    fn default() -> Self {
        Self { max_active: 16, max_duration: HOUR }
    }
}

/// A ban ends a connection, so it counts as a disconnect too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BanGrant {
    /// Bans of this phase that are active at one time.
    pub max_active: u32,
    /// Longer requests are shortened to this.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_duration: Duration,
}

impl Default for BanGrant {
    /// A wrong ban expires within an hour, and eight bans do not empty an address book.
    fn default() -> Self {
        Self { max_active: 8, max_duration: HOUR }
    }
}

/// How many broadcasts and addresses a phase may forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ForgetGrant {
    /// Forgotten entries (not asks) in one tick.
    pub max_per_tick: u32,
    /// Entries that must remain in the table.
    pub min_left: u32,
}

impl Default for ForgetGrant {
    /// Forgotten addresses return slowly: an answer holds eight addresses, so a node needs eight answers for 64.
    fn default() -> Self {
        Self { max_per_tick: 64, min_left: 64 }
    }
}

/// How many bytes a phase may store from one run to the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct MemoryGrant {
    /// A run that stores more fails.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_bytes: usize,
}

impl Default for MemoryGrant {
    /// Holds a number for each of a thousand peers as JSON, and is small enough to write to disk after any tick.
    fn default() -> Self {
        Self { max_bytes: 64 << 10 }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Grants {
    /// Whether the phase may call functions of this interface. Interfaces that need no grant are always allowed.
    pub fn allows(&self, interface: Interface) -> bool {
        match interface {
            Interface::Peers => self.peers,
            Interface::Book => self.book,
            Interface::Broadcasts => self.broadcasts,
            Interface::Disconnect => self.disconnect.is_some(),
            Interface::Health => self.health.is_some(),
            Interface::Ping => self.ping.is_some(),
            Interface::Dial => self.dial.is_some(),
            Interface::Protect => self.protect.is_some(),
            Interface::Ban => self.ban.is_some(),
            Interface::Forget => self.forget.is_some(),
            Interface::Cadence => self.cadence,
            Interface::Memory => self.memory.is_some(),
            Interface::Metrics => self.metrics,
            Interface::Types | Interface::Log | Interface::Lifecycle => true,
        }
    }

    /// Every grant, with its default ceilings.
    pub fn everything() -> Self {
        Self {
            peers: true,
            book: true,
            broadcasts: true,
            disconnect: Some(DisconnectGrant::default()),
            health: Some(HealthGrant::default()),
            ping: Some(PingGrant::default()),
            dial: Some(DialGrant::default()),
            protect: Some(ProtectGrant::default()),
            ban: Some(BanGrant::default()),
            forget: Some(ForgetGrant::default()),
            cadence: true,
            memory: Some(MemoryGrant::default()),
            metrics: true,
        }
    }

    /// The line of `[grants]` that grants an interface with its default ceilings, like `ping = { max_per_tick = 256 }`.
    /// None if the interface needs no grant.
    pub fn line(interface: Interface) -> Option<String> {
        let everything = serde_json::to_value(Self::everything()).ok()?;
        let granted = match everything.get(interface.name())? {
            Value::Object(ceilings) => {
                let named = ceilings.iter().filter(|(_, ceiling)| !ceiling.is_null());
                let ceilings: Vec<_> = named.map(|(name, ceiling)| format!("{name} = {ceiling}")).collect();
                format!("{{ {} }}", ceilings.join(", "))
            }
            yes => yes.to_string(),
        };
        Some(format!("{interface} = {granted}"))
    }
}

/// What one run of a guest may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Instructions, roughly. The count is the same on every machine.
    pub fuel: u64,
    /// Wall time, a second limit in case the fuel limit is not enough.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub wall: Duration,
    /// Size of its linear memory.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub memory: u64,
    /// Log lines in one run. The rest is counted and dropped.
    pub log_lines: u32,
    /// Longer log lines are cut.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub log_line_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 50 million instructions take 20 to 50 ms on a current machine: what a phase may cost per tick.
        Self {
            fuel: 50_000_000,
            wall: Duration::from_millis(250),
            memory: 16 << 20,
            log_lines: 20,
            log_line_bytes: 2048,
        }
    }
}

/// Settings of a guest's circuit breaker, which counts due runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OnFailure {
    /// Failures in a row that open the circuit breaker.
    pub trip_after: u32,
    /// Due runs that the open breaker skips the first time. Doubles each time it opens.
    pub pause: u32,
    /// The phase is quarantined when the breaker would open this many times in a row.
    pub quarantine_after: u32,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { trip_after: 3, pause: 1, quarantine_after: 4 }
    }
}

/// Settings of a built-in phase's circuit breaker, which counts due runs. A built-in phase is never quarantined.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HostOnFailure {
    /// Failures in a row that open the circuit breaker.
    pub trip_after: u32,
    /// Due runs that the open breaker skips the first time. Doubles each time it opens.
    pub pause: u32,
}

impl HostOnFailure {
    /// The allowed range of each key.
    #[doc(hidden)]
    pub const BOUNDS: [(&str, Bound); 2] =
        [("trip_after", Bound::Count(1, 100)), ("pause", Bound::Count(1, 1000))];
}

impl Default for HostOnFailure {
    fn default() -> Self {
        let OnFailure { trip_after, pause, .. } = OnFailure::default();
        Self { trip_after, pause }
    }
}

impl From<HostOnFailure> for OnFailure {
    fn from(HostOnFailure { trip_after, pause }: HostOnFailure) -> Self {
        Self { trip_after, pause, ..Self::default() }
    }
}

/// How long one instance of a guest lives.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Instance {
    /// One run: no state leaks into the next run.
    #[default]
    Fresh,
    /// Up to `max_runs` runs: for guests that are slow to start. Its state may be lost between any two runs.
    Persistent { max_runs: u32 },
}

/// What all guests of a node may do together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestCeilings {
    /// Connections that they may end in one tick, bans included.
    pub disconnects_per_tick: u32,
    /// Connections that they may end in any hour, bans included.
    pub disconnects_per_hour: u32,
    /// No guest's plan may leave fewer live connections than this, or fewer healthy ones.
    pub floor: u32,
    /// Connections that they may protect at one time.
    pub protected: u32,
    /// Bans of theirs that may be active at one time.
    pub bans: u32,
    /// Peers that no guest may disconnect or ban, and whose health no guest may lower.
    pub untouchable: Vec<PeerId>,
    /// Bytes of log lines that they may write in one tick.
    pub log_bytes_per_tick: u64,
}

impl Default for GuestCeilings {
    /// Compared with the default grants of one guest: twice the disconnects, four times the protected peers, eight
    /// times the bans.
    fn default() -> Self {
        Self {
            disconnects_per_tick: 4,
            disconnects_per_hour: 40,
            floor: 5,
            protected: 64,
            bans: 64,
            untouchable: Vec::new(),
            // At a tick of 30 s some 180 MB a day at worst: an unattended disk survives a week of it.
            log_bytes_per_tick: 64 << 10,
        }
    }
}

/// Maximum length of a phase's name, in characters.
#[doc(hidden)]
pub const MOST_PHASE_NAME: usize = 40;

/// Whether `name` is a valid phase name: 1 to 40 characters of a-z, 0-9 and "-".
#[doc(hidden)]
pub fn is_phase_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MOST_PHASE_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// Bytes that a built-in phase or a phase of the application may store from one run to the next.
#[doc(hidden)]
pub const MEMORY_BYTES: usize = 64 * 1024;
