//! From the files of the folder to generations that hold together: what is at rest is read, and what is required of it is
//! there. Loads nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::keeper::{Keeper, KeeperOptions, Mood};
use super::report::ReloadReport;
use super::unit::{Refusal, Unit};
use crate::config::{
    Declared, MOST_MANIFEST_BYTES, Manifest, ManifestFile, Problem, Require, arrange_manifests,
};
use crate::data::generation_digest;
use crate::loader::MOST_BYTES;
use crate::registry::RejectedPhase;

/// Files of one phase as they were read together.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) file: PathBuf,
    pub(super) text: String,
    pub(super) manifest: Manifest,
    pub(super) module: PathBuf,
    pub(super) bytes: Vec<u8>,
    pub(super) digest: [u8; 32],
}

impl Keeper {
    /// The manifests of the folder, if there is a reason to read them.
    pub(super) fn arrange(&mut self, mood: Mood, now: Duration) -> Option<Vec<ManifestFile>> {
        let there: Vec<PathBuf> = self.looks.there().cloned().collect();
        let is_due = |at: Option<Duration>| at.is_some_and(|at| now >= at);
        let why = mood != Mood::Hint
            || is_due(self.next())
            || self.units.values().any(|unit| unit.missing_since.is_some());
        why.then(|| {
            let (files, before) = (self.folder.files(), std::mem::take(&mut self.parsed));
            self.unread.clear();
            let mut read = |path: &Path| {
                let bytes = files.read(path, MOST_MANIFEST_BYTES + 1).map_err(|error| {
                    self.unread.insert(path.to_owned());
                    error.to_string()
                })?;
                if bytes.len() as u64 > MOST_MANIFEST_BYTES {
                    return Err("it is too large for a manifest".to_owned());
                }
                String::from_utf8(bytes).map_err(|error| error.to_string())
            };
            arrange_manifests(there, |path| {
                let text = read(&path);
                let same = before.get(&path).filter(|file| Ok(&file.text) == text.as_ref());
                let file = same.cloned().unwrap_or_else(|| ManifestFile::of(path, text));
                if !file.text.is_empty() {
                    self.parsed.insert(file.path.clone(), file.clone());
                }
                file
            })
        })
    }

    /// Reads what is new among `files`, as far as it is at rest. What does not hold together is refused.
    pub(super) fn examine(
        &mut self,
        files: &Option<Vec<ManifestFile>>,
        mood: Mood,
        now: Duration,
        report: &mut ReloadReport,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        let Some(files) = files else { return found };
        let guests = files.iter().filter(|file| !file.is_built_in);
        for file in guests {
            let name = self.name_of(file);
            let signature = (self.options.require == Require::Signature).then(|| signature_of(&file.path));
            let parts: Vec<PathBuf> =
                [file.path.clone()].into_iter().chain(file.module()).chain(signature).collect();
            let retry = self.units.get(&name).and_then(Unit::again_at).is_some_and(|at| now >= at);
            let dirty = parts.iter().any(|part| self.looks.is_dirty(part));
            let at_rest = parts.iter().all(|part| self.looks.is_at_rest(part, now));
            let is_wanted = match mood {
                Mood::Ordered => true,
                Mood::Thorough => at_rest,
                Mood::Hint => at_rest && (dirty || retry),
            };
            if !is_wanted {
                if let Some(candidate) =
                    self.units.get_mut(&name).and_then(|unit| unit.candidate.as_mut()).filter(|_| retry)
                {
                    // Its files have changed meanwhile: they come to rest first.
                    candidate.again_at = None;
                }
                continue;
            }
            match self.read(file, &name) {
                Ok(new) => {
                    let stamps = parts.iter().map(|part| self.folder.files().stamp(part).ok());
                    let stamps: Vec<_> = stamps.collect();
                    let still =
                        parts.iter().zip(stamps).map(|(part, stamp)| self.looks.confirm(part, stamp, now));
                    if !still.collect::<Vec<_>>().into_iter().all(|still| still) && mood != Mood::Ordered {
                        continue;
                    }
                    parts.iter().for_each(|part| self.looks.settle(part));
                    if self.is_news(&new, mood, now, report) {
                        found.push(new);
                    }
                }
                Err((refusal, digest)) => {
                    parts.iter().for_each(|part| self.looks.settle(part));
                    let kind = file.manifest.as_ref().map_or(String::new(), |found| found.kind().to_owned());
                    let told = RejectedPhase {
                        name,
                        kind,
                        file: Some(file.path.clone()),
                        digest,
                        ..RejectedPhase::default()
                    };
                    self.refuse(refusal, told, report);
                }
            }
        }
        // What is in nobody's files is of no interest, now that it has been seen.
        let rested = self.looks.dirty_at_rest(now);
        let claimed: Vec<PathBuf> =
            files.iter().flat_map(|file| [file.path.clone()].into_iter().chain(file.module())).collect();
        rested.iter().filter(|path| !claimed.contains(path)).for_each(|path| self.looks.settle(path));
        found
    }

