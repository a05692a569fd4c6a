//! The operator's file: raw TOML in, checked and typed values out, every problem at once. Reads no environment.
//!
//! A key's default is written down in `raw`, its range in `bounds`, what contradicts what in `resolve`. Flags go over
//! the file, the file over the defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use groundskeeper_phases::{BroadcastCleanup, ExchangeCleanup, Reaper, Reconnect};
use groundskeeper_sdk::span::Span;

use crate::peer::PeerId;

mod bootstrap;
mod bounds;
mod builtin;
mod bytes;
mod document;
mod manifest;
mod performance;
mod policy;
mod problem;
mod raw;
mod resolve;
mod schedule;
mod schema;
#[cfg(test)]
mod tests;
mod units;

pub use bootstrap::{BadBootstrap, Bootstrap};
pub use builtin::{BUILTINS, BuiltIn};
pub use bytes::Bytes;
pub(crate) use manifest::is_phase_name;
pub use manifest::{
    Declared, Guest, MOST_MANIFEST_BYTES, Manifest, ManifestFile, Runtime, arrange_manifests, is_manifest,
    read_manifests,
};
pub use performance::{
    BackpressureConfig, BreakerConfig, Performance, RetryConfig, TimeoutConfig, TimeoutsConfig,
};
pub use policy::{
    BanGrant, DialFrom, DialGrant, DisconnectGrant, ForgetGrant, Grants, HealthGrant, Instance, Limits,
    MemoryGrant, Mode, OnFailure, PingGrant, ProtectGrant, Trust,
};
pub use problem::Problem;
pub(crate) use problem::meant;
pub use raw::{Level, LogFormat, Require, Step, WakeOn};
pub(crate) use schedule::unknown_name_hint;
pub use schema::{manifest_schema, schema};

