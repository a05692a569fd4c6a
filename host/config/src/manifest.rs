//! The file that declares one phase: TOML in, a checked `Manifest` out. Reports all problems at once. Reads no module.
//!
//! The engine's `policy` defines grants, limits and settings of the circuit breaker. Their ranges are here.

use std::path::{Component, Path, PathBuf};

use groundskeeper_base::bounds::Bound;
use groundskeeper_base::bytes::ByteSize;
use groundskeeper_base::problem::{self, Problem};
use groundskeeper_engine::policy::{
    Grants, Instance, Limits, MOST_PHASE_NAME, Mode, OnFailure, is_phase_name,
};
use groundskeeper_engine::schedule::{MOST_TICKS, Schedule};
use groundskeeper_engine::{BUILTINS, BuiltInPhases};
use groundskeeper_pool::settings::MOST_CONNECTIONS;
use groundskeeper_sdk::span::Span;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::bounds;
use super::builtin::{self, schedules};
use super::document::Document;
use super::schedule;

mod folder;
#[cfg(test)]
mod tests;
mod written;

pub use folder::{
    MOST_MANIFEST_BYTES, ManifestFile, arrange_manifests, is_manifest, read_drop_in, read_manifests,
};
pub(super) use written::WrittenManifest;
use written::{InstanceWord, PhaseKind};

use Bound::{Count, Size, Time};

/// A phase as its manifest declares it.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// Identity of the phase for its schedule, memory, metrics and journal: 1 to 40 characters of a-z, 0-9 and "-".
    pub name: String,
    /// Whether it runs, and whether the host applies its asks.
    pub mode: Mode,
    /// When it runs. Keys that were left out have their defaults.
    pub schedule: Schedule,
    /// The part that depends on the kind of the phase.
    pub body: ManifestBody,
}

/// What a manifest says besides name, mode and schedule. Depends on the kind of the phase.
#[derive(Clone, PartialEq, Debug)]
pub enum ManifestBody {
    /// The config contains its settings, as read from this file.
    BuiltIn,
    /// A phase with a module in the drop-in folder.
    Guest(Box<GuestManifest>),
}

/// A phase from the drop-in folder.
#[derive(Clone, PartialEq, Debug)]
pub struct GuestManifest {
    /// The kind of its module.
    pub runtime: Runtime,
    /// Path in the manifest's folder, relative to it.
    pub module: PathBuf,
    /// Digest of the module. Every native phase has one.
    pub sha256: Option<[u8; 32]>,
    /// `Fresh` for native phases, which have no instances.
    pub instance: Instance,
    /// What it may read and ask for; nothing by default.
    pub grants: Grants,
    /// What one run may use.
    pub limits: Limits,
    /// When its circuit breaker opens, and when the host quarantines it.
    pub on_failure: OnFailure,
    /// A JSON object, passed to the phase's `check` and `run`.
    pub settings: String,
}

/// What runs a guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Runtime {
    /// A WebAssembly component, sandboxed.
    Wasm,
    /// A shared library, without a sandbox.
    Native,
}

impl Runtime {
    /// The name in manifests and in the output of `phases`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "native",
        }
    }

    /// The extension of module files.
    pub fn extension(self) -> &'static str {
        match self {
            Self::Wasm => "wasm",
            Self::Native => "so",
        }
    }
}

/// The longest ban or protection that a guest may ask for. Only the operator can set longer ones.
const LONGEST_HOLD: Span = Span::days(30);

/// Default runs of a persistent instance: one hour of ticks of 30 s. A leak lasts no longer than that.
const USUAL_RUNS: u32 = 120;

pub(super) const BOUNDS: [(&str, Bound); 24] = [
    ("max_runs", Count(1, 1_000_000)),
    ("schedule.offset", Count(0, MOST_TICKS)),
    ("grants.disconnect.max_per_tick", Count(1, 4096)),
    ("grants.disconnect.max_per_hour", Count(1, MOST_CONNECTIONS)),
    ("grants.disconnect.min_connections_left", Count(0, MOST_CONNECTIONS)),
    ("grants.health.max_delta_per_peer_per_hour", Count(1, 10_000)),
    ("grants.health.floor", Count(0, 100)),
    ("grants.ping.max_per_tick", Count(1, MOST_CONNECTIONS)),
    ("grants.dial.max_per_tick", Count(1, 256)),
    ("grants.protect.max_active", Count(1, 512)),
    ("grants.protect.max_duration", Time(Span::secs(1), LONGEST_HOLD)),
    ("grants.ban.max_active", Count(1, 1024)),
    ("grants.ban.max_duration", Time(Span::secs(1), LONGEST_HOLD)),
    ("grants.forget.max_per_tick", Count(1, 1_000_000)),
    ("grants.forget.min_left", Count(0, 1_000_000)),
    ("grants.memory.max_bytes", Size(ByteSize(1), ByteSize::mib(1))),
    ("limits.fuel", Count(10_000, 10_000_000_000)),
    // The whole time budget of a beat, so no phase can get more.
    ("limits.wall", Time(Span::millis(1), Span::secs(2))),
    ("limits.memory", Size(ByteSize::kib(64), ByteSize::gib(1))),
    ("limits.log_lines", Count(0, 10_000)),
    ("limits.log_line_bytes", Size(ByteSize(16), ByteSize::kib(64))),
    ("on_failure.trip_after", Count(1, 100)),
    ("on_failure.pause", Count(1, 1000)),
    ("on_failure.quarantine_after", Count(1, 100)),
];

