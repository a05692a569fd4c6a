//! All phases of the drop-in folder, by name.

use std::collections::BTreeMap;
use std::time::Duration;

use super::decide;
use super::options::ScanKind;
use super::slot::PhaseSlot;
use crate::config::ManifestFile;
use crate::data::Head;
use crate::registry::{Digest, RejectedPhase};

/// See the module.
#[derive(Default)]
pub(super) struct PhaseSlots {
    pub by_name: BTreeMap<String, PhaseSlot>,
}

impl PhaseSlots {
    /// The slot `name`, made if there is none.
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

    pub fn heads(&self) -> impl Iterator<Item = &Head> {
        self.by_name.values().map(PhaseSlot::head)
    }

    /// Names of phases for which `is` holds.
    pub fn names(&self, is: impl Fn(&str, &PhaseSlot) -> bool) -> Vec<String> {
        self.by_name.iter().filter(|(name, slot)| is(name, slot)).map(|(name, _)| name.clone()).collect()
    }

    /// The name of the phase that `file` is about. Where not even that can be read, it is the phase loaded from there.
    pub fn name_of(&self, file: &ManifestFile) -> String {
        if file.manifest.is_ok() || self.by_name.contains_key(&file.name) {
            return file.name.clone();
        }
        let known = self.by_name.iter().find(|(_, slot)| slot.is_from(&file.path));
        known.map_or_else(|| file.name.clone(), |(name, _)| name.clone())
    }

    /// When a retry is due or a missing file counts as gone.
    pub fn next(&self) -> Option<Duration> {
        let retries = self.by_name.values().filter_map(PhaseSlot::again_at);
        let missing = self.by_name.values().filter_map(PhaseSlot::missing_since).map(|at| at + super::QUIET);
        retries.chain(missing).min()
    }

    pub fn are_missing(&self) -> bool {
        self.by_name.values().any(|slot| slot.missing_since().is_some())
    }

    /// What lies in the folder and does not run.
    pub fn rejected(&self) -> impl Iterator<Item = &RejectedPhase> {
        self.by_name.values().filter_map(PhaseSlot::rejected)
    }

    pub fn count_running(&self) -> usize {
        self.by_name.values().filter(|slot| slot.running().is_some()).count()
    }

    /// Generations in memory: those that run, and those that could return.
    pub fn count_generations(&self) -> usize {
        let running = self.by_name.values().filter(|slot| slot.running().is_some());
        running.map(|slot| slot.head().lineage.digests().count()).sum()
    }

    /// Notes which files are there; the names of phases whose files are gone for good.
    pub fn gone(&mut self, files: &[ManifestFile], kind: ScanKind, now: Duration) -> Vec<String> {
        let names: Vec<(String, bool)> = files
            .iter()
            .map(|file| (self.name_of(file), file.path.extension().is_some_and(|end| end == "toml")))
            .collect();
        let mut gone = Vec::new();
        for (name, slot) in &mut self.by_name {
            // A module without a manifest is enough for what does not run.
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
}
