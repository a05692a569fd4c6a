//! Loads saved generations, for phases with files that do not say what runs.

use std::path::Path;

use super::exchange::Replacement;
use super::reloader::PhaseReloader;
use super::slot::PhaseSlot;
use crate::config::Manifest;
use crate::data::GenerationRecord;
use crate::loader::PhaseRefusal;
use crate::registry::{Digest, KeptPhase, PhaseSpec, RejectedPhase, Standing};

impl PhaseReloader {
    /// Loads the generation `digest` of the phase `name`, with its manifest at `file`. `None` if it is gone or can no
    /// longer be loaded.
    ///
    /// # Errors
    /// The disk failed, the machine is short of something, or the module is being compiled: the caller must try again.
    pub(super) fn load_kept_generation(
        &mut self,
        name: &str,
        file: &Path,
        digest: &Digest,
    ) -> Result<Option<PhaseSpec>, PhaseRefusal> {
        let generation = self.slots.folder.load_generation(digest).map_err(|error| {
            tracing::error!(%error, phase = name, "cannot read a saved generation; will try again");
            PhaseRefusal::Machine(error.to_string())
        })?;
        let Some(generation) = generation else { return Ok(None) };
        let Ok(manifest) = Manifest::parse(&generation.manifest, &file.display().to_string()) else {
            return Ok(None);
        };
        match self.loader.load(file, &manifest, &generation, false) {
            Ok(spec) => Ok(Some(spec)),
            Err(later) if later.is_for_now() => Err(later),
            Err(refusal) => {
                let why = refusal.to_string();
                tracing::error!(phase = name, why, "cannot load a saved generation");
                Ok(None)
            }
        }
    }

    /// The last good generation of the phase `name`, whatever is in the folder.
    pub(super) fn last_good(&mut self, name: &str) -> Option<Replacement> {
        let put = self.find_last_good(name);
        // A brief disk failure is no reason to discard what the phase has stored.
        self.slots.entry(name).restore_later(put.as_ref().err());
        put.ok().flatten()
    }

    fn find_last_good(&mut self, name: &str) -> Result<Option<Replacement>, PhaseRefusal> {
        let head = self.slots.entry(name).head().clone();
        if let Some(current) = head.lineage.proven_current()
            && let Some(spec) = self.load_kept_generation(name, &head.file, &current)?
        {
            let kept = self.slots.load_kept(name)?;
            return Ok(Some(Replacement::restored(spec, kept, self.slots.entry(name))));
        }
        let Some(former) = head.lineage.former() else {
            return self.on_first_probation(name, &head);
        };
        let Some(spec) = self.load_kept_generation(name, &head.file, &former.digest)? else {
            return Ok(None);
        };
        self.slots.save_kept(name, former.kept.clone(), None);
        let slot = self.slots.entry(name);
        slot.head_mut().lineage.reverted();
        Ok(Some(Replacement::restored(spec, former.kept.clone(), slot)))
    }
}

impl PhaseReloader {
    /// The first generation of the phase `name`, if it is on probation: there is no better one.
    fn on_first_probation(
        &mut self,
        name: &str,
        head: &GenerationRecord,
    ) -> Result<Option<Replacement>, PhaseRefusal> {
        let Some(current) = head.lineage.current().filter(|_| head.lineage.is_on_probation()) else {
            return Ok(None);
        };
        let Some(spec) = self.load_kept_generation(name, &head.file, &current)? else { return Ok(None) };
        let kept = self.slots.load_kept(name)?;
        let standing = Standing::Probation(None);
        Ok(Some(Replacement { standing, ..Replacement::restored(spec, kept, self.slots.entry(name)) }))
    }
}

impl Replacement {
    /// A phase that does not run yet and is trusted, with the record of `slot`.
    pub fn restored(spec: PhaseSpec, kept: KeptPhase, slot: &PhaseSlot) -> Self {
        let if_refused = RejectedPhase {
            name: spec.name.clone(),
            kind: spec.kind.to_owned(),
            file: Some(slot.head().file.clone()),
            digest: slot.head().lineage.current(),
            ..RejectedPhase::default()
        };
        Self { spec, kept, standing: Standing::Proven, written: None, if_refused }
    }
}
