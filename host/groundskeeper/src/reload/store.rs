//! What the reloader writes to and reads from the data folder. Decides nothing; says in the log what the disk refused.

use std::sync::Arc;

use super::slot::Refusal;
use super::slots::PhaseSlots;
use crate::data::{DataError, DataFolder, Generation, Head};
use crate::registry::{Digest, KeptPhase};

/// See the module.
pub(super) struct GenerationStore(pub Arc<DataFolder>);

impl GenerationStore {
    /// # Errors
    /// If the data folder cannot be read.
    pub fn load_heads(&self) -> Result<Vec<(String, Head)>, DataError> {
        let mut heads = Vec::new();
        for (name, loaded) in self.0.load_heads()? {
            if let Some(warning) = loaded.warning {
                tracing::warn!(phase = name, "{warning}");
            }
            heads.push((name, loaded.value));
        }
        Ok(heads)
    }

    /// Writes every head that the disk does not have. What it refuses is tried again at the next scan.
    pub fn save_heads(&self, slots: &mut PhaseSlots) {
        for (name, slot) in slots.by_name.iter_mut().filter(|(_, slot)| slot.is_unsaved()) {
            match self.0.save_head(name, slot.head()) {
                Ok(()) => slot.saved(),
                Err(error) => {
                    tracing::error!(%error, phase = name, "cannot write down which generation runs; tried again");
                }
            }
        }
    }

    /// What a phase kept that does not run.
    pub fn load_kept(&self, name: &str) -> Result<KeptPhase, Refusal> {
        let loaded = self.0.load_phase(name).map_err(|error| match error {
            DataError::Newer { .. } => Refusal::Bad(error.to_string()),
            _ => Refusal::Machine(error.to_string()),
        })?;
        if let Some(warning) = loaded.warning {
            tracing::warn!(phase = name, "{warning}");
        }
        Ok(loaded.value)
    }

    pub fn save_kept(&self, name: &str, kept: &KeptPhase) {
        if let Err(error) = self.0.save_phase(name, kept) {
            tracing::error!(%error, phase = name, "cannot save what it remembers");
        }
    }

    /// Writes a generation and then the head that names it.
    pub fn save_with_head(&self, name: &str, head: &Head, generation: &Generation) -> Result<(), Refusal> {
        self.0
            .save_with_head(name, head, generation)
            .map_err(|error| Refusal::Machine(format!("it cannot be kept, so it is not put in: {error}")))
    }

    pub fn save_generation(&self, name: &str, generation: &Generation) {
        if let Err(error) = self.0.save_generation(generation) {
            tracing::error!(%error, phase = name, "cannot keep it; a start without its file would be one without it");
        }
    }

    /// Forgets a phase that was taken out.
    pub fn forget(&self, name: &str, head: &Head) {
        if let Err(error) = self.0.remove_head(name) {
            tracing::error!(%error, phase = name, "cannot forget it on disk");
        }
        self.remove_generations(head.lineage.digests());
    }

    /// Leftovers are removed at the next start.
    pub fn remove_generations(&self, digests: impl Iterator<Item = Digest>) {
        for digest in digests {
            if let Err(error) = self.0.remove_generation(&digest) {
                tracing::debug!(%error, "an old generation stays on disk for now");
            }
        }
    }

    /// Removes generations that no head names.
    pub fn prune(&self, slots: &PhaseSlots) {
        if let Err(error) = self.0.prune_generations(slots.heads()) {
            tracing::debug!(%error, "old generations stay on disk for now");
        }
    }
}
