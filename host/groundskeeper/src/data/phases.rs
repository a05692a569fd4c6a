//! The files for what phases keep across processes. One file each, so that damage affects one phase.

use sha2::{Digest, Sha256};

use super::state::{LoadedState, StateFile};
use super::{DataError, DataFolder};
use crate::engine::is_phase_name;
use crate::registry::KeptPhase;

/// Subfolder of the data folder.
pub(super) const FOLDER: &str = "memory";

/// Names of application phases may contain anything; file names may not.
fn file_name(phase: &str) -> String {
    if is_phase_name(phase) {
        return format!("{phase}.gk");
    }
    let digest = Sha256::digest(phase.as_bytes());
    format!("_{}.gk", data_encoding::HEXLOWER.encode(&digest))
}

pub(super) fn file(phase: &str) -> StateFile<KeptPhase> {
    StateFile::new(format!("{FOLDER}/{}", file_name(phase)).into(), *b"GKph", 1)
}

impl DataFolder {
    /// What the phase `name` has kept; empty if it never ran here.
    ///
    /// # Errors
    /// As [`DataFolder::load_book`].
    pub fn load_phase(&self, name: &str) -> Result<LoadedState<KeptPhase>, DataError> {
        file(name).load(self)
    }

    /// # Errors
    /// [`DataError::Io`]; the old file is still there then.
    pub fn save_phase(&self, name: &str, kept: &KeptPhase) -> Result<(), DataError> {
        file(name).save(self, kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::{KeptMemory, Quarantine};

    #[test]
    fn every_name_has_a_file_of_its_own() {
        assert_eq!(file_name("slow-peers"), "slow-peers.gk");
        for odd in ["", "A b", "../../etc/passwd", &"x".repeat(300)] {
            let name = file_name(odd);
            assert!(name.starts_with('_') && name.len() < 80 && !name.contains('/'), "{name}");
        }
    }

    #[test]
    fn a_damaged_file_costs_one_phase() {
        let home = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(home.path()).unwrap();
        let kept = |n: u8| KeptPhase {
            memory: Some(KeptMemory { version: 3, bytes: vec![n; 100] }),
            shadow_memory: None,
            quarantine: Some(Quarantine { digest: [n; 32], why: "too often".into() }),
        };
        folder.save_phase("a", &kept(1)).unwrap();
        folder.save_phase("b", &kept(2)).unwrap();
        folder.save_phase("b", &kept(3)).unwrap();
        assert_eq!(folder.load_phase("b").unwrap().value, kept(3));
        let path = home.path().join("memory/a.gk");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let loaded = folder.load_phase("a").unwrap();
        assert_eq!(loaded.value, KeptPhase::default());
        assert!(loaded.warning.unwrap().contains("a.gk.bad"));
        assert!(home.path().join("memory/a.gk.bad").exists());
        assert_eq!(folder.load_phase("b").unwrap().value, kept(3));
        assert_eq!(folder.load_phase("never").unwrap(), LoadedState::default());
    }
}