/// A whole, valid config.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Config {
    pub node: Node,
    pub pool: Pool,
    pub net: Net,
    pub book: Book,
    pub broadcasts: Broadcasts,
    pub journal: Journal,
    pub admin: Admin,
    pub telemetry: Telemetry,
    pub performance: Performance,
    pub shutdown: Shutdown,
    pub log: Log,
    pub guests: Guests,
    pub phases: Phases,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Node {
    pub network: String,
    pub interval: Duration,
    /// None: the caller's default.
    pub data_dir: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Pool {
    pub max_connections: u32,
    pub max_inbound: u32,
    pub max_outbound: u32,
    pub max_per_group: u32,
    pub max_handshakes: u32,
    /// What phases see as the floor for live connections.
    pub least: u32,
    /// What phases see as the ceiling.
    pub most: u32,
    /// 0 to 99.
    pub healthy_above: u8,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Net {
    pub listen: Vec<SocketAddr>,
    pub advertise: Vec<SocketAddr>,
    pub bootstrap: Vec<Bootstrap>,
    pub allow_private: bool,
    pub handshake_timeout: Duration,
    pub request_timeout: Duration,
    pub bytes_per_second_per_peer: u64,
    pub queue_bytes: u64,
    pub max_frame: u64,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Book {
    pub capacity: usize,
    pub per_source_group: usize,
    pub backoff_first: Duration,
    pub backoff_most: Duration,
    pub min_life: Duration,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Broadcasts {
    pub held: usize,
    pub per_window: u32,
    pub window: Duration,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Journal {
    pub notable: usize,
    pub chatter: usize,
    /// Relative to the data folder.
    pub file: Option<PathBuf>,
    pub file_max: u64,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Admin {
    pub enabled: bool,
    /// None: `admin.sock` in the data folder.
    pub socket: Option<PathBuf>,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Telemetry {
    pub listen: Option<SocketAddr>,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Shutdown {
    pub deadline: Duration,
}

#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Log {
    pub level: Level,
    pub format: LogFormat,
}

/// Phases that are dropped in, and what all of them together may do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guests {
    /// Where manifests and modules are. None if neither the config nor its reader knows a data folder.
    pub dir: Option<PathBuf>,
    pub allow_native: bool,
    /// Native phases are replaced while the node runs.
    pub reload_native: bool,
    pub require: Require,
    /// There if `require` is `Signature`.
    pub public_key: Option<String>,
    /// Bans included, as in the next.
    pub disconnects_per_tick: u32,
    pub disconnects_per_hour: u32,
    /// No guest's plan leaves fewer live connections, nor fewer healthy ones.
    pub floor: u32,
    /// Connections that guests protect at one time.
    pub protected: u32,
    /// Bans of guests that hold at one time.
    pub bans: u32,
    /// Peers that no guest disconnects, bans or lowers the health of.
    pub untouchable: Vec<PeerId>,
}

/// The four built-in phases in the order in which they run.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Phases {
    pub reaper: Phase<Reaper>,
    pub reconnect: Phase<Reconnect>,
    pub broadcast_cleanup: Phase<BroadcastCleanup>,
    pub exchange_cleanup: Phase<ExchangeCleanup>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Phase<S> {
    pub mode: Mode,
    pub schedule: Schedule,
    /// Checked.
    pub settings: S,
}

/// When a phase is due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Schedule {
    pub cadence: Cadence,
    /// Ticks; less than the shortest cadence.
    pub offset: u32,
    /// Due at the first tick, whenever it ran last.
    pub run_on_start: bool,
    pub wake_on: Vec<WakeOn>,
    /// Names of phases that run before it when both are due.
    pub after: Vec<String>,
    /// Names of phases that run after it when both are due.
    pub before: Vec<String>,
}

impl Schedule {
    /// Every `n` ticks (at least 1) and nothing else.
    pub fn every(n: u32) -> Self {
        Self {
            cadence: Cadence::Every(n.max(1)),
            offset: 0,
            run_on_start: false,
            wake_on: Vec::new(),
            after: Vec::new(),
            before: Vec::new(),
        }
    }
}

/// How many ticks lie between two runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cadence {
    /// At least 1.
    Every(u32),
    /// By rising `below_connections`; the last step names none.
    Adaptive(Vec<Step>),
}

impl Cadence {
    /// The number of ticks that holds while there are so many live connections. At least 1.
    pub fn every_n_ticks(&self, connections: u32) -> u32 {
        match self {
            Cadence::Every(n) => *n,
            Cadence::Adaptive(steps) => steps
                .iter()
                .find(|step| step.below_connections.is_none_or(|below| connections < below))
                .map_or(1, |step| step.every_n_ticks),
        }
    }

    /// The longest wait between two runs.
    pub fn longest(&self) -> u32 {
        self.all().into_iter().max().unwrap_or(1)
    }

    fn all(&self) -> Vec<u32> {
        match self {
            Cadence::Every(n) => vec![*n],
            Cadence::Adaptive(steps) => steps.iter().map(|step| step.every_n_ticks).collect(),
        }
    }
}

/// What flags say; it goes over the file and is checked together with it.
#[derive(Clone, Default, Debug)]
pub struct Overrides {
    pub interval: Option<Span>,
    pub data_dir: Option<PathBuf>,
    /// The drop-in folder.
    pub phases: Option<PathBuf>,
    /// The data folder if neither a flag nor the file names one: the config asks no environment.
    pub usual_data_dir: Option<PathBuf>,
    /// Leaves the drop-in folder alone: for those who only want to find a running node, which must not hang on a file
    /// that somebody is editing.
    pub without_manifests: bool,
    /// For nodes that live on one machine.
    pub allow_private: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("", "defaults").expect("a test checks that the defaults are valid")
    }
}

impl Config {
    /// How long a peer may be silent before it counts as stale: the reaper's limit, used for statistics too.
    pub fn stale_after(&self) -> Duration {
        Duration::from_millis(self.phases.reaper.settings.stale_after.as_millis())
    }

    /// Reads a config file.
    ///
    /// # Errors
    /// Every problem there is, by line.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        Self::load_with(Some(path), &Overrides::default())
    }

    /// Reads a config file, or the defaults without one, and lays `overrides` over it. Reads the drop-in folder too:
    /// a manifest of a built-in phase takes the place of that phase's section.
    ///
    /// # Errors
    /// Every problem there is, those of files by line. Manifests of guests are not looked at: see [`read_manifests`].
    pub fn load_with(path: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let Some(path) = path else { return resolve::resolve("", "defaults", None, overrides) };
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| {
            vec![
                Problem::of(&name, format!("cannot be read: {error}"))
                    .with_hint("name another file with --config"),
            ]
        })?;
        resolve::resolve(&text, &name, Some(path.parent().unwrap_or(Path::new(""))), overrides)
    }

    /// Reads the text of a config file and nothing else; `name` is what problems call it.
    ///
    /// # Errors
    /// Every problem there is, by line.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<Problem>> {
        resolve::resolve(text, name, None, &Overrides::default())
    }
}
