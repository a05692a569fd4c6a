//! Generations of phases that were dropped in: the one that runs, the one before it, and which bytes are known to be bad.
//!
//! A generation never changes, so its file is named by its digest. Which of them counts stands in one small file per phase
//! that is replaced as a whole: after a crash a phase is at the one or the other, never in between.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::state::{Loaded, MODE, StateFile};
use super::{DataError, DataFolder, FOLDER_MODE};
use crate::registry::Lineage;

/// Where these files are, in the data folder.
const FOLDER: &str = "generations";

/// Manifest and module of one phase, as they were read together.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Generation {
    pub manifest: String,
    pub module: Vec<u8>,
}

impl Generation {
    /// Over everything that decides what the phase does.
    pub fn digest(&self) -> [u8; 32] {
        generation_digest(&Sha256::digest(&self.module).into(), &self.manifest)
    }
}

/// [`Generation::digest`], of a module whose SHA-256 is known.
pub fn generation_digest(module: &[u8; 32], manifest: &str) -> [u8; 32] {
    Sha256::new().chain_update(module).chain_update(manifest).finalize().into()
}

/// Which generations there are of one phase, as it is written down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Head {
    /// The manifest's file.
    pub file: PathBuf,
    pub lineage: Lineage<()>,
}

fn head(phase: &str) -> StateFile<Head> {
    StateFile::new(format!("{phase}.gk"), *b"GKhd", 1)
}

fn generation_name(digest: &[u8; 32]) -> String {
    format!("{}.gen", data_encoding::HEXLOWER.encode(digest))
}

fn generation(digest: &[u8; 32]) -> StateFile<Generation> {
    StateFile::new(generation_name(digest), *b"GKgn", 1)
}

impl DataFolder {
    fn generations(&self) -> PathBuf {
        self.path().join(FOLDER)
    }

    /// Every phase of which a generation is kept, by name. A damaged file is moved aside and told; its phase is as new.
    ///
    /// # Errors
    /// [`DataError::Newer`] or [`DataError::Io`].
    pub fn load_heads(&self) -> Result<Vec<(String, Loaded<Head>)>, DataError> {
        let folder = self.generations();
        let mut heads = Vec::new();
        for (path, _) in self.list_generations()? {
            if path.extension().is_some_and(|extension| extension == "gk")
                && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            {
                heads.push((name.to_owned(), head(name).load(&*self.files, &folder)?));
            }
        }
        Ok(heads)
    }

    fn list_generations(&self) -> Result<Vec<(PathBuf, super::Stamp)>, DataError> {
        let folder = self.generations();
        match self.files.list(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed.map_err(DataError::io("cannot read", &folder)),
        }
    }

    /// # Errors
    /// [`DataError::Io`]; the former file is still there then.
    pub fn save_head(&self, phase: &str, value: &Head) -> Result<(), DataError> {
        head(phase).save(&*self.files, &self.made_generations()?, value)
    }

    /// Forgets the phase; its generations go with [`DataFolder::prune_generations`].
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn remove_head(&self, phase: &str) -> Result<(), DataError> {
        self.remove_file(&self.generations().join(format!("{phase}.gk")))
    }

    /// The generation with this digest; none if it is not there or is damaged.
    ///
    /// # Errors
    /// As [`DataFolder::load_book`].
    pub fn load_generation(&self, digest: &[u8; 32]) -> Result<Option<Generation>, DataError> {
        let loaded = generation(digest).load(&*self.files, &self.generations())?;
        if let Some(warning) = loaded.warning {
            tracing::warn!("{warning}");
        }
        Ok(Some(loaded.value).filter(|generation| generation.digest() == *digest))
    }

    /// # Errors
    /// [`DataError::Io`].
    pub fn save_generation(&self, value: &Generation) -> Result<(), DataError> {
        generation(&value.digest()).save(&*self.files, &self.made_generations()?, value)
    }

    /// Saves a generation, and then the head that names it.
    ///
    /// # Errors
    /// [`DataError::Io`]; the former head is still there then.
    pub fn save_with_head(
        &self,
        phase: &str,
        value: &Head,
        generation_of_it: &Generation,
    ) -> Result<(), DataError> {
        let folder = self.made_generations()?;
        let named = generation(&generation_of_it.digest()).encode(&folder, generation_of_it);
        let files = [named, head(phase).encode(&folder, value)];
        self.files.write_all(&files, MODE).map_err(DataError::io("cannot write", &files[1].0))
    }

    /// Removes one generation.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn remove_generation(&self, digest: &[u8; 32]) -> Result<(), DataError> {
        self.remove_file(&self.generations().join(generation_name(digest)))
    }

    /// Removes every generation that none of `heads` names: what a crash left behind.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn prune_generations<'a>(&self, heads: impl Iterator<Item = &'a Head>) -> Result<(), DataError> {
        let named: BTreeSet<String> =
            heads.flat_map(|head| head.lineage.digests()).map(|digest| generation_name(&digest)).collect();
        for (path, _) in self.list_generations()? {
            let is_named =
                path.file_name().and_then(|name| name.to_str()).is_some_and(|name| named.contains(name));
            if path.extension().is_some_and(|extension| extension == "gen") && !is_named {
                self.remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn made_generations(&self) -> Result<PathBuf, DataError> {
        let folder = self.generations();
        self.files.make_folder(&folder, FOLDER_MODE).map_err(DataError::io("cannot make folder", &folder))?;
        Ok(folder)
    }

    fn remove_file(&self, path: &Path) -> Result<(), DataError> {
        self.files.remove(path).map_err(DataError::io("cannot remove", path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{KeptMemory, KeptPhase};

    /// As 0.1 wrote it, before the lineage was a type of its own.
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
        let mut head = Head { file: file.clone(), ..Head::default() };
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
            assert_eq!(postcard::from_bytes::<Head>(&bytes).unwrap(), head);
        }
    }
}
