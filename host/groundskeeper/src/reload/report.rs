//! Results of reloads: events for listeners, an answer for the caller, numbers for metrics.

use serde::{Deserialize, Serialize};

/// The outcome for one phase's files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PhaseChange {
    /// A new generation or a new phase runs.
    Applied,
    /// The phase was taken out.
    Removed,
    /// The files do not run. The phase runs on as before.
    Rejected,
    /// The files are incomplete, and are read again.
    Pending,
    /// The module is being compiled. The phase runs on as before.
    Compiling,
    /// The new generation failed its probation, and the former one runs again.
    Returned,
    /// The new generation has passed its probation.
    Proven,
}

impl PhaseChange {
    /// Every change, in the order in which they are declared.
    pub const ALL: [Self; 7] = [
        Self::Applied,
        Self::Removed,
        Self::Rejected,
        Self::Pending,
        Self::Compiling,
        Self::Returned,
        Self::Proven,
    ];

    /// The name in metrics, JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Removed => "removed",
            Self::Rejected => "rejected",
            Self::Pending => "pending",
            Self::Compiling => "compiling",
            Self::Returned => "returned",
            Self::Proven => "proven",
        }
    }

    /// Whether what runs matches the files.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Applied | Self::Removed | Self::Proven)
    }
}

/// One change of one phase.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReloadEvent {
    /// Its name in the manifest, or one made from the file name if the manifest cannot be read.
    pub phase: String,
    /// The outcome for its files.
    pub change: PhaseChange,
    /// Short digest of the generation concerned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// Why its files do not run; `None` if they do, or are gone.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// Seconds since 1970.
    pub unix_s: u32,
}

/// The outcome of reading the config again.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigReport {
    /// Keys that took effect.
    pub changed: Vec<String>,
    /// Keys that differ from the running config and take effect at the next start.
    pub restart: Vec<String>,
    /// Why no key was applied.
    pub problems: Vec<String>,
}

impl ConfigReport {
    /// Whether the whole config of the files is in effect.
    pub fn is_good(&self) -> bool {
        self.restart.is_empty() && self.problems.is_empty()
    }

    /// One log line for the changes, one for each problem.
    pub fn log(&self) {
        let Self { changed, restart, problems } = self;
        if !changed.is_empty() {
            tracing::info!(changed = changed.join(" "), "config");
        }
        if !restart.is_empty() {
            tracing::warn!(keys = restart.join(" "), "config: these keys take effect when the node restarts");
        }
        for problem in problems {
            tracing::error!("config, which stays unchanged: {problem}");
        }
    }
}

/// The outcome of a scan of the folder.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// No entry for phases that stay as they were.
    pub events: Vec<ReloadEvent>,
    /// Running phases of the drop-in folder.
    pub running: u32,
    /// Why the folder could not be scanned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
    /// The outcome for the config, if it was read again too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<ConfigReport>,
}

impl ReloadReport {
    /// Whether what runs matches the files.
    pub fn is_good(&self) -> bool {
        let config = self.config.as_ref().is_none_or(ConfigReport::is_good);
        config && self.trouble.is_none() && self.events.iter().all(|event| event.change.is_good())
    }
}

/// Numbers since the process started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[doc(hidden)]
pub struct ReloadCounts {
    pub looks: u64,
    /// Modules read and hashed.
    pub digests: u64,
    /// Events, in the order of [`PhaseChange::ALL`].
    pub(super) changes: [u64; PhaseChange::ALL.len()],
    /// Shared libraries loaded. None is ever unloaded.
    pub libraries: u64,
    /// Generations in memory: those that run, and the former ones.
    pub generations: u64,
    /// Whether what runs matches the folder.
    pub last_successful: bool,
    /// Time of the last change after which it did, in seconds since 1970; 0 if there was none.
    pub last_successful_unix_s: u32,
}

impl ReloadCounts {
    pub fn of(self, change: PhaseChange) -> u64 {
        self.changes[change as usize]
    }
}
