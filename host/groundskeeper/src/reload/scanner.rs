//! Turns the files of the folder into complete generations: reads files that are at rest, and checks that they meet the
//! requirements. Loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::decide::{self, FileState};
use super::required;
use super::slots::PhaseSlots;
use super::tracker::FileTracker;
use super::{ReloadOptions, ScanKind};
use crate::config::{
    MOST_MANIFEST_BYTES, Manifest, ManifestFile, Problem, TrustRequirement, arrange_manifests,
};
use crate::data::{FileSystem, Generation};
use crate::loader::{MOST_BYTES, PhaseRefusal, rejected};
use crate::registry::{Digest, RejectedPhase};

/// Files of one phase that were read together.
pub(super) struct FoundFiles {
    pub name: String,
    pub file: PathBuf,
    pub manifest: Manifest,
    pub generation: Generation,
    pub digest: Digest,
}

/// Files of one phase that cannot be used as they are.
pub(super) struct UnusableFiles {
    pub refusal: PhaseRefusal,
    pub rejected: Box<RejectedPhase>,
}

/// What a scan of the folder found.
pub(super) struct FolderScan {
    pub files: Vec<ManifestFile>,
    /// Phases to read, one after the other: together their modules may be larger than memory.
    pub due: Vec<DueFiles>,
}

/// A phase of the folder whose files must be read.
pub(super) struct DueFiles {
    /// Its manifest's place in [`FolderScan::files`].
    at: usize,
    name: String,
    parts: Vec<PathBuf>,
}

/// See the module.
pub(super) struct FolderScanner {
    options: ReloadOptions,
    files: Arc<dyn FileSystem>,
    tracker: FileTracker,
    /// Manifests as last read. Most scans concern one file, and parsing would be most of their cost.
    parsed: BTreeMap<PathBuf, ManifestFile>,
    /// Manifests that could not be read at the last scan: their content is unknown.
    unread: BTreeSet<PathBuf>,
    /// Number of modules read and hashed.
    pub digests: u64,
}

impl FolderScanner {
    pub fn new(options: ReloadOptions, files: Arc<dyn FileSystem>) -> Self {
        let tracker = FileTracker::default();
        Self { options, files, tracker, parsed: BTreeMap::new(), unread: BTreeSet::new(), digests: 0 }
    }

    /// Uses `files` from now on.
    pub fn files_through(&mut self, files: Arc<dyn FileSystem>) {
        self.files = files;
    }

    pub fn dir(&self) -> &Path {
        &self.options.dir
    }

