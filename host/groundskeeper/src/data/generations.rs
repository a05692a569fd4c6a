//! Saved generations of drop-in phases: the current one, the former one, and the digests known to be bad.
//!
//! A generation never changes, so its file is named by its digest. One small file per phase records which generations
//! count. It is replaced as a whole, so a crash leaves the phase at the old or the new state, never in between.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::state::{MODE, StateFile};
use super::{DataError, DataFolder};
use crate::registry::Lineage;

/// Subfolder of the data folder.
const FOLDER: &str = "generations";

/// Manifest and module of one phase, read together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Generation {
    /// The manifest as it was read (TOML).
    pub manifest: String,
    /// The bytes of the component or the shared library.
    pub module: Vec<u8>,
}

impl Generation {
    /// Covers everything that decides what the phase does.
    pub fn digest(&self) -> [u8; 32] {
        self.digest_with(&Sha256::digest(&self.module).into())
    }

    /// [`Generation::digest`] if the SHA-256 of the module is known.
    pub(crate) fn digest_with(&self, module: &[u8; 32]) -> [u8; 32] {
        Sha256::new().chain_update(module).chain_update(&self.manifest).finalize().into()
    }
}

/// The generations of one phase, as saved.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct GenerationRecord {
    /// The manifest's file.
    #[serde(with = "groundskeeper_base::paths::bytes")]
    pub file: PathBuf,
    pub lineage: Lineage<()>,
}

pub(super) fn head_file(phase: &str) -> StateFile<GenerationRecord> {
    StateFile::new(format!("{FOLDER}/{phase}.gk").into(), *b"GKhd", 1)
}

pub(super) fn generation_file(digest: &[u8; 32]) -> StateFile<Generation> {
    let name = data_encoding::HEXLOWER.encode(digest);
    StateFile::new(format!("{FOLDER}/{name}.gen").into(), *b"GKgn", 1)
}

impl DataFolder {
    /// Every phase with a saved record, by name. A damaged record is moved aside, and its phase counts as new.
    ///
    /// # Errors
    /// [`DataError::Newer`] or [`DataError::Io`].
    pub(crate) fn load_heads(&self) -> Result<Vec<(String, GenerationRecord)>, DataError> {
        let mut heads = Vec::new();
        for path in self.generations("gk")? {
            let Some(name) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            heads.push((name.to_owned(), head_file(name).load(self)?.logged(Some(name))));
        }
        Ok(heads)
    }

    /// The files with this extension.
    fn generations(&self, extension: &str) -> Result<Vec<PathBuf>, DataError> {
        let folder = self.path.join(FOLDER);
        match self.files.list(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(DataError::io("cannot read", &folder)(error)),
            Ok(listed) => {
                let paths = listed.into_iter().map(|(path, _)| path);
                Ok(paths.filter(|path| path.extension().is_some_and(|end| end == extension)).collect())
            }
        }
    }

    pub(crate) fn save_head(&self, phase: &str, head: &GenerationRecord) -> Result<(), DataError> {
        head_file(phase).save(self, head)
    }

    /// The generation with this digest. `None` if it is missing or damaged.
    ///
    /// # Errors
    /// As [`DataFolder::load_book`].
    pub(crate) fn load_generation(&self, digest: &[u8; 32]) -> Result<Option<Generation>, DataError> {
        let generation = generation_file(digest).load(self)?.logged(None);
        Ok(Some(generation).filter(|generation| generation.digest() == *digest))
    }

    /// Saves a generation that runs even if this fails.
    pub(crate) fn save_generation(&self, phase: &str, generation: &Generation) {
        if let Err(error) = generation_file(&generation.digest()).save(self, generation) {
            tracing::error!(%error, phase, "cannot save this generation; without its file in the folder, the next start cannot run it");
        }
    }

