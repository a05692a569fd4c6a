//! What a manifest lets a phase do: grants with their ceilings, limits of a run, the breaker's numbers. Checks no plan.

use std::time::Duration;

use groundskeeper_sdk::contract::INTERFACES;

/// Whether the asks of a phase become effects.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Enforce,
    /// Runs as usual; every ask is journalled and none is applied.
    Shadow,
    /// Does not run.
    Off,
}

/// Who answers for a phase, and so which rules stand above its grants.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trust {
    /// Built in, or the embedding application's own: only its own breaker holds it back.
    Host,
    /// Dropped in: the node-wide budget, the floor and quarantine hold for it.
    Guest,
}

/// What a phase may read and ask for; `None` and `false` are "not granted". A number is the most that is allowed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Grants {
    pub peers: bool,
    pub book: bool,
    pub broadcasts: bool,
    pub disconnect: Option<DisconnectGrant>,
    pub health: Option<HealthGrant>,
    pub ping: Option<PingGrant>,
    pub dial: Option<DialGrant>,
    pub protect: Option<ProtectGrant>,
    pub ban: Option<BanGrant>,
    pub forget: Option<ForgetGrant>,
    pub cadence: bool,
    pub memory: Option<MemoryGrant>,
    pub metrics: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DisconnectGrant {
    pub max_per_tick: u32,
    pub max_per_hour: u32,
    /// None of its disconnects leaves fewer live connections than this.
    pub min_connections_left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HealthGrant {
    /// Points up and down together.
    pub max_delta_per_peer_per_hour: u32,
    /// It lowers nobody below this.
    pub floor: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PingGrant {
    /// Peers, not asks.
    pub max_per_tick: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DialGrant {
    /// Dials and probes together.
    pub max_per_tick: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProtectGrant {
    /// Peers that this phase protects at one time.
    pub max_active: u32,
    pub max_duration: Duration,
}

/// A ban ends a connection, so it counts as a disconnect too.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BanGrant {
    /// Bans of this phase that hold at one time.
    pub max_active: u32,
    pub max_duration: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ForgetGrant {
    /// Entries, not asks.
    pub max_per_tick: u32,
    /// Entries that stay in the table that is cleared.
    pub min_left: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemoryGrant {
    pub max_bytes: usize,
}

impl Grants {
    /// Whether functions of this interface may be called at all. Interfaces that need no grant are always granted.
    pub fn allows(&self, interface: &str) -> bool {
        match interface {
            "peers" => self.peers,
            "book" => self.book,
            "broadcasts" => self.broadcasts,
            "disconnect" => self.disconnect.is_some(),
            "health" => self.health.is_some(),
            "ping" => self.ping.is_some(),
            "dial" => self.dial.is_some(),
            "protect" => self.protect.is_some(),
            "ban" => self.ban.is_some(),
            "forget" => self.forget.is_some(),
            "cadence" => self.cadence,
            "memory" => self.memory.is_some(),
            "metrics" => self.metrics,
            other => INTERFACES.iter().any(|it| it.name == other && !it.needs_grant),
        }
    }
}

/// What one run of a guest may use.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Instructions, roughly; the same on every machine.
    pub fuel: u64,
    /// Wall time: only a backstop behind the fuel.
    pub wall: Duration,
    /// Bytes of linear memory.
    pub memory: u64,
    pub log_lines: u32,
    /// Longer lines are cut.
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Instance {
    /// One run: nothing leaks into the next.
    #[default]
    Fresh,
    /// Up to so many runs: for guests that are slow to start. What it keeps in between is lost at any time.
    Persistent { max_runs: u32 },
}
