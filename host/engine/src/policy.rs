//! What a manifest lets a phase do: grants with their ceilings, limits of a run, the breaker's numbers. Checks no plan.

use std::time::Duration;

use groundskeeper_sdk::contract::Interface;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use groundskeeper_base::peer::PeerId;
use groundskeeper_base::units::{as_bytes, as_span};

/// Whether the asks of a phase become effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// What it asks for is done, up to its grants.
    #[default]
    Enforce,
    /// Runs as usual; every ask is journalled and none is applied.
    Shadow,
    /// Does not run.
    Off,
}

/// Who answers for a phase, and so which rules stand above its grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Trust {
    /// Built in, or the embedding application's own: only its own breaker holds it back.
    Host,
    /// Dropped in: the node-wide budget, the floor and quarantine hold for it.
    Guest,
}

/// What a phase may read and ask for; `None` and `false` are "not granted". A number is the most that is allowed.
///
/// Its fields are the contract's interfaces that need a grant, in the contract's order.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Reads the connections.
    pub peers: bool,
    /// Reads the address book.
    pub book: bool,
    /// Reads how many broadcasts are remembered.
    pub broadcasts: bool,
    /// Ends connections.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<DisconnectGrant>"))]
    pub disconnect: Option<DisconnectGrant>,
    /// Moves the health of peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<HealthGrant>"))]
    pub health: Option<HealthGrant>,
    /// Pings peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<PingGrant>"))]
    pub ping: Option<PingGrant>,
    /// Dials and probes addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<DialGrant>"))]
    pub dial: Option<DialGrant>,
    /// Keeps other phases from disconnecting peers.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<ProtectGrant>"))]
    pub protect: Option<ProtectGrant>,
    /// Ends connections and keeps the peers out for a while. Each counts as a disconnect too.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<BanGrant>"))]
    pub ban: Option<BanGrant>,
    /// Clears old broadcasts and addresses.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<ForgetGrant>"))]
    pub forget: Option<ForgetGrant>,
    /// May ask to run again sooner.
    pub cadence: bool,
    /// Keeps bytes from run to run.
    #[cfg_attr(feature = "schema", schemars(with = "Ceilings<MemoryGrant>"))]
    pub memory: Option<MemoryGrant>,
    /// Reports numbers of its own.
    pub metrics: bool,
}

/// How a grant with ceilings is written, for the schema: `true` with the usual ceilings, or a table of them.
#[cfg(feature = "schema")]
#[derive(schemars::JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Ceilings<T> {
    Usual(bool),
    Own(T),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DisconnectGrant {
    /// In one tick, urgent beats after it included.
    pub max_per_tick: u32,
    /// In any hour. At least max_per_tick.
    pub max_per_hour: u32,
    /// None of its disconnects leaves fewer live connections than this.
    pub min_connections_left: u32,
}