    /// Saves a generation, and then the record that names it.
    ///
    /// # Errors
    /// [`DataError::Io`]; the old record is still there then.
    pub(crate) fn save_with_head(
        &self,
        phase: &str,
        head: &GenerationRecord,
        generation: &Generation,
    ) -> Result<(), DataError> {
        let (named, head_file) = (generation_file(&generation.digest()), head_file(phase));
        let files = [
            (named.path_in(self), named.encode(generation)),
            (head_file.path_in(self), head_file.encode(head)),
        ];
        self.make_folder_of(&files[1].0)?;
        self.files.write_all(&files, MODE).map_err(DataError::io("cannot write", &files[1].0))
    }

    /// Removes the record of a phase, and the generations that it names.
    pub(crate) fn forget(&self, phase: &str, head: &GenerationRecord) {
        if let Err(error) = self.remove(&head_file(phase).path_in(self)) {
            tracing::error!(%error, phase, "cannot remove its record from disk");
        }
        self.remove_generations(head.lineage.digests());
    }

    /// Removes generations. What cannot be removed now is removed at the next start.
    pub(crate) fn remove_generations(&self, digests: impl IntoIterator<Item = [u8; 32]>) {
        for digest in digests {
            if let Err(error) = self.remove(&generation_file(&digest).path_in(self)) {
                tracing::debug!(%error, "an old generation stays on disk for now");
            }
        }
    }

    /// Removes every generation that none of `heads` names: leftovers of a crash.
    pub(crate) fn prune_generations<'a>(&self, heads: impl Iterator<Item = &'a GenerationRecord>) {
        let digests = heads.flat_map(|head| head.lineage.digests());
        let named: BTreeSet<PathBuf> = digests.map(|digest| generation_file(&digest).path_in(self)).collect();
        let pruned = self.generations("gen").and_then(|paths| {
            let mut unnamed = paths.iter().filter(|path| !named.contains(*path));
            unnamed.try_for_each(|path| self.remove(path))
        });
        if let Err(error) = pruned {
            tracing::debug!(%error, "old generations stay on disk for now");
        }
    }

    fn remove(&self, path: &Path) -> Result<(), DataError> {
        self.files.remove(path).map_err(DataError::io("cannot remove", path))
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::registry::{KeptMemory, KeptPhase};

    /// As 0.1 wrote it, before the lineage was a separate type.
    #[derive(Serialize)]
    struct OldHead {
        file: PathBuf,
        now: Option<[u8; 32]>,
        former: Option<([u8; 32], KeptPhase)>,
        on_probation: bool,
        bad: Vec<([u8; 32], String)>,
    }

    #[test]
    fn heads_of_earlier_versions_are_read_and_written_bit_for_bit() {
        let memory = Some(KeptMemory { version: 7, bytes: vec![1, 2, 3] });
        let kept = KeptPhase { memory, ..KeptPhase::default() };
        let file = PathBuf::from("/etc/groundskeeper/phases.d/alpha.toml");
        let odd = GenerationRecord {
            file: PathBuf::from(OsString::from_vec(b"/etc/x\xff/alpha.toml".to_vec())),
            ..GenerationRecord::default()
        };
        let again: GenerationRecord = postcard::from_bytes(&postcard::to_stdvec(&odd).unwrap()).unwrap();
        assert_eq!(again, odd);
        let mut head = GenerationRecord { file: file.clone(), ..GenerationRecord::default() };
        head.lineage.started(Some([1; 32]));
        head.lineage.offered([2; 32], kept.clone(), ());
        head.lineage.failed("boom".to_owned());
        for on_probation in [false, true] {
            if on_probation {
                head.lineage.offered([3; 32], kept.clone(), ());
            }
            let old = OldHead {
                file: file.clone(),
                now: Some([if on_probation { 3 } else { 1 }; 32]),
                former: on_probation.then(|| ([1; 32], kept.clone())),
                on_probation,
                bad: vec![([2; 32], "boom".to_owned())],
            };
            let bytes = postcard::to_stdvec(&old).unwrap();
            assert_eq!(postcard::to_stdvec(&head).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<GenerationRecord>(&bytes).unwrap(), head);
        }
    }
}
