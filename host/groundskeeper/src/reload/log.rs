//! Reports reloads: a log line, a count and an event for each change.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::report::{PhaseChange, ReloadCounts, ReloadEvent};
use crate::clock::{Clock, unix_seconds};
use crate::registry::{Digest, short_digest};

/// Events kept for a listener that lags.
const EVENTS_KEPT: usize = 256;

/// See the module.
pub(super) struct ReloadLog {
    clock: Arc<dyn Clock>,
    pub counts: ReloadCounts,
    pub sender: broadcast::Sender<ReloadEvent>,
    /// Of the current scan.
    pub events: Vec<ReloadEvent>,
}

impl ReloadLog {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let counts = ReloadCounts { last_successful: true, ..ReloadCounts::default() };
        Self { clock, counts, sender: broadcast::channel(EVENTS_KEPT).0, events: Vec::new() }
    }

    /// One log line, one count, one event.
    pub fn note(&mut self, phase: &str, change: PhaseChange, digest: Option<Digest>, why: Option<String>) {
        self.repeat(phase, change, digest, why);
        let Some(event) = self.events.last() else { return };
        let (result, digest) = (change.as_str(), event.digest.as_deref().unwrap_or("-"));
        match &event.why {
            None => tracing::info!(phase, result, digest, "reload"),
            Some(why) if matches!(change, PhaseChange::Pending | PhaseChange::Compiling) => {
                tracing::info!(phase, result, digest, why, "reload")
            }
            Some(why) => tracing::warn!(phase, result, digest, why, "reload"),
        }
        self.counts.changes[change as usize] += 1;
        // There may be no listener.
        _ = self.sender.send(event.clone());
    }

    /// Only for the report: what was noted before and still holds.
    pub fn repeat(&mut self, phase: &str, change: PhaseChange, digest: Option<Digest>, why: Option<String>) {
        let digest = digest.as_ref().map(short_digest);
        let unix_s = unix_seconds(&*self.clock);
        self.events.push(ReloadEvent { phase: phase.to_owned(), change, digest, why, unix_s });
    }

    /// Notes whether what runs matches the files, after a scan with these `events`.
    pub fn scanned(&mut self, is_whole: bool, events: &[ReloadEvent]) {
        if is_whole && (!events.is_empty() || !self.counts.last_successful) {
            self.counts.last_successful_unix_s = unix_seconds(&*self.clock);
        }
        self.counts.last_successful = is_whole;
    }
}
