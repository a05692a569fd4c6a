//! All phases of the drop-in folder by name, in memory and in the data folder.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::ScanKind;
use super::decide;
use super::slot::PhaseSlot;
use crate::config::ManifestFile;
use crate::data::{DataError, DataFolder};
use crate::disk::{DiskCalls, StateWriter};
use crate::loader::PhaseRefusal;
use crate::registry::{Digest, KeptPhase, RejectedPhase};

/// See the module.
pub(super) struct PhaseSlots {
    pub by_name: BTreeMap<String, PhaseSlot>,
    pub folder: Arc<DataFolder>,
    /// Writes what phases keep, in one order with what the ticks save, and shows who waits for that. None: written here.
    pub writer: Option<(Arc<StateWriter>, Arc<DiskCalls>)>,
}

impl PhaseSlots {
    /// The slot `name`, created if it does not exist.
    pub fn entry(&mut self, name: &str) -> &mut PhaseSlot {
        self.by_name.entry(name.to_owned()).or_default()
    }

    pub fn running(&self, name: &str) -> Option<Digest> {
        self.by_name.get(name)?.running()
    }

    /// When a retry of the phase `name` is due.
    pub fn again_at(&self, name: &str) -> Option<Duration> {
        self.by_name.get(name)?.again_at()
    }

    /// Names of the phases for which `is` returns true.
    pub fn names(&self, is: impl Fn(&str, &PhaseSlot) -> bool) -> Vec<String> {
        self.by_name.iter().filter(|(name, slot)| is(name, slot)).map(|(name, _)| name.clone()).collect()
    }

    /// The name of the phase that `file` describes, or that was loaded from it if the file cannot be read now.
    pub fn name_of(&self, file: &ManifestFile) -> String {
        if file.manifest.is_ok() || self.by_name.contains_key(&file.name) {
            return file.name.clone();
        }
        let known = self.by_name.iter().find(|(_, slot)| slot.is_from(&file.path));
        known.map_or_else(|| file.name.clone(), |(name, _)| name.clone())
    }

    /// When a retry is due, a missing file counts as gone, or a last good generation can be put in.
    pub fn next(&self) -> Option<Duration> {
        let retries = self.by_name.values().filter_map(PhaseSlot::again_at);
        let missing =
            self.by_name.values().filter_map(PhaseSlot::missing_since).map(|at| at + decide::GONE_AFTER);
        let restores = self.by_name.values().filter_map(PhaseSlot::restores_at);
        retries.chain(missing).chain(restores).min()
    }

    pub fn are_missing(&self) -> bool {
        self.by_name.values().any(|slot| slot.missing_since().is_some())
    }

    /// Files in the folder that do not run, and why.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedPhase> {
        self.by_name.values().filter_map(PhaseSlot::rejected)
    }

    pub fn all_running(&self) -> impl Iterator<Item = &PhaseSlot> {
        self.by_name.values().filter(|slot| slot.running().is_some())
    }

    /// Notes which files are there. Returns the phases with files that are gone for good.
    pub fn gone(&mut self, files: &[ManifestFile], kind: ScanKind, now: Duration) -> Vec<String> {
        let names: Vec<(String, bool)> = files
            .iter()
            .map(|file| (self.name_of(file), file.path.extension().is_some_and(|end| end == "toml")))
            .collect();
        let mut gone = Vec::new();
        for (name, slot) in &mut self.by_name {
            // For a phase that does not run, a module without a manifest is enough.
            let is_there = |(known, is_manifest): &(String, bool)| {
                known == name && (*is_manifest || slot.running().is_none())
            };
            if names.iter().any(is_there) {
                slot.found();
            } else if decide::takes_out(kind, slot.missing(now), now) {
                gone.push(name.clone());
            }
        }
        gone
    }

    /// Writes every record that is not on disk. A failed write is tried again at the next scan.
    pub fn save_heads(&mut self) {
        for (name, slot) in &mut self.by_name {
            slot.save(name, &self.folder);
        }
    }

    /// Removes generations that no record names, if the disk has every record.
    pub fn prune_generations(&self) {
        if self.by_name.values().all(PhaseSlot::is_saved) {
            self.folder.prune_generations(self.by_name.values().map(PhaseSlot::head));
        }
    }

    /// What a phase that does not run has kept.
    pub fn load_kept(&self, name: &str) -> Result<KeptPhase, PhaseRefusal> {
        if let Some(kept) = self.writer.as_ref().and_then(|(writer, _)| writer.unsaved_phase(name)) {
            return Ok(kept);
        }
        let loaded = self.folder.load_phase(name).map_err(|error| match error {
            DataError::Newer { .. } => PhaseRefusal::Bad(error.to_string()),
            _ => PhaseRefusal::Machine(error.to_string()),
        })?;
        Ok(loaded.logged(Some(name)))
    }

    /// Writes what a phase keeps, as it was after this many `beats`; `None` if the phase does not run.
    pub fn save_kept(&self, name: &str, kept: KeptPhase, beats: Option<u64>) {
        if let Some((writer, calls)) = &self.writer {
            calls.during("save", self.folder.path(), || writer.put_phase_and_wait(name, kept, beats));
        } else if let Err(error) = self.folder.save_phase(name, &kept) {
            tracing::error!(%error, phase = name, "cannot save what it remembers");
        }
    }

    /// Forgets a phase, in memory and on disk.
    pub fn forget(&mut self, name: &str) {
        if let Some(slot) = self.by_name.remove(name) {
            self.folder.forget(name, slot.head());
        }
    }
}
