//! A start: what lies in the folder, held against what ran when the last process ended.

use std::io;
use std::path::{Path, PathBuf};

use super::keeper::{Keeper, Mood, Put, TRIAL_LIMIT, put};
use super::report::{Change, ReloadReport};
use super::unit::{Refusal, Unit};
use super::{Desk, ask};
use crate::config::{Declared, Manifest, ManifestFile};
use crate::cycle::Scene;
use crate::data::{DataError, Generation};
use crate::registry::{Former, LastRuns, PhaseSpec, RejectedPhase};

/// How much a node that starts takes from its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartFrom {
    /// What lies there.
    Folder,
    /// The generations before those that ran: the last starts did not come far.
    Former,
    /// Nothing.
    Nothing,
}

/// After so many starts that did not come far, generations before those that ran are taken ...
const STARTS_BEFORE_FORMER: u32 = 3;
/// ... and after so many, nothing of the folder.
const STARTS_BEFORE_NOTHING: u32 = 6;

impl StartFrom {
    /// After so many starts that did not come far, as [`DataFolder::note_start`](crate::data::DataFolder::note_start)
    /// counts them.
    pub fn after(starts: u32) -> Self {
        match starts {
            STARTS_BEFORE_NOTHING.. => Self::Nothing,
            STARTS_BEFORE_FORMER.. => Self::Former,
            _ => Self::Folder,
        }
    }
}

/// Why a file is not begun with, and of which bytes that is said.
type Refused = (Refusal, Option<[u8; 32]>);

impl Keeper {
    /// Loads what the node begins with: of each phase what lies in the folder, else the last generation that was good.
    /// Only bytes that have not run here before are tried. `last_runs` continues the cadence of an earlier process.
    ///
    /// # Errors
    /// If the data folder cannot be read.
    pub fn begin(
        &mut self,
        desk: &mut dyn Desk,
        trust: StartFrom,
        last_runs: &LastRuns,
    ) -> Result<(), DataError> {
        for (name, loaded) in self.folder.load_heads()? {
            if let Some(warning) = loaded.warning {
                tracing::warn!(phase = name, "{warning}");
            }
            self.units.insert(name, Unit { head: loaded.value, ..Unit::default() });
        }
        if trust == StartFrom::Former {
            self.go_back();
        }
        let mut puts = Vec::new();
        let mut report = ReloadReport::default();
        if let (Some(files), Some(scene)) = (self.files_at_start(), ask(desk, |cycle| cycle.scene())) {
            let names: Vec<String> = files.iter().map(|file| self.name_of(file)).collect();
            let gone: Vec<String> = self.units.keys().filter(|name| !names.contains(name)).cloned().collect();
            gone.iter().for_each(|name| self.forget(name));
            for file in files.iter().filter(|file| !file.is_built_in) {
                let name = self.name_of(file);
                let loaded = match trust {
                    StartFrom::Nothing => Err(self.nothing_of(file, &name)),
                    _ => self.begin_with(file, &name, &scene),
                };
                match loaded {
                    Ok(put) => puts.push(put),
                    Err((refusal, digest)) => {
                        let kind =
                            file.manifest.as_ref().map_or(String::new(), |found| found.kind().to_owned());
                        let file = Some(file.path.clone());
                        let told = RejectedPhase { name, kind, file, digest, ..RejectedPhase::default() };
                        self.refuse(refusal, told, &mut report);
                    }
                }
            }
            let there: Vec<PathBuf> = self.looks.there().cloned().collect();
            there.iter().for_each(|path| self.looks.settle(path));
        }
        if trust != StartFrom::Nothing {
            let idle = self.units.iter().filter(|(_, unit)| unit.running.is_none());
            let idle: Vec<String> = idle.map(|(name, _)| name.clone()).collect();
            puts.extend(idle.iter().filter_map(|name| self.last_good(name)));
        }
        puts.iter_mut().for_each(|put| put.last_runs.clone_from(last_runs));
        self.put_first(puts, desk, &mut report);
        self.save_unsaved();
        if let Err(error) = self.folder.prune_generations(self.units.values().map(|unit| &unit.head)) {
            tracing::debug!(%error, "old generations stay on disk for now");
        }
        self.tell(desk);
        Ok(())
    }

