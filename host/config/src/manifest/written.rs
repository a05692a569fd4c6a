//! A manifest as it is written. Checks nothing but types; the comments here become the descriptions of the JSON schema.

use std::path::PathBuf;

use groundskeeper_engine::policy::{Grants, Limits, Mode, OnFailure};
use groundskeeper_engine::schedule::WrittenSchedule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

#[derive(Clone, Default, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "schema", schemars(title = "Manifest of a Groundskeeper phase"))]
pub(in super::super) struct Written {
    /// Identity of the phase for its schedule, memory, metrics and journal. 1 to 40 of a-z, 0-9 and "-".
    pub name: Option<String>,
    /// What it is made of.
    pub kind: Option<Kind>,
    /// The module, relative to the manifest's folder. Default: the name with .wasm or .so.
    pub module: Option<PathBuf>,
    /// Digest of the module, as sha256sum prints it. Another file is not loaded. Needed for native phases.
    pub sha256: Option<String>,
    /// Whether its asks become effects.
    pub mode: Mode,
    /// How long one instance lives. Default: "fresh".
    pub instance: Option<InstanceWord>,
    /// Runs of a persistent instance. Default: 120.
    pub max_runs: Option<u32>,
    /// When it runs. For built-in phases what is left out is as usual, for others every_n_ticks is 1.
    pub schedule: WrittenSchedule,
    /// What it may read and ask for. Not for built-in phases.
    pub grants: Grants,
    /// What one run may use. Not for built-in phases.
    pub limits: Limits,
    /// When it stops being tried. Not for built-in phases.
    pub on_failure: OnFailure,
    /// The phase's own settings; it gets them as JSON and checks them itself.
    pub settings: Map<String, Value>,
}

/// What a phase is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(in super::super) enum Kind {
    /// A WebAssembly component, sandboxed.
    Wasm,
    /// A shared library, trusted; only with guests.allow_native.
    Native,
    /// One of the host's own, by its name; the file takes the place of its section in the config.
    BuiltIn,
}

/// How long one instance of a component lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(in super::super) enum InstanceWord {
    /// One run.
    Fresh,
    /// max_runs runs: for guests that are slow to start.
    Persistent,
}
