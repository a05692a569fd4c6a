//! Refuses to change files once the data folder at its path is another one than the one whose lock this process holds.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{FileStamp, FileSystem};

/// A file system that looks at the lock's file before each change: one more `stat` for each.
///
/// A volume that is unmounted, or a folder that is moved away, leaves another folder at the same path; it may belong to
/// another node by now.
pub(super) struct LockedFileSystem {
    files: Arc<dyn FileSystem>,
    lock: PathBuf,
    /// Device and number of the lock's file.
    held: (u64, u64),
}

impl LockedFileSystem {
    pub(super) fn new(files: Arc<dyn FileSystem>, lock: &Path, file: &File) -> io::Result<Self> {
        Ok(Self { files, lock: lock.to_owned(), held: number_of(&file.metadata()?) })
    }

    fn change<R>(&self, change: impl FnOnce(&dyn FileSystem) -> io::Result<R>) -> io::Result<R> {
        let found = fs::symlink_metadata(&self.lock);
        if found.is_ok_and(|found| number_of(&found) == self.held) {
            return change(&*self.files);
        }
        let words = "the data folder was moved, unmounted or replaced while the node runs; restart the node";
        Err(io::Error::new(io::ErrorKind::StaleNetworkFileHandle, words))
    }
}

fn number_of(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

impl FileSystem for LockedFileSystem {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        self.files.list(folder)
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        self.files.stamp(file)
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        self.files.read(file, most)
    }

    fn distrust(&self, file: &Path) -> Option<String> {
        self.files.distrust(file)
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        self.change(|files| files.write(file, bytes, mode))
    }

    fn write_if(
        &self,
        file: &Path,
        bytes: &[u8],
        mode: u32,
        may_replace: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        self.change(|files| files.write_if(file, bytes, mode, may_replace))
    }

    fn write_all(&self, files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
        self.change(|inner| inner.write_all(files, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|files| files.rename(from, to))
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.change(|files| files.remove(file))
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        self.change(|files| files.make_folder(folder, mode))
    }
}
