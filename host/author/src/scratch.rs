//! A private temporary folder of this process, removed on drop.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

pub(super) struct ScratchFolder(PathBuf);

impl ScratchFolder {
    pub fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("groundskeeper-{:016x}", rand::random::<u64>()));
        // Fails if the folder exists: otherwise it could contain files of someone else.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        // If this fails, the folder remains in the system's temporary directory.
        _ = fs::remove_dir_all(&self.0);
    }
}
