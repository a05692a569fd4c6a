//! What reloads tell: events for whoever listens, an answer for whoever asked, numbers for metrics.

use serde::{Deserialize, Serialize};

/// What became of one phase's files.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// A new generation runs, or a new phase.
    Applied,
    /// It was taken out.
    Removed,
    /// It does not run, and what ran before runs on.
    Rejected,
    /// It is not whole yet, and is read again.
    Pending,
    /// The new generation failed its probation, and the one before runs again.
    Returned,
    /// The new generation has ended its probation well.
    Proven,
}

impl Change {
    pub const ALL: [Self; 6] =
        [Self::Applied, Self::Removed, Self::Rejected, Self::Pending, Self::Returned, Self::Proven];

    /// The name in metrics, JSON and on the terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Removed => "removed",
            Self::Rejected => "rejected",
            Self::Pending => "pending",
            Self::Returned => "returned",
            Self::Proven => "proven",
        }
    }

    /// Whether the operator got what the files say.
    pub fn is_good(self) -> bool {
        matches!(self, Self::Applied | Self::Removed | Self::Proven)
    }
}

/// One thing that happened to one phase.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ReloadEvent {
    pub phase: String,
    pub change: Change,
    /// Of the generation it is about, shortened.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub why: Option<String>,
    /// Seconds since 1970.
    pub unix_s: u32,
}

/// What reading the config again came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ConfigReport {
    /// Keys that took hold.
    pub changed: Vec<String>,
    /// Keys that differ from what runs and take hold at the next start.
    pub restart: Vec<String>,
    /// Why nothing was taken.
    pub problems: Vec<String>,
}

impl ConfigReport {
    pub fn is_good(&self) -> bool {
        self.restart.is_empty() && self.problems.is_empty()
    }

    /// One line for what changed, one for each problem.
    pub fn log(&self) {
        let Self { changed, restart, problems } = self;
        if !changed.is_empty() {
            tracing::info!(changed = changed.join(" "), "config");
        }
        if !restart.is_empty() {
            tracing::warn!(
                keys = restart.join(" "),
                "config: these keys take hold when the node starts anew"
            );
        }
        for problem in problems {
            tracing::error!("config, which stays as it is: {problem}");
        }
    }
}

/// What a scan of the folder came to.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Nothing for phases that stay as they were.
    pub events: Vec<ReloadEvent>,
    /// Phases that run, of those that were dropped in.
    pub running: u32,
    /// Why the folder could not be scanned.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trouble: Option<String>,
    /// What became of the config, if it was read again too.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<ConfigReport>,
}

impl ReloadReport {
    /// Whether what runs is what the files say.
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
    /// Events, in the order of [`Change::ALL`].
    pub(super) changes: [u64; Change::ALL.len()],
    /// Shared libraries loaded; none is ever unloaded.
    pub libraries: u64,
    /// Generations in memory: those that run, and those that could return.
    pub generations: u64,
    /// Whether what runs is what the folder says.
    pub last_successful: bool,
    /// Seconds since 1970 of the last change that came to that; 0 if none did.
    pub last_successful_unix_s: u32,
}

impl ReloadCounts {
    pub fn of(self, change: Change) -> u64 {
        self.changes[change as usize]
    }
}
