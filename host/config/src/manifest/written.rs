//! A manifest as it is written. Serde checks only types. The doc comments become the descriptions in the JSON schema.

use std::path::PathBuf;

use groundskeeper_engine::policy::{Grants, Limits, Mode, OnFailure};
use groundskeeper_engine::schedule::WrittenSchedule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "Manifest of a Groundskeeper phase"))]
pub(in super::super) struct WrittenManifest {
    /// Identity of the phase for its schedule, memory, metrics and journal. 1 to 40 characters of a-z, 0-9 and "-".
    pub name: Option<String>,
    /// The kind of the phase.
    pub kind: Option<PhaseKind>,
    /// The module, relative to the manifest's folder. Default: the name with .wasm or .so.
    pub module: Option<PathBuf>,
    /// Digest of the module, as sha256sum prints it. A module with another digest is refused. Needed for native phases.
    pub sha256: Option<String>,
    /// Whether the host applies its asks.
    pub mode: Mode,
    /// How long one instance lasts. Default: "fresh".
    pub instance: Option<InstanceWord>,
    /// Runs of a persistent instance. Default: 120.
    pub max_runs: Option<u32>,
    /// When it runs. A key that is left out has the phase's default if it is built in; else every_n_ticks is 1.
    pub schedule: WrittenSchedule,
    /// What it may read and ask for. Not for built-in phases.
    pub grants: Grants,
    /// What one run may use. Not for built-in phases.
    pub limits: Limits,
    /// When the host pauses or quarantines it. Not for built-in phases.
    pub on_failure: OnFailure,
    /// The phase's own settings. The phase gets them as JSON and checks them itself.
    pub settings: Map<String, Value>,
}

/// The kind of a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum PhaseKind {
    /// A WebAssembly component, sandboxed.
    Wasm,
    /// A shared library, without a sandbox. Only with guests.allow_native.
    Native,
    /// One of the built-in phases, by its name. The file replaces its section in the config.
    BuiltIn,
}

/// How long one instance of a component lasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum InstanceWord {
    /// For one run.
    Fresh,
    /// For max_runs runs. For guests that are slow to start.
    Persistent,
}