impl Default for DisconnectGrant {
    /// Two a tick can be replaced before the next; twenty an hour turn a pool of eight over, and show in every graph
    /// long before they isolate anybody; below eight connections the reconnect phase would dial as fast as this ends.
    fn default() -> Self {
        Self { max_per_tick: 2, max_per_hour: 20, min_connections_left: 8 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct HealthGrant {
    /// Points that it moves one peer in any hour, up and down together.
    pub max_delta_per_peer_per_hour: u32,
    /// It lowers nobody below this. Default: the lowest health that still counts as healthy (31, one above
    /// pool.healthy_above), so that no guest makes a peer unhealthy unless told so.
    pub floor: Option<u32>,
}

impl Default for HealthGrant {
    /// Half of the scale an hour.
    fn default() -> Self {
        Self { max_delta_per_peer_per_hour: 50, floor: None }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct PingGrant {
    /// Peers, not asks, in one tick.
    pub max_per_tick: u32,
}

impl Default for PingGrant {
    /// Some 10 KB of traffic a tick.
    fn default() -> Self {
        Self { max_per_tick: 256 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct DialGrant {
    /// Dials and probes together, in one tick.
    pub max_per_tick: u32,
    /// Where its addresses come from.
    pub from: DialFrom,
}

impl Default for DialGrant {
    /// A quarter of what the reconnect phase starts at once: exploring, not crowding it out.
    fn default() -> Self {
        Self { max_per_tick: 2, from: DialFrom::Book }
    }
}

/// Which addresses a phase may dial.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DialFrom {
    /// Those in the address book. There is nothing wider yet.
    #[default]
    Book,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ProtectGrant {
    /// Peers that this phase protects at one time.
    pub max_active: u32,
    /// Longer wishes are cut down to this.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_duration: Duration,
}

impl Default for ProtectGrant {
    /// Enough for a phase to keep its best peers, for as long as it takes to notice that it stopped asking.
    fn default() -> Self {
        Self { max_active: 16, max_duration: HOUR }
    }
}

/// A ban ends a connection, so it counts as a disconnect too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct BanGrant {
    /// Bans of this phase that hold at one time.
    pub max_active: u32,
    /// Longer wishes are cut down to this.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_duration: Duration,
}

impl Default for BanGrant {
    /// A wrong ban heals by itself within the hour, and eight of them do not empty an address book.
    fn default() -> Self {
        Self { max_active: 8, max_duration: HOUR }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct ForgetGrant {
    /// Entries, not asks, in one tick.
    pub max_per_tick: u32,
    /// Entries that stay in the table that is cleared.
    pub min_left: u32,
}

impl Default for ForgetGrant {
    /// What is forgotten comes back slowly: a node that is told eight addresses at a time needs eight answers for 64.
    fn default() -> Self {
        Self { max_per_tick: 64, min_left: 64 }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct MemoryGrant {
    /// A run that stores more has failed.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub max_bytes: usize,
}

impl Default for MemoryGrant {
    /// A number for each of a thousand peers as JSON, and little enough to write down after any tick.
    fn default() -> Self {
        Self { max_bytes: 64 << 10 }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

impl Grants {
    /// Whether functions of this interface may be called at all. Interfaces that need no grant are always granted.
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

    /// Everything, each with its usual ceilings.
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

    /// The line of `[grants]` that grants an interface with its usual ceilings, such as `ping = { max_per_tick = 256 }`.
    /// None for what needs no grant.
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
    /// Instructions, roughly; the same on every machine.
    pub fuel: u64,
    /// Wall time: only a backstop behind the fuel.
    #[serde(with = "as_span")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub wall: Duration,
    /// Linear memory.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub memory: u64,
    /// Lines of log in one run; the rest is counted and dropped.
    pub log_lines: u32,
    /// Longer lines are cut.
    #[serde(with = "as_bytes")]
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub log_line_bytes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        // 50 million instructions are 20 to 50 ms of a machine of today: what a phase may cost a tick.
        Self {
            fuel: 50_000_000,
            wall: Duration::from_millis(250),
            memory: 16 << 20,
            log_lines: 20,
            log_line_bytes: 2048,
        }
    }
}

/// A guest's circuit breaker, counted in due runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
pub struct OnFailure {
    /// Failures in a row that open it.
    pub trip_after: u32,
    /// Due runs that it lets pass the first time; doubles each time.
    pub pause: u32,
    /// How often it may open in a row before the phase is quarantined.
    pub quarantine_after: u32,
}

impl Default for OnFailure {
    fn default() -> Self {
        Self { trip_after: 3, pause: 1, quarantine_after: 4 }
    }
}

/// How long one instance of a guest lives.
#[doc(hidden)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Instance {
    /// One run: nothing leaks into the next.
    #[default]
    Fresh,
    /// Up to so many runs: for guests that are slow to start. What it keeps in between is lost at any time.
    Persistent { max_runs: u32 },
}

/// What all guests of a node together may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GuestCeilings {
    /// Connections that they end in one tick, bans included.
    pub disconnects_per_tick: u32,
    /// Connections that they end in any hour, bans included.
    pub disconnects_per_hour: u32,
    /// No guest's plan leaves fewer live connections, nor fewer healthy ones.
    pub floor: u32,
    /// Connections that they protect at one time.
    pub protected: u32,
    /// Their bans that hold at one time.
    pub bans: u32,
    /// Peers that no guest disconnects, bans or lowers the health of.
    pub untouchable: Vec<PeerId>,
}

impl Default for GuestCeilings {
    /// Twice what one guest may do by its usual grants.
    fn default() -> Self {
        Self {
            disconnects_per_tick: 4,
            disconnects_per_hour: 40,
            floor: 5,
            protected: 64,
            bans: 64,
            untouchable: Vec::new(),
        }
    }
}

/// Characters of a phase's name.
#[doc(hidden)]
pub const MOST_PHASE_NAME: usize = 40;

/// Whether `name` may be a phase's: 1 to 40 of a-z, 0-9 and "-".
#[doc(hidden)]
pub fn is_phase_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MOST_PHASE_NAME).contains(&name.len()) && name.chars().all(allowed)
}

/// The most that a phase of the host's own may keep from run to run.
#[doc(hidden)]
pub const MEMORY_BYTES: usize = 64 * 1024;
