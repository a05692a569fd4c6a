//! The file operations behind all state that must survive a crash. Tests replace them, to make the k-th operation fail or
//! to end the process there.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use groundskeeper_base::read::read_regular;
use groundskeeper_base::trust;
use groundskeeper_base::write::{make_folder, sync_folder_of, write_together, write_whole, write_whole_if};

/// What the file system reports about a file without reading it. If two stamps are equal, the file was not written to in
/// between, as far as the file system can tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct FileStamp {
    /// Number of the device that holds the file.
    pub device: u64,
    /// Number of the file on its device. A file that replaces another one has a new number.
    pub inode: u64,
    /// Bytes.
    pub size: u64,
    /// Last change of the content: seconds since 1970, and nanoseconds.
    pub modified: (i64, i64),
    /// Last change of the inode (such as its mode), in the same units. Programs cannot set this time.
    pub changed: (i64, i64),
}

impl From<Metadata> for FileStamp {
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

/// File operations for state and reloads. They follow links; errors are those of the file system.
pub trait FileSystem: Send + Sync {
    /// The files of a folder with their stamps, by path. Omits folders, hidden files and files that disappear meanwhile.
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>>;

    /// The stamp of one file, without reading it.
    fn stamp(&self, file: &Path) -> io::Result<FileStamp>;

    /// The content of a regular file of at most `most` bytes: [`read_regular`].
    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>>;

    /// Why a file must not be run, if another user could have written it.
    fn distrust(&self, file: &Path) -> Option<String>;

    /// Replaces `file` as a whole, and returns when it is on disk. After a crash, the old or the new one is there; after
    /// an error, the old one.
    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()>;

    /// [`FileSystem::write`], unless `may_replace` returns false when the new content is about to replace `file`.
    fn write_if(
        &self,
        file: &Path,
        bytes: &[u8],
        mode: u32,
        may_replace: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        if may_replace() { self.write(file, bytes, mode) } else { Err(io::ErrorKind::Interrupted.into()) }
    }

    /// Replaces several files, each as [`FileSystem::write`], and returns when all are on disk. After a crash or an error, a
    /// prefix of them is new and the others are old.
    fn write_all(&self, files: &[(PathBuf, Vec<u8>)], mode: u32) -> io::Result<()> {
        files.iter().try_for_each(|(file, bytes)| self.write(file, bytes, mode))
    }

    /// Moves a file within one file system, and returns when that is on disk. Replaces `to` if it exists.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file. A missing file is no error.
    fn remove(&self, file: &Path) -> io::Result<()>;

    /// Creates a folder with permissions `mode`, unless it exists.
    fn make_folder(&self, folder: &Path, mode: u32) -> io::Result<()>;
}

/// The machine's own file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskFileSystem;

impl FileSystem for DiskFileSystem {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
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

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        fs::metadata(file).map(FileStamp::from)
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        read_regular(file, most)
    }

    fn distrust(&self, file: &Path) -> Option<String> {
        trust::distrust(file)
    }

    fn write(&self, file: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        write_whole(file, bytes, mode)
    }

    fn write_if(
        &self,
        file: &Path,
        bytes: &[u8],
        mode: u32,
        may_replace: &dyn Fn() -> bool,
    ) -> io::Result<()> {
        write_whole_if(file, bytes, mode, may_replace)
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
        make_folder(folder, mode)
    }
}
