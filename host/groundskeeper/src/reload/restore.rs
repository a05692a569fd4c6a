//! Generations as they were kept, for phases whose files do not say what runs.

use std::path::Path;

use super::exchange::Put;
use super::loading::GenerationLoader;
use super::slot::{PhaseSlot, Refusal};
use super::store::GenerationStore;
use crate::config::{Declared, Manifest};
use crate::registry::{Digest, LastRuns, PhaseSpec, RejectedPhase};

/// What becomes of a generation that was kept.
pub(super) enum Shelved {
    Loaded(Box<PhaseSpec>),
    /// The disk failed: tried again.
    Unreadable,
    /// It is gone, or cannot be loaded any more.
    Unusable,
}

/// See the module.
pub(super) struct Restore<'a> {
    pub store: &'a GenerationStore,
    pub loader: &'a mut GenerationLoader,
}

impl Restore<'_> {
    /// Loads the generation `digest` of the phase `name`, whose manifest was `file`.
    pub fn shelved(&mut self, name: &str, file: &Path, digest: &Digest) -> Shelved {
        let generation = match self.store.0.load_generation(digest) {
            Ok(Some(generation)) => generation,
            Ok(None) => return Shelved::Unusable,
            Err(error) => {
                tracing::error!(%error, phase = name, "a generation that was kept cannot be read; tried again");
                return Shelved::Unreadable;
            }
        };
        let text = &generation.manifest;
        let Ok(manifest) = Manifest::parse(text, &file.display().to_string()) else {
            return Shelved::Unusable;
        };
        let Declared::Guest(guest) = &manifest.body else { return Shelved::Unusable };
        let module = file.parent().unwrap_or(Path::new("")).join(&guest.module);
        match self.loader.load(&manifest, text, &module, &generation.module, false) {
            Ok(spec) => Shelved::Loaded(Box::new(spec)),
            Err(refusal) => {
                let why = refusal.message();
                tracing::error!(phase = name, why, "a generation that was kept cannot be loaded");
                Shelved::Unusable
            }
        }
    }

    /// The last generation of `slot` that was good, whatever lies in the folder.
    pub fn last_good(&mut self, name: &str, slot: &mut PhaseSlot) -> Option<Put> {
        let file = slot.file();
        if let Some(current) = slot.head().lineage.proven_current() {
            match self.shelved(name, &file, &current) {
                Shelved::Loaded(spec) => match self.store.load_kept(name) {
                    Ok(kept) => return Some(Put::restored(*spec, kept, slot)),
                    Err(refusal) => {
                        // A disk that fails for a moment is no reason to take away what the phase remembers.
                        if matches!(refusal, Refusal::Machine(_)) {
                            slot.restore_later();
                        }
                        return None;
                    }
                },
                Shelved::Unreadable => {
                    slot.restore_later();
                    return None;
                }
                Shelved::Unusable => {}
            }
        }
        let former = slot.head().lineage.former()?.clone();
        match self.shelved(name, &file, &former.digest) {
            Shelved::Loaded(spec) => {
                self.store.save_kept(name, &former.kept);
                slot.reverted();
                Some(Put::restored(*spec, former.kept, slot))
            }
            Shelved::Unreadable => {
                slot.restore_later();
                None
            }
            Shelved::Unusable => None,
        }
    }
}

impl Put {
    /// A phase that does not run yet, as `slot` says.
    pub fn restored(spec: PhaseSpec, kept: crate::registry::KeptPhase, slot: &PhaseSlot) -> Self {
        let if_refused = RejectedPhase {
            name: spec.name.clone(),
            kind: spec.kind.to_owned(),
            file: Some(slot.file()),
            digest: slot.head().lineage.current(),
            ..RejectedPhase::default()
        };
        Self { spec, kept, former: None, last_runs: LastRuns::new(), if_refused }
    }
}
