//! The file operations behind everything that has to survive a crash, as a seam: a test makes the k-th one fail, or ends
//! the process there.

use std::fs::{self, DirBuilder, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use groundskeeper_base::write::{sync_folder_of, write_together, write_whole};

/// What the file system says of a file without reading it. Two equal stamps: nobody has written to it in between, as far
/// as the file system tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size: u64,
    /// Seconds since 1970 and nanoseconds: of the content, then of the inode.
    pub modified: (i64, i64),
    pub changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(meta: Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// What state and reload ask of a file system. Links are followed; errors are the file system's.
pub trait Files: Send + Sync {
    /// The files of a folder with their stamps, by path; folders, hidden files and what goes away meanwhile are left out.
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Stamp)>>;

    fn stamp(&self, file: &Path) -> io::Result<Stamp>;

    /// The first `most` bytes of a file.
    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// Replaces `file` as a whole, and returns when that is on the disk: a crash leaves the old one or
    /// the new one, an error the old one.
    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// Replaces several files, each as [`Files::write`], and returns when all are on the disk. A crash or an error leaves
    /// a prefix of them new and the others old.
    fn write_all(&self, files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
        files.iter().try_for_each(|(file, bytes)| self.write(file, bytes, mode))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file; one that is not there is removed.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Makes a folder with permissions `mode`, unless it is there.
    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disk;

impl Files for Disk {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, Stamp)>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            match fs::metadata(&path) {
                Ok(meta) if !is_hidden && !meta.is_dir() => files.push((path, meta.into())),
                _ => {}
            }
        }
        files.sort();
        Ok(files)
    }

    fn stamp(&self, file: &Path) -> io::Result<Stamp> {
        fs::metadata(file).map(Stamp::from)
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(file)?.take(most).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        write_whole(file, bytes, mode)
    }

    fn write_all(&self, files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
        write_together(files, mode)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)?;
        sync_folder_of(to)
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(mode).create(folder)
    }
}
