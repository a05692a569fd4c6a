#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use groundskeeper_base::read::read_regular_text;
use groundskeeper_base::units;
use groundskeeper_engine::BuiltInPhases;
use groundskeeper_sdk::span::Span;
use serde::{Deserialize, Serialize};

pub use groundskeeper_base::bootstrap::Bootstrap;
pub use groundskeeper_base::bytes::ByteSize;
pub use groundskeeper_base::problem::Problem;
pub use groundskeeper_flow::{
    Backpressure, BreakerSettings, NetSettings, Performance, RetrySettings, TimeoutSettings,
};
pub use groundskeeper_pool::book::BookLimits;
pub use groundskeeper_pool::broadcasts::BroadcastLimits;
pub use groundskeeper_pool::settings::{JournalSettings, PoolSettings};

mod bounds;
mod builtin;
mod document;
mod manifest;
mod performance;
mod resolve;
mod schedule;
#[cfg(feature = "schema")]
mod schema;
mod sections;
#[cfg(test)]
mod tests;

pub use manifest::{GuestManifest, Manifest, ManifestBody, ManifestFile, Runtime, read_manifests};
#[doc(hidden)]
pub use manifest::{MOST_MANIFEST_BYTES, arrange_manifests, is_manifest};
#[cfg(feature = "schema")]
#[doc(hidden)]
pub use schema::{manifest_schema, schema};
pub use sections::{
    AdminSection, GuestSettings, LogFormat, LogLevel, LogSettings, NodeSettings, ShutdownSettings,
    TelemetrySettings, TrustRequirement,
};

/// A larger file is not a config.
const MOST_CONFIG_BYTES: u64 = 1 << 20;

/// A whole config. It is valid if one of its functions has read it.
///
/// Serde does not check ranges. It stores the mode of a built-in phase only as on or off: shadow mode is written as on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default = "Config::unresolved", deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "groundskeeper.toml", description = ""))]
#[non_exhaustive]
pub struct Config {
    /// The identity of the node and the time between its ticks.
    pub node: NodeSettings,
    /// Limits on the number of connections.
    pub pool: PoolSettings,
    /// Addresses and the limits of one connection.
    pub net: NetSettings,
    /// The addresses this node knows.
    pub book: BookLimits,
    /// How many broadcasts the node remembers, and how many it may send.
    pub broadcasts: BroadcastLimits,
    /// The record of every action.
    pub journal: JournalSettings,
    /// How the node behaves under load.
    pub performance: Performance,
    /// The local socket for the command line.
    pub admin: AdminSection,
    /// The read-only listener for /metrics, /healthz and /readyz.
    pub telemetry: TelemetrySettings,
    /// How the node shuts down.
    pub shutdown: ShutdownSettings,
    /// What the node logs to standard error.
    pub log: LogSettings,
    /// Phases in the drop-in folder, and what all of them may do together.
    pub guests: GuestSettings,
    /// The four built-in phases.
    pub phases: BuiltInPhases,
}

/// Values from flags. They override the file and are checked together with it.
#[derive(Clone, Default, Debug)]
pub struct Overrides {
    /// Time from one tick to the next. None keeps the file's value.
    pub interval: Option<Span>,
    /// Folder of the node's key, state and socket. None keeps the file's value.
    pub data_dir: Option<PathBuf>,
    /// The drop-in folder.
    pub phases: Option<PathBuf>,
    /// The data folder if neither a flag nor the file names one. The config itself reads no environment variables.
    pub usual_data_dir: Option<PathBuf>,
    /// Does not read the drop-in folder. For commands that only look for a running node: a file that is being edited
    /// must not stop them.
    pub without_manifests: bool,
    /// Sets `net.allow_private`, for several nodes on one machine.
    pub allow_private: Option<bool>,
}

impl Default for Config {
    fn default() -> Self {
        Self::parse("", "defaults").expect("a test checks that the defaults are valid")
    }
}

impl Config {
    /// The values of an empty file, before keys that are left out get defaults from other keys.
    fn unresolved() -> Self {
        Self {
            node: NodeSettings::default(),
            pool: PoolSettings::default(),
            net: NetSettings::default(),
            book: BookLimits::default(),
            broadcasts: BroadcastLimits::default(),
            journal: JournalSettings::default(),
            performance: Performance::default(),
            admin: AdminSection::default(),
            telemetry: TelemetrySettings::default(),
            shutdown: ShutdownSettings::default(),
            log: LogSettings::default(),
            guests: GuestSettings::default(),
            phases: BuiltInPhases::default(),
        }
    }

    /// A peer that is silent for longer counts as stale. This is the reaper's limit; statistics use it too.
    #[doc(hidden)]
    pub fn stale_after(&self) -> Duration {
        Duration::from_millis(self.phases.reaper.settings.stale_after.as_millis())
    }

    /// Reads a config file.
    ///
    /// # Errors
    /// All problems, by line.
    pub fn load(path: &Path) -> Result<Self, Vec<Problem>> {
        Self::load_with(Some(path), &Overrides::default())
    }

    /// Reads a config file, or the defaults without one, and applies `overrides`. Reads the drop-in folder too: a
    /// manifest of a built-in phase replaces that phase's section.
    ///
    /// # Errors
    /// All problems, those in files by line. Ignores the manifests of guests: see [`read_manifests`].
    pub fn load_with(path: Option<&Path>, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let Some(path) = path else { return resolve::resolve("", "defaults", None, overrides) };
        let name = path.display().to_string();
        let text = read_regular_text(path, MOST_CONFIG_BYTES).map_err(|error| {
            vec![
                Problem::of(&name, format!("cannot be read: {error}"))
                    .with_hint("name another file with --config"),
            ]
        })?;
        resolve::resolve(&text, &name, Some(path.parent().unwrap_or(Path::new(""))), overrides)
    }

    /// Reads the text of a config file and nothing else. Problems name the file `name`.
    ///
    /// # Errors
    /// All problems, by line.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<Problem>> {
        resolve::resolve(text, name, None, &Overrides::default())
    }

    /// Checks `[node]` of a config that was built in code instead of read. Problems name `name` as the file.
    ///
    /// # Errors
    /// All problems, without line numbers, because there is no text.
    #[doc(hidden)]
    pub fn check_node(&self, name: &str) -> Result<(), Vec<Problem>> {
        let network = toml::Value::String(self.node.network.clone());
        let interval = units::span(self.node.interval);
        let text = format!("[node]\nnetwork = {network}\ninterval = \"{interval}\"\n");
        let Err(problems) = Self::parse(&text, name) else { return Ok(()) };
        let placeless = |problem| Problem { line: None, column: None, ..problem };
        Err(problems.into_iter().map(placeless).collect())
    }
}