    /// Whose file it is. One that does not even tell its name is that of the phase that was loaded from there.
    pub(super) fn name_of(&self, file: &ManifestFile) -> String {
        let is_of = |unit: &Unit| {
            (unit.running.is_some() || unit.head.lineage.current().is_some()) && unit.head.file == file.path
        };
        let known = || self.units.iter().find(|(_, unit)| is_of(unit));
        match &file.manifest {
            Ok(_) => file.name.clone(),
            Err(_) if self.units.contains_key(&file.name) => file.name.clone(),
            Err(_) => known().map_or_else(|| file.name.clone(), |(name, _)| name.clone()),
        }
    }

    pub(super) fn read(
        &mut self,
        file: &ManifestFile,
        name: &str,
    ) -> Result<Found, (Refusal, Option<[u8; 32]>)> {
        let text_digest = (!file.text.is_empty()).then(|| Sha256::digest(&file.text).into());
        let manifest = match &file.manifest {
            Ok(manifest) => manifest.clone(),
            Err(problems) => {
                let why = problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n");
                let is_module = file.path.extension().is_none_or(|extension| extension != "toml");
                let refusal = if self.unread.contains(&file.path) {
                    Refusal::Machine
                } else if file.is_torn || is_module {
                    Refusal::Unfinished
                } else {
                    Refusal::Bad
                };
                return Err((refusal(why), text_digest));
            }
        };
        self.require(file, &manifest).map_err(|refusal| (refusal, text_digest))?;
        let (module, bytes) = match file.module() {
            Some(module) => {
                let bytes = self.folder.files().read(&module, MOST_BYTES as u64 + 1);
                self.counts.digests += 1;
                (module, bytes)
            }
            None => unreachable!("only manifests of guests come here"),
        };
        let bytes = bytes.map_err(|error| {
            let why = format!("{}: cannot be read: {error}", module.display());
            let is_gone = error.kind() == io::ErrorKind::NotFound;
            (if is_gone { Refusal::Unfinished(why) } else { Refusal::Machine(why) }, text_digest)
        })?;
        let digest = generation_digest(&Sha256::digest(&bytes).into(), &file.text);
        let (file, text) = (file.path.clone(), file.text.clone());
        Ok(Found { name: name.to_owned(), file, text, manifest, module, bytes, digest })
    }

    /// Whether the manifest pins its module and is signed, as far as that is required.
    fn require(&self, file: &ManifestFile, manifest: &Manifest) -> Result<(), Refusal> {
        let KeeperOptions { require, public_key, .. } = &self.options;
        let Declared::Guest(guest) = &manifest.body else { return Ok(()) };
        if *require == Require::Nothing {
            return Ok(());
        }
        let path = file.path.display();
        if guest.sha256.is_none() {
            let module = guest.module.display();
            return Err(Refusal::Bad(format!(
                "{path}: guests.require wants the digest of the module; write sha256 = \"..\", as `sha256sum {module}` says it"
            )));
        }
        if *require == Require::Digest {
            return Ok(());
        }
        let place = signature_of(&file.path);
        let wrong = |why: &dyn std::fmt::Display| {
            let (place, name) =
                (place.display(), file.path.file_name().unwrap_or_default().to_string_lossy());
            Refusal::Unfinished(format!(
                "{place}: {why}; guests.require wants a signature of the manifest: minisign -S -m {name}"
            ))
        };
        let text = self.folder.files().read(&place, MOST_MANIFEST_BYTES).map_err(|error| wrong(&error))?;
        let signature = minisign_verify::Signature::decode(&String::from_utf8_lossy(&text));
        let signature = signature.map_err(|error| wrong(&error))?;
        let key = minisign_verify::PublicKey::from_base64(public_key.as_deref().unwrap_or_default());
        let key = key.map_err(|error| wrong(&error))?;
        // Ed25519 with and without hashing first: both are minisign's.
        key.verify(file.text.as_bytes(), &signature, true).map_err(|error| wrong(&error))
    }
}

/// Where the signature of a manifest lies.
fn signature_of(manifest: &Path) -> PathBuf {
    let mut path = manifest.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}

impl Found {
    pub(super) fn told(&self) -> RejectedPhase {
        RejectedPhase {
            name: self.name.clone(),
            kind: self.manifest.kind().to_owned(),
            file: Some(self.file.clone()),
            digest: Some(self.digest),
            ..RejectedPhase::default()
        }
    }
}
