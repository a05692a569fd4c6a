//! A start: what lies in the folder, held against what ran when the last process ended.

use std::io;
use std::time::Duration;

use super::decide::{self, OnStart};
use super::exchange::Put;
use super::loading::GenerationLoader;
use super::restore::{Restore, Shelved};
use super::scanner::{FolderScanner, Found, Unusable, rejected};
use super::slot::{PhaseSlot, Refusal};
use super::slots::PhaseSlots;
use super::store::GenerationStore;
use crate::config::ManifestFile;
use crate::cycle::TrialContext;
use crate::data::{DataError, Generation, Head};
use crate::registry::{Former, PhaseSpec};

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

/// What a node begins with.
#[derive(Default)]
pub(super) struct Started {
    pub puts: Vec<Put>,
    pub refused: Vec<Unusable>,
}

/// See the module.
pub(super) struct Start<'a> {
    pub scanner: &'a mut FolderScanner,
    pub loader: &'a mut GenerationLoader,
    pub store: &'a GenerationStore,
    pub slots: &'a mut PhaseSlots,
    pub from: StartFrom,
    pub now: Duration,
}

impl Start<'_> {
    /// Loads of each phase what lies in the folder, else the last generation that was good. Only bytes that have not run
    /// here before are tried.
    ///
    /// # Errors
    /// If the data folder cannot be read.
    pub fn run(mut self, context: Option<&TrialContext>) -> Result<Started, DataError> {
        for (name, head) in self.store.load_heads()? {
            self.slots.by_name.insert(name, PhaseSlot::new(head));
        }
        if self.from == StartFrom::Former {
            self.go_back();
        }
        let mut started = Started::default();
        if let (Some(files), Some(context)) = (self.files(), context) {
            self.forget_missing(&files);
            for file in files.iter().filter(|file| !file.is_built_in) {
                match self.begin_with(file, context) {
                    Ok(put) => started.puts.push(put),
                    Err(unusable) => started.refused.push(unusable),
                }
            }
            self.scanner.settle_all();
        }
        if self.from != StartFrom::Nothing {
            self.restore_others(&mut started.puts);
        }
        Ok(started)
    }

    /// The manifests of the folder. None if it cannot be read.
    fn files(&mut self) -> Option<Vec<ManifestFile>> {
        match self.scanner.scan_all(self.now) {
            Ok(files) => Some(files),
            Err(error) => {
                let dir = self.scanner.dir();
                // What ran from there may still be wanted: a volume that is not mounted yet is no order to stop.
                self.slots.by_name.retain(|_, slot| slot.head().file.parent() == Some(dir));
                if error.kind() != io::ErrorKind::NotFound || !self.slots.by_name.is_empty() {
                    let dir = dir.display();
                    tracing::warn!("{dir}: {error}; the last good generations of its phases run");
                }
                None
            }
        }
    }

    fn forget_missing(&mut self, files: &[ManifestFile]) {
        let there: Vec<String> = files.iter().map(|file| self.slots.name_of(file)).collect();
        for name in self.slots.names(|name, _| !there.iter().any(|there| there == name)) {
            if let Some(slot) = self.slots.by_name.remove(&name) {
                self.store.forget(&name, slot.head());
            }
        }
    }

    /// Of each phase, the generation before the one that ran last is the current one.
    fn go_back(&mut self) {
        for (name, slot) in &mut self.slots.by_name {
            let Some(former) = slot.head().lineage.former() else { continue };
            self.store.save_kept(name, &former.kept);
            slot.failed("the node did not get through its first ticks with it".to_owned());
        }
    }

    fn begin_with(&mut self, file: &ManifestFile, context: &TrialContext) -> Result<Put, Unusable> {
        let name = self.slots.name_of(file);
        let read = self.scanner.read(file, &name);
        if self.from == StartFrom::Nothing {
            return Err(nothing_of(file, &name, read));
        }
        let found = read?;
        let digest = found.digest;
        self.put_of(found, context)
            .map_err(|refusal| Unusable { refusal, rejected: Box::new(rejected(file, &name, Some(digest))) })
    }

    fn put_of(&mut self, found: Found, context: &TrialContext) -> Result<Put, Refusal> {
        let Found { name, file, text, manifest, module, bytes, digest } = found;
        let mut head = self.slots.entry(&name).head().clone();
        let decision = decide::on_start(&head, &digest);
        if let OnStart::KnownBad(why) = decision {
            return Err(Refusal::known_bad(&why));
        }
        let spec = self.loader.load(&manifest, &text, &module, &bytes, false)?;
        let mut kept = self.store.load_kept(&name)?;
        if decision == OnStart::Try {
            self.loader.try_out(context, &spec, &kept)?;
        }
        head.file = file;
        if decision != OnStart::Continue
            && let Some(former) = head.lineage.offered(digest, kept.clone(), ())
        {
            kept = former.kept;
            self.store.save_kept(&name, &kept);
        }
        let former = self.resumed(&name, &mut head);
        if decision == OnStart::Try {
            self.store.save_generation(&name, &Generation { manifest: text, module: bytes });
        }
        let slot = self.slots.entry(&name);
        slot.set_head(head);
        Ok(Put { former, ..Put::restored(spec, kept, slot) })
    }

    /// The generation to go back to, of a phase on probation. If it cannot be loaded, the probation ends.
    fn resumed(&mut self, name: &str, head: &mut Head) -> Option<Former<PhaseSpec>> {
        if !head.lineage.is_on_probation() {
            return None;
        }
        let former = head.lineage.former()?.clone();
        match self.restore().shelved(name, &head.file, &former.digest) {
            Shelved::Loaded(held) => Some(Former { digest: former.digest, kept: former.kept, held: *held }),
            Shelved::Unreadable | Shelved::Unusable => {
                head.lineage.former_lost();
                None
            }
        }
    }

    /// Phases that no file says anything good of.
    fn restore_others(&mut self, puts: &mut Vec<Put>) {
        let is_begun = |name: &str| puts.iter().any(|put| put.spec.name == name);
        for name in self.slots.names(|name, _| !is_begun(name)) {
            let mut restore = Restore { store: self.store, loader: self.loader };
            puts.extend(self.slots.by_name.get_mut(&name).and_then(|slot| restore.last_good(&name, slot)));
        }
    }

    fn restore(&mut self) -> Restore<'_> {
        Restore { store: self.store, loader: self.loader }
    }
}

/// With the digest of its bytes, so that only an ordered scan puts them in.
fn nothing_of(file: &ManifestFile, name: &str, read: Result<Found, Unusable>) -> Unusable {
    let why = "the last starts did not come far, so no phase of the folder runs; `groundskeeper reload` tries again";
    let digest = match read {
        Ok(found) => Some(found.digest),
        Err(unusable) => unusable.rejected.digest,
    };
    Unusable { refusal: Refusal::Bad(why.to_owned()), rejected: Box::new(rejected(file, name, digest)) }
}