impl Manifest {
    /// Reads the text of a manifest. Problems name the file `file_name`.
    ///
    /// # Errors
    /// All problems, by line.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, Vec<Problem>> {
        let mut reader = ManifestReader { from: Document::parse(text, file_name) };
        let manifest = reader.manifest(Path::new(file_name));
        let problems = reader.from.into_problems();
        match manifest {
            Some(manifest) if problems.is_empty() => Ok(manifest),
            _ => Err(problems),
        }
    }

    /// The kind of the phase, as in manifests and in the output of `phases`.
    pub fn kind(&self) -> &'static str {
        match &self.body {
            ManifestBody::BuiltIn => "built-in",
            ManifestBody::Guest(guest) => guest.runtime.as_str(),
        }
    }
}

struct ManifestReader<'a> {
    from: Document<'a>,
}

impl ManifestReader<'_> {
    /// If it returns none, it has reported a problem.
    fn manifest(&mut self, file: &Path) -> Option<Manifest> {
        let is_guest = matches!(self.from.text_at("kind"), Some("wasm" | "native"));
        let mut elsewhere = vec!["settings".to_owned()];
        if is_guest {
            self.spell_out_grants(&mut elsewhere);
        } else {
            elsewhere.extend(["grants", "limits", "on_failure"].map(str::to_owned));
        }
        let mut written: WrittenManifest = self.from.read("", &elsewhere);
        let name = self.name(written.name.take(), file);
        let Some(kind) = written.kind else {
            if !self.is_written("kind") && !self.from.is_torn() {
                let hint = "write kind = \"wasm\", \"native\" or \"built-in\"";
                self.problem("kind", "is missing", Some(hint));
            }
            return None;
        };
        match kind {
            PhaseKind::BuiltIn => self.built_in(name, written),
            PhaseKind::Wasm => self.guest(name, Runtime::Wasm, written),
            PhaseKind::Native => self.guest(name, Runtime::Native, written),
        }
    }

    /// Reads grants with ceilings: `true` means the default ceilings, a table changes some, `false` means no grant.
    fn spell_out_grants(&mut self, elsewhere: &mut Vec<String>) {
        let Ok(Value::Object(usual)) = serde_json::to_value(Grants::everything()) else { return };
        for (name, _) in usual.iter().filter(|(_, ceilings)| ceilings.is_object()) {
            let key = format!("grants.{name}");
            match self.from.value(&key).map(|value| value.get_ref()) {
                None | Some(DeValue::Table(_)) => continue,
                Some(DeValue::Boolean(true)) => {
                    self.from.replace(&key, DeValue::Table(DeTable::new()));
                    continue;
                }
                Some(DeValue::Boolean(false)) => {}
                Some(other) => {
                    let message = format!("expected true, false or a table, found {}", other.type_str());
                    let hint = format!("write {name} = true for the usual ceilings, or {name} = {{ .. }}");
                    self.problem(&key, message, Some(&hint));
                }
            }
            elsewhere.push(key);
        }
    }

    fn problem(&mut self, key: &str, message: impl Into<String>, hint: Option<&str>) {
        self.from.report_at(key, message.into(), hint.map(str::to_owned));
    }

    fn is_written(&self, key: &str) -> bool {
        self.from.value(key).is_some()
    }

    fn name(&mut self, written: Option<String>, file: &Path) -> Option<String> {
        match written {
            Some(name) if is_phase_name(&name) => Some(name),
            Some(name) => {
                let message = format!("{name:?} is not 1 to {MOST_PHASE_NAME} of a-z, 0-9 and \"-\"");
                self.problem("name", message, None);
                None
            }
            None => {
                if !self.is_written("name") && !self.from.is_torn() {
                    let hint = format!("write name = \"{}\"", folder::name_from(file));
                    self.problem("name", "is missing", Some(&hint));
                }
                None
            }
        }
    }

    fn ranges(&mut self, written: &WrittenManifest) {
        let values = serde_json::to_value(written).expect("a manifest is plain data");
        for (key, value, bound) in bounds::outside(&BOUNDS, &values) {
            self.problem(key, format!("{value} is out of range: {bound}"), None);
        }
    }

    fn built_in(&mut self, name: Option<String>, written: WrittenManifest) -> Option<Manifest> {
        for (key, why) in [
            ("module", "a built-in phase has no module: it is part of the host"),
            ("sha256", "a built-in phase has no module: it is part of the host"),
            ("instance", "a built-in phase has no instances: it is part of the host"),
            ("max_runs", "a built-in phase has no instances: it is part of the host"),
            ("grants", "a built-in phase needs no grants: it is part of the host, and its settings limit it"),
            ("limits", "a built-in phase has no limits: it is part of the host"),
            (
                "on_failure",
                "a built-in phase is never quarantined: the node needs it, and /readyz reports its failures; its breaker \
                 is set in the config, [phases.NAME.on_failure]",
            ),
        ] {
            if self.is_written(key) {
                self.problem(key, why, Some("remove it"));
            }
        }
        let name = name?;
        let Some(at) = BUILTINS.iter().position(|known| *known == name) else {
            let hint = problem::unknown_name_hint(&name, &BUILTINS);
            self.problem("name", format!("no built-in phase is called {name:?}"), Some(&hint));
            return None;
        };
        builtin::check_file(&mut self.from, &name);
        self.ranges(&written);
        let schedule = written.schedule.or(schedules(&BuiltInPhases::default())[at].clone());
        schedule::check(&mut self.from, "schedule", Some(&BUILTINS), &schedule);
        Some(Manifest { name, mode: written.mode, schedule, body: ManifestBody::BuiltIn })
    }

    fn guest(
        &mut self,
        name: Option<String>,
        runtime: Runtime,
        written: WrittenManifest,
    ) -> Option<Manifest> {
        if let Some(name) = name.as_ref().filter(|name| BUILTINS.contains(&name.as_str())) {
            let message = format!("{name} is a built-in phase");
            let hint = "choose another name, or write kind = \"built-in\" to set that one up";
            self.problem("name", message, Some(hint));
        }
        self.ranges(&written);
        self.contradictions(runtime, &written);
        let settings = Value::Object(self.from.json("settings")).to_string();
        let schedule = written.schedule.clone().or(Schedule::every(1));
        schedule::check(&mut self.from, "schedule", None, &schedule);
        for (key, names) in [("schedule.after", &schedule.after), ("schedule.before", &schedule.before)] {
            if name.as_ref().is_some_and(|name| names.contains(name)) {
                self.problem(key, "a phase cannot wait for itself", None);
            }
        }
        let sha256 = self.sha256(runtime, written.sha256.as_deref());
        let instance = self.instance(runtime, &written);
        let name = name?;
        let module = written.module.unwrap_or_else(|| format!("{name}.{}", runtime.extension()).into());
        self.module(&module);
        let WrittenManifest { mode, grants, limits, on_failure, .. } = written;
        let guest = GuestManifest { runtime, module, sha256, instance, grants, limits, on_failure, settings };
        Some(Manifest { name, mode, schedule, body: ManifestBody::Guest(Box::new(guest)) })
    }

    fn contradictions(&mut self, runtime: Runtime, written: &WrittenManifest) {
        if let Some(grant) = written.grants.disconnect.filter(|grant| grant.max_per_tick > grant.max_per_hour)
        {
            let key = "grants.disconnect.max_per_tick";
            let key = if self.is_written(key) { key } else { "grants.disconnect.max_per_hour" };
            let message = format!(
                "max_per_tick = {} is above max_per_hour = {}: it would never be reached",
                grant.max_per_tick, grant.max_per_hour
            );
            self.problem(key, message, None);
        }
        if written.grants.ban.is_some() && written.grants.disconnect.is_none() {
            let hint = "add disconnect = true, or disconnect = { max_per_tick = 1 }";
            let message = "a ban ends a connection and counts as a disconnect, which is not granted";
            self.problem("grants.ban", message, Some(hint));
        }
        if runtime == Runtime::Native {
            for key in ["limits.fuel", "limits.wall", "limits.memory"] {
                if self.is_written(key) {
                    let message = "the host cannot enforce this for a native phase, which has no sandbox";
                    self.problem(key, message, Some("remove it, or build the phase as a component"));
                }
            }
        }
    }

    fn sha256(&mut self, runtime: Runtime, written: Option<&str>) -> Option<[u8; 32]> {
        let Some(text) = written else {
            if runtime == Runtime::Native && !self.is_written("sha256") {
                let message = "is missing: a native phase is loaded only if its manifest pins its digest";
                self.problem("sha256", message, Some("write what `sha256sum FILE` says"));
            }
            return None;
        };
        let digest = data_encoding::HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok();
        let digest = digest.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        if digest.is_none() {
            self.problem("sha256", "is not 64 hexadecimal digits", Some("write what `sha256sum FILE` says"));
        }
        digest
    }

    fn instance(&mut self, runtime: Runtime, written: &WrittenManifest) -> Instance {
        if runtime == Runtime::Native && written.instance.is_some() {
            self.problem("instance", "a native phase has no instances", Some("remove it"));
        }
        match (written.instance, written.max_runs) {
            (Some(InstanceWord::Persistent), max_runs) => {
                Instance::Persistent { max_runs: max_runs.unwrap_or(USUAL_RUNS) }
            }
            (_, Some(_)) => {
                let message = "only an instance = \"persistent\" has several runs";
                self.problem("max_runs", message, Some("remove it, or add that line"));
                Instance::Fresh
            }
            (_, None) => Instance::Fresh,
        }
    }

    fn module(&mut self, module: &Path) {
        let inside = module.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if module.as_os_str().is_empty() || !inside {
            let message = format!(
                "{:?} is not a file in the manifest's folder or below it",
                module.display().to_string()
            );
            self.problem("module", message, None);
        }
    }
}
