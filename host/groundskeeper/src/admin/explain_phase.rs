//! What a phase is and did lately.

use groundskeeper_base::problem::meant;

use super::AdminState;
use super::answers::{Explanation, PhaseExplanation};
use super::explain::FoundRecords;

impl AdminState {
    /// Whether a phase of this name runs, or was rejected.
    pub(super) fn has_phase(&self, name: &str) -> bool {
        self.sources.phases.read().iter().any(|phase| &*phase.name == name)
    }

    /// The phase that was probably meant.
    pub(super) fn similar_phase(&self, name: &str) -> Option<String> {
        let statuses = self.sources.phases.read();
        let similar = meant(name, statuses.iter().map(|phase| &*phase.name))?;
        Some(format!(". Did you mean the phase {similar}?"))
    }

    pub(super) fn about_phase(&self, name: &str, found: FoundRecords) -> Explanation {
        let statuses = self.sources.phases.read();
        let status = statuses.iter().find(|phase| &*phase.name == name).cloned();
        let note = (!found.peers.is_empty()).then(|| {
            let peers: Vec<String> = found.peers.iter().take(3).map(ToString::to_string).collect();
            format!(
                "{name} is also the beginning of the id of {}; give more of it to explain that peer",
                peers.join(", ")
            )
        });
        let runs = self.past.runs(name);
        Explanation {
            phase: Some(PhaseExplanation { name: name.to_owned(), status, runs }),
            records: found.of_phase,
            past: found.past,
            note,
            ..Explanation::default()
        }
    }
}