    /// Every file that was there at the last scan.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tracker.there()
    }

    /// The module of every manifest, whether it is there or not.
    pub fn modules(&self) -> impl Iterator<Item = PathBuf> {
        self.parsed.values().filter_map(ManifestFile::module)
    }

    /// When to scan again without a hint: something is not at rest, or a retry is due.
    pub fn next(&self, slots: &PhaseSlots) -> Option<Duration> {
        slots.next().into_iter().chain(self.tracker.next()).min()
    }

    /// Finds changed files that are at rest. `None` if there is no reason to read manifests.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn scan(
        &mut self,
        slots: &mut PhaseSlots,
        kind: ScanKind,
        now: Duration,
    ) -> io::Result<Option<FolderScan>> {
        self.list(now)?;
        let is_due = self.next(slots).is_some_and(|at| now >= at);
        if kind == ScanKind::Hint && !is_due && !slots.are_missing() {
            return Ok(None);
        }
        let files = self.manifests();
        let mut due = Vec::new();
        // A retry is due only for the first file of a phase: two files that alternate would retry forever.
        let mut retried = BTreeSet::new();
        for (at, file) in files.iter().enumerate().filter(|(_, file)| !file.is_built_in) {
            let name = slots.name_of(file);
            let parts = self.parts(file);
            let state = FileState {
                is_dirty: parts.iter().any(|part| self.tracker.is_dirty(part)),
                is_at_rest: parts.iter().all(|part| self.tracker.is_at_rest(part, now)),
                is_due: slots.again_at(&name).is_some_and(|at| now >= at) && retried.insert(name.clone()),
            };
            if decide::reads(kind, state) {
                due.push(DueFiles { at, name, parts });
            } else if state.is_due {
                slots.entry(&name).postpone();
            }
        }
        self.settle_unclaimed(&files, now);
        Ok(Some(FolderScan { files, due }))
    }

    /// All manifests for a node that starts, at rest or not.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn scan_all(&mut self, now: Duration) -> io::Result<Vec<ManifestFile>> {
        self.list(now)?;
        Ok(self.manifests())
    }

    /// Everything that was listed has been read.
    pub fn settle_all(&mut self) {
        self.tracker.settle_all();
    }

    fn list(&mut self, now: Duration) -> io::Result<()> {
        let listed = self.files.list(&self.options.dir)?;
        self.tracker.update(listed, now);
        Ok(())
    }

    fn manifests(&mut self) -> Vec<ManifestFile> {
        let there: Vec<PathBuf> = self.tracker.there().cloned().collect();
        let before = std::mem::take(&mut self.parsed);
        self.unread.clear();
        arrange_manifests(there, |path| {
            let text = self.read_manifest(&path);
            let same = before.get(&path).filter(|file| Ok(&file.text) == text.as_ref());
            let file = same.cloned().unwrap_or_else(|| ManifestFile::of(path, text));
            if !file.text.is_empty() {
                self.parsed.insert(file.path.clone(), file.clone());
            }
            file
        })
    }

    fn read_manifest(&mut self, path: &Path) -> Result<String, String> {
        let bytes = self.files.read(path, MOST_MANIFEST_BYTES).map_err(|error| {
            if !is_wrong_file(&error) {
                self.unread.insert(path.to_owned());
            }
            error.to_string()
        })?;
        String::from_utf8(bytes).map_err(|error| error.to_string())
    }

    /// The files that make up a phase.
    fn parts(&self, file: &ManifestFile) -> Vec<PathBuf> {
        let signature =
            (self.options.require == TrustRequirement::Signature).then(|| required::signature_of(&file.path));
        [file.path.clone()].into_iter().chain(file.module()).chain(signature).collect()
    }

    /// Reads the files of a phase. `None` if they changed meanwhile, unless the operator ordered the scan.
    pub fn read_due(
        &mut self,
        files: &[ManifestFile],
        due: &DueFiles,
        kind: ScanKind,
        now: Duration,
    ) -> Option<Result<FoundFiles, UnusableFiles>> {
        let DueFiles { at, name, parts } = due;
        let read = self.read(&files[*at], name);
        if read.is_ok() {
            let stamps: Vec<_> = parts.iter().map(|part| self.files.stamp(part).ok()).collect();
            let mut is_still = true;
            for (part, stamp) in parts.iter().zip(stamps) {
                is_still &= self.tracker.confirm(part, stamp, now);
            }
            if !is_still && kind != ScanKind::Ordered {
                return None;
            }
        }
        parts.iter().for_each(|part| self.tracker.settle(part));
        Some(read)
    }

    /// Marks files that belong to no phase as seen.
    fn settle_unclaimed(&mut self, files: &[ManifestFile], now: Duration) {
        let claimed: Vec<PathBuf> =
            files.iter().flat_map(|file| [file.path.clone()].into_iter().chain(file.module())).collect();
        let rested = self.tracker.dirty_at_rest(now);
        rested.iter().filter(|path| !claimed.contains(path)).for_each(|path| self.tracker.settle(path));
    }

    /// Reads manifest and module of the phase `name`.
    pub fn read(&mut self, file: &ManifestFile, name: &str) -> Result<FoundFiles, UnusableFiles> {
        let text_digest = (!file.text.is_empty()).then(|| Sha256::digest(&file.text).into());
        let unusable = |refusal| {
            let rejected = rejected(name, file.manifest.as_ref().ok(), &file.path, text_digest);
            UnusableFiles { refusal, rejected: Box::new(rejected) }
        };
        let manifest = match &file.manifest {
            Ok(manifest) => manifest.clone(),
            Err(problems) => return Err(unusable(self.broken_manifest(file, problems))),
        };
        required::check(&self.options, &*self.files, file, &manifest).map_err(unusable)?;
        let Some(module) = file.module() else { unreachable!("only manifests of guests come here") };
        for part in [&file.path, &module] {
            if let Some(why) = self.files.distrust(part) {
                let why = format!("{}: is not loaded: {why}", part.display());
                return Err(unusable(PhaseRefusal::Bad(why)));
            }
        }
        let bytes = self.files.read(&module, MOST_BYTES as u64);
        self.digests += 1;
        let bytes = bytes.map_err(|error| {
            let why = format!("{}: cannot be read: {error}", module.display());
            unusable(match error.kind() {
                io::ErrorKind::NotFound => PhaseRefusal::Unfinished(why),
                _ if is_wrong_file(&error) => PhaseRefusal::Bad(why),
                _ => PhaseRefusal::Machine(why),
            })
        })?;
        let generation = Generation { manifest: file.text.clone(), module: bytes };
        let digest = generation.digest();
        Ok(FoundFiles { name: name.to_owned(), file: file.path.clone(), manifest, generation, digest })
    }

    fn broken_manifest(&self, file: &ManifestFile, problems: &[Problem]) -> PhaseRefusal {
        let why = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
        let is_module = file.path.extension().is_none_or(|extension| extension != "toml");
        if self.unread.contains(&file.path) {
            PhaseRefusal::Machine(why)
        } else if file.is_torn || is_module {
            PhaseRefusal::Unfinished(why)
        } else {
            PhaseRefusal::Bad(why)
        }
    }
}

/// Whether a read failed because of the file itself, so that another try would fail too: it is no regular file, or too large.
fn is_wrong_file(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::FileTooLarge)
}

impl FoundFiles {
    /// The entry that the node shows if this does not run.
    pub fn rejected(&self) -> RejectedPhase {
        rejected(&self.name, Some(&self.manifest), &self.file, Some(self.digest))
    }
}