    /// What has a good generation and does not run: it could not be read, or the start was told to take nothing.
    pub(super) fn bring_back(&mut self, mood: Mood, desk: &mut dyn Desk, report: &mut ReloadReport) {
        let is_wanted =
            |unit: &Unit| unit.is_unread || mood == Mood::Ordered && unit.head.lineage.current().is_some();
        let idle = self.units.iter().filter(|(_, unit)| unit.running.is_none() && is_wanted(unit));
        let idle: Vec<String> = idle.map(|(name, _)| name.clone()).collect();
        if idle.is_empty() {
            return;
        }
        self.units.values_mut().for_each(|unit| unit.is_unread = false);
        let puts: Vec<Put> = idle.iter().filter_map(|name| self.last_good(name)).collect();
        self.put_first(puts, desk, report);
        for name in idle {
            if let Some(running) = self.units.get(&name).and_then(|unit| unit.running) {
                self.note(&name, Change::Applied, Some(running), None, report);
            }
        }
    }

    fn put_first(&mut self, puts: Vec<Put>, desk: &mut dyn Desk, report: &mut ReloadReport) {
        let names: Vec<(String, &'static str)> =
            puts.iter().map(|put| (put.spec.name.clone(), put.spec.kind)).collect();
        let Some(results) = put(desk, puts) else { return };
        for ((name, kind), result) in names.into_iter().zip(results) {
            let Err(why) = result else { continue };
            let Some(unit) = self.units.get_mut(&name) else { continue };
            let (digest, file) = (unit.running.take(), Some(unit.head.file.clone()));
            let told =
                RejectedPhase { name, kind: kind.to_owned(), file, digest, ..RejectedPhase::default() };
            self.refuse(Refusal::Bad(why), told, report);
        }
    }

    fn files_at_start(&mut self) -> Option<Vec<ManifestFile>> {
        match self.folder.files().list(&self.options.dir) {
            Ok(listed) => {
                self.looks.look(listed, self.clock.mono());
                self.arrange(Mood::Ordered, self.clock.mono())
            }
            Err(error) => {
                // What ran from there may still be wanted: a volume that is not mounted yet is no order to stop.
                self.units.retain(|_, unit| unit.head.file.parent() == Some(&*self.options.dir));
                if error.kind() != io::ErrorKind::NotFound || !self.units.is_empty() {
                    let dir = self.options.dir.display();
                    tracing::warn!("{dir}: {error}; the last good generations of its phases run");
                }
                None
            }
        }
    }

    /// Whatever ran last, the one before it runs now.
    fn go_back(&mut self) {
        for (name, unit) in &mut self.units {
            let why = "the node did not get through its first ticks with it";
            let Some(former) = unit.head.lineage.failed(why.to_owned()) else { continue };
            unit.is_unsaved = true;
            if let Err(error) = self.folder.save_phase(name, &former.kept) {
                tracing::error!(%error, phase = name, "cannot save what it remembers");
            }
        }
    }

    fn begin_with(&mut self, file: &ManifestFile, name: &str, scene: &Scene) -> Result<Put, Refused> {
        let found = self.read(file, name)?;
        let digest = found.digest;
        let refused = |refusal| (refusal, Some(digest));
        let head = self.units.entry(name.to_owned()).or_default().head.clone();
        if let Some(why) = head.lineage.known_bad(&digest) {
            return Err(refused(Refusal::Bad(format!("these very bytes have failed: {why}"))));
        }
        let spec = self.load(&found.manifest, &found.text, &found.module, &found.bytes, false);
        let spec = spec.map_err(refused)?;
        let mut kept = self.kept(name).map_err(refused)?;
        let is_same = head.lineage.current() == Some(digest);
        let is_known = is_same || head.lineage.taken_back(&digest).is_some();
        if !is_known {
            let trial = scene.trial(&spec, &kept, &mut self.fence, TRIAL_LIMIT);
            trial.map_err(|why| refused(Refusal::Bad(format!("on trial: {why}"))))?;
        }
        let mut new = head.clone();
        new.file.clone_from(&found.file);
        if !is_same && let Some(former) = new.lineage.offered(digest, kept.clone(), ()) {
            kept = former.kept;
            if let Err(error) = self.folder.save_phase(name, &kept) {
                tracing::error!(%error, phase = name, "cannot save what it remembers");
            }
        }
        let mut former = None;
        if new.lineage.is_on_probation() {
            former = new.lineage.former().and_then(|former| {
                let held = self.shelved(name, former.digest)?;
                Some(Former { digest: former.digest, kept: former.kept.clone(), held })
            });
            if former.is_none() {
                new.lineage.former_lost();
            }
        }
        let generation = Generation { manifest: found.text, module: found.bytes };
        if !is_known && let Err(error) = self.folder.save_generation(&generation) {
            tracing::error!(%error, phase = name, "cannot keep it; a start without its file would be one without it");
        }
        if let Some(unit) = self.units.get_mut(name) {
            unit.is_unsaved |= unit.head != new;
            unit.head = new;
            unit.running = Some(digest);
        }
        Ok(Put { spec, kept, former, last_runs: LastRuns::new() })
    }

    /// A generation as it was kept.
    fn shelved(&mut self, name: &str, digest: [u8; 32]) -> Option<PhaseSpec> {
        let generation = match self.folder.load_generation(&digest) {
            Ok(generation) => generation?,
            Err(error) => {
                tracing::error!(%error, phase = name, "a generation that was kept cannot be read; tried again");
                self.units.entry(name.to_owned()).or_default().is_unread = true;
                return None;
            }
        };
        let file = self.units.get(name).map(|unit| unit.head.file.clone()).unwrap_or_default();
        let manifest = Manifest::parse(&generation.manifest, &file.display().to_string()).ok()?;
        let Declared::Guest(guest) = &manifest.body else { return None };
        let module = file.parent().unwrap_or(Path::new("")).join(&guest.module);
        match self.load(&manifest, &generation.manifest, &module, &generation.module, false) {
            Ok(spec) => Some(spec),
            Err(refusal) => {
                tracing::error!(
                    phase = name,
                    why = refusal.words(),
                    "a generation that was kept cannot be loaded"
                );
                None
            }
        }
    }

    /// The last generation that was good, whatever lies in the folder.
    fn last_good(&mut self, name: &str) -> Option<Put> {
        let head = self.units.get(name)?.head.clone();
        // One on probation was never good.
        if let Some(now) = head.lineage.proven_current() {
            let spec = self.shelved(name, now);
            let kept = self.kept(name);
            let unit = self.units.get_mut(name)?;
            match (spec, kept) {
                (Some(spec), Ok(kept)) => {
                    unit.running = Some(now);
                    return Some(Put { spec, kept, former: None, last_runs: LastRuns::new() });
                }
                // A disk that fails for a moment is no reason to take away what the phase remembers.
                (Some(_), Err(refusal)) => {
                    unit.is_unread = matches!(refusal, Refusal::Machine(_));
                    return None;
                }
                (None, _) if unit.is_unread => return None,
                (None, _) => {}
            }
        }
        let Former { digest, kept, .. } = head.lineage.former()?.clone();
        let spec = self.shelved(name, digest)?;
        if let Err(error) = self.folder.save_phase(name, &kept) {
            tracing::error!(%error, phase = name, "cannot save what it remembers");
        }
        let unit = self.units.get_mut(name)?;
        unit.head.lineage.reverted();
        unit.running = Some(digest);
        unit.is_unsaved = true;
        Some(Put { spec, kept, former: None, last_runs: LastRuns::new() })
    }

    /// With the digest of its bytes, so that no look but an ordered one puts them in.
    fn nothing_of(&mut self, file: &ManifestFile, name: &str) -> Refused {
        let why = "the last starts did not come far, so no phase of the folder runs; `groundskeeper reload` tries again";
        let digest = match self.read(file, name) {
            Ok(found) => Some(found.digest),
            Err((_, digest)) => digest,
        };
        (Refusal::Bad(why.to_owned()), digest)
    }
}
