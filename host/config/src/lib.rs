//! The operator's file: raw TOML in, checked and typed values out, every problem at once. Reads no environment.
//!
//! A key's default and range stand in its section, in the crate that uses it; what contradicts what in `resolve`. Flags go over
//! the file, the file over the defaults.
//!
//! Hidden items are for the crates of this workspace and promise nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use groundskeeper_base::units;
use groundskeeper_engine::Phases;
use groundskeeper_sdk::span::Span;
use serde::{Deserialize, Serialize};

pub use groundskeeper_base::bootstrap::Bootstrap;
pub use groundskeeper_base::bytes::Bytes;
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

pub use manifest::{Declared, Guest, Manifest, ManifestFile, Runtime, read_manifests};
#[doc(hidden)]
pub use manifest::{MOST_MANIFEST_BYTES, arrange_manifests, is_manifest};
#[cfg(feature = "schema")]
#[doc(hidden)]
pub use schema::{manifest_schema, schema};
pub use sections::{Admin, Guests, Level, Log, LogFormat, Node, Require, Shutdown, Telemetry};

/// A whole config, valid if one of its functions read it.
///
/// Serde reads it without looking at ranges, and a built-in phase as on or off: in shadow mode it is written as on.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default = "Config::unresolved", deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "groundskeeper.toml", description = ""))]
#[non_exhaustive]
pub struct Config {
    pub node: Node,
    /// How many connections there may be.
    pub pool: PoolSettings,
    /// Addresses and the limits of one connection.
    pub net: NetSettings,
    /// The addresses this node knows.
    pub book: BookLimits,
    /// The memory of broadcasts, and how many this node may send.
    pub broadcasts: BroadcastLimits,
    /// The record of every action.
    pub journal: JournalSettings,
    pub performance: Performance,
    pub admin: Admin,
    pub telemetry: Telemetry,
    pub shutdown: Shutdown,
    pub log: Log,
    pub guests: Guests,
    pub phases: Phases,
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
    /// What an empty file says, before what is left out is made up from other keys.
    fn unresolved() -> Self {
        Self {
            node: Node::default(),
            pool: PoolSettings::default(),
            net: NetSettings::default(),
            book: BookLimits::default(),
            broadcasts: BroadcastLimits::default(),
            journal: JournalSettings::default(),
            performance: Performance::default(),
            admin: Admin::default(),
            telemetry: Telemetry::default(),
            shutdown: Shutdown::default(),
            log: Log::default(),
            guests: Guests::default(),
            phases: Phases::default(),
        }
    }

    /// How long a peer may be silent before it counts as stale: the reaper's limit, used for statistics too.
    #[doc(hidden)]
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

    /// Checks `[node]` of a config that was written by hand, past the reader. `name` is what problems call its author.
    ///
    /// # Errors
    /// Every problem, without line numbers, since there is no text.
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
