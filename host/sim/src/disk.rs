//! The disk of a simulated machine: files in memory, of which writes fail or do not return while a fault lasts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use groundskeeper::data::{DataError, DataFolder, FileStamp, FileSystem};
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

/// What a disk does with writes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) enum Writes {
    #[default]
    Work,
    Fail,
    /// They do not return until this changes or their process is killed.
    Hang,
}

#[derive(Default)]
struct Content {
    files: BTreeMap<PathBuf, Vec<u8>>,
    writes: Writes,
    /// The running process; calls of earlier ones change nothing.
    process: u64,
}

/// Everything on one machine's disk. Its real folder holds nothing but the lock of the data folder.
pub(crate) struct SimulatedDisk {
    content: Mutex<Content>,
    changed: Condvar,
    folder: TempDir,
}

impl SimulatedDisk {
    /// # Errors
    /// If no temporary folder can be made.
    pub(crate) fn new() -> io::Result<Arc<Self>> {
        let folder = tempfile::tempdir()?;
        Ok(Arc::new(Self { content: Mutex::default(), changed: Condvar::new(), folder }))
    }

    /// The data folder of a new process. Waits, in real time, until the threads of the process before it have let go.
    ///
    /// # Errors
    /// If they have not after ten seconds.
    pub(crate) fn data_folder(self: &Arc<Self>) -> Result<DataFolder, DataError> {
        let process = self.kill();
        let mut looks = 0;
        loop {
            let files = ProcessFiles { disk: Arc::clone(self), process };
            match DataFolder::open_on(self.folder.path(), Arc::new(files)) {
                Err(DataError::Locked { .. }) if looks < RELEASE_LOOKS => std::thread::sleep(RELEASE_LOOK),
                other => return other,
            }
            looks += 1;
        }
    }

    /// From now on the calls of the running process change nothing, and all return.
    pub(crate) fn kill(&self) -> u64 {
        let mut content = self.content.lock();
        content.process += 1;
        self.changed.notify_all();
        content.process
    }

    pub(crate) fn set_writes(&self, writes: Writes) {
        self.content.lock().writes = writes;
        self.changed.notify_all();
    }

    pub(crate) fn writes(&self) -> Writes {
        self.content.lock().writes
    }

    /// Loses all files.
    pub(crate) fn wipe(&self) {
        self.content.lock().files.clear();
    }
}

/// Together ten seconds.
const RELEASE_LOOKS: u32 = 10_000;
const RELEASE_LOOK: Duration = Duration::from_millis(1);

/// The disk as one process sees it.
struct ProcessFiles {
    disk: Arc<SimulatedDisk>,
    process: u64,
}

impl ProcessFiles {
    /// Changes files, once the disk works.
    fn change(&self, change: impl FnOnce(&mut BTreeMap<PathBuf, Vec<u8>>)) -> io::Result<()> {
        let mut content = self.disk.content.lock();
        while content.process == self.process && content.writes == Writes::Hang {
            self.disk.changed.wait(&mut content);
        }
        if content.process != self.process {
            return Err(io::Error::other("the process was killed"));
        }
        if content.writes == Writes::Fail {
            return Err(io::Error::from_raw_os_error(EIO));
        }
        change(&mut content.files);
        Ok(())
    }
}

/// An error of the disk itself.
const EIO: i32 = 5;

impl FileSystem for ProcessFiles {
    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        let content = self.disk.content.lock();
        let here = content.files.iter().filter(|(file, _)| file.parent() == Some(folder));
        Ok(here.map(|(file, bytes)| (file.clone(), stamp(bytes))).collect())
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        self.disk
            .content
            .lock()
            .files
            .get(file)
            .map(|bytes| stamp(bytes))
            .ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, file: &Path, _most: u64) -> io::Result<Vec<u8>> {
        self.disk.content.lock().files.get(file).cloned().ok_or(io::ErrorKind::NotFound.into())
    }

    fn distrust(&self, _file: &Path) -> Option<String> {
        None
    }

    fn write(&self, file: &Path, bytes: &[u8], _mode: u32) -> io::Result<()> {
        self.change(|files| _ = files.insert(file.to_owned(), bytes.to_owned()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|files| {
            if let Some(bytes) = files.remove(from) {
                files.insert(to.to_owned(), bytes);
            }
        })
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        self.change(|files| _ = files.remove(file))
    }

    fn make_folder(&self, _folder: &Path, _mode: u32) -> io::Result<()> {
        Ok(())
    }
}

fn stamp(bytes: &[u8]) -> FileStamp {
    FileStamp { size: bytes.len() as u64, ..FileStamp::default() }
}
