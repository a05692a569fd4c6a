//! The file that a recorder appends to. Continues after the records of an earlier process, and is rotated before it
//! exceeds its size. Does not look into records.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use groundskeeper_base::read::open_regular;

use super::file::{ReadError, Recording};
use super::head::{FILE_HEAD, file_head};
use super::recorder::RecordError;

/// Only the owner may read it: it contains the addresses of peers.
const MODE: u32 = 0o600;

/// Destination of records.
pub(super) trait RecordSink: Send {
    /// Whether `bytes` more bytes fit into the maximum size.
    fn has_room(&self, bytes: usize) -> bool;
    /// Appends one record. After a crash it may be incomplete; readers skip it then.
    fn append(&mut self, record: &[u8]) -> io::Result<()>;
    /// Continues in an empty file.
    fn turn_over(&mut self) -> io::Result<()>;
}

/// A recording on disk. The file and the one before it, `FILE.1`, may take half of the maximum size each.
pub(super) struct RecordingOutput {
    path: PathBuf,
    file: File,
    written: u64,
    half: u64,
}

impl RecordingOutput {
    /// Opens `path` for appending, and returns the number of the next record. Cuts off a record that an earlier process
    /// did not finish.
    pub fn open(path: &Path, max_bytes: u64) -> Result<(Self, u32), RecordError> {
        let cannot = |source| RecordError::Open { path: path.to_owned(), source };
        let file = create(path, false).map_err(cannot)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(RecordError::Busy { path: path.to_owned() });
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(cannot(error)),
        }
        let mut output = Self { path: path.to_owned(), file, written: 0, half: max_bytes / 2 };
        if output.file.metadata().map_err(cannot)?.len() == 0 {
            output.begin().map_err(cannot)?;
            return Ok((output, 0));
        }
        let (end, number) = match Recording::open(path) {
            Ok(recording) => recording.tail(),
            Err(ReadError::Io { source, .. }) => return Err(cannot(source)),
            Err(other) => return Err(RecordError::NotOurs(other)),
        };
        output.file.set_len(end).map_err(cannot)?;
        // New records have this version, even if the file began with an older one.
        output.file.write_all_at(&file_head(), 0).map_err(cannot)?;
        output.file.seek(SeekFrom::Start(end)).map_err(cannot)?;
        output.written = end;
        Ok((output, number))
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file.write_all(&file_head())?;
        self.written = FILE_HEAD as u64;
        Ok(())
    }
}

fn create(path: &Path, new: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).create_new(new).truncate(false).mode(MODE);
    Ok(open_regular(path, &mut options)?.0)
}

impl RecordSink for RecordingOutput {
    fn has_room(&self, bytes: usize) -> bool {
        self.written + bytes as u64 <= self.half
    }

    fn append(&mut self, record: &[u8]) -> io::Result<()> {
        self.file.write_all(record)?;
        self.written += record.len() as u64;
        Ok(())
    }

    fn turn_over(&mut self) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".1");
        std::fs::rename(&self.path, aside)?;
        self.file = create(&self.path, true)?;
        self.file.try_lock()?;
        self.begin()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_not_a_recording_is_not_changed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "my notes, twelve bytes and more").unwrap();
        let refused = RecordingOutput::open(&path, 1 << 20).map(|_| ()).unwrap_err();
        assert!(refused.to_string().contains("is not a recording"), "{refused}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "my notes, twelve bytes and more");
    }

    #[test]
    fn records_added_to_an_older_recording_raise_its_version() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hours.gkr");
        let mut older = file_head();
        older[4..6].copy_from_slice(&1_u16.to_le_bytes());
        let crc = crc32fast::hash(&older[..8]);
        older[8..].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, older).unwrap();
        assert_eq!(RecordingOutput::open(&path, 1 << 20).unwrap().0.written, FILE_HEAD as u64);
        assert_eq!(std::fs::read(&path).unwrap(), file_head());
    }

    #[test]
    fn two_processes_do_not_write_into_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hours.gkr");
        let (first, number) = RecordingOutput::open(&path, 1 << 20).unwrap();
        assert_eq!(number, 0);
        assert!(matches!(RecordingOutput::open(&path, 1 << 20), Err(RecordError::Busy { .. })));
        drop(first);
        assert_eq!(RecordingOutput::open(&path, 1 << 20).unwrap().0.written, FILE_HEAD as u64);
    }
}
