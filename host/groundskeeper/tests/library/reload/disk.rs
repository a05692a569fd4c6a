//! A file system in memory, whose operations fail when they are told to.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use groundskeeper::data::{FileStamp, FileSystem};
use parking_lot::Mutex;

/// What the next operations do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Weather {
    #[default]
    Fine,
    /// The operation after so many fails, and then all is well again.
    FailsAfter(u64),
    /// The operation after so many is done and told as failed, and then all is well again.
    FailsLate(u64),
    /// Nothing can be written.
    Full,
    /// After so many operations the process is dead: nothing of what it does is done any more.
    DiesAfter(u64),
    Dead,
}

#[derive(Default)]
struct Inside {
    files: BTreeMap<PathBuf, (Vec<u8>, FileStamp)>,
    folders: BTreeSet<PathBuf>,
    weather: Weather,
    writes: i64,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Inside>>);

impl Memory {
    /// What an editor does: no weather for him.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        self.0.lock().put(path, bytes);
    }

    pub fn delete(&self, path: &Path) {
        self.0.lock().files.remove(path);
    }

    pub fn set(&self, weather: Weather) {
        self.0.lock().weather = weather;
    }

    pub fn is_fine(&self) -> bool {
        self.0.lock().weather == Weather::Fine
    }

    pub fn is_dead(&self) -> bool {
        self.0.lock().weather == Weather::Dead
    }

    /// Files below `folder`.
    pub fn count(&self, folder: &Path) -> usize {
        self.0.lock().files.keys().filter(|path| path.starts_with(folder)).count()
    }
}

impl Inside {
    fn put(&mut self, path: &Path, bytes: &[u8]) {
        self.writes += 1;
        let stamp = FileStamp { size: bytes.len() as u64, changed: (self.writes, 0), ..FileStamp::default() };
        self.files.insert(path.to_owned(), (bytes.to_vec(), stamp));
        self.folders.extend(path.parent().map(Path::to_owned));
    }

    /// Whether the next operation is done, and if so, whether it is told as failed.
    fn may(&mut self, writes: bool) -> io::Result<io::Result<()>> {
        let broken = || Err(io::Error::other("the disk is broken"));
        match &mut self.weather {
            Weather::Fine => Ok(Ok(())),
            Weather::FailsLate(0) => {
                self.weather = Weather::Fine;
                Ok(Err(io::Error::other("the disk is broken, a little late")))
            }
            Weather::FailsAfter(0) => {
                self.weather = Weather::Fine;
                broken()
            }
            Weather::DiesAfter(0) => {
                self.weather = Weather::Dead;
                broken()
            }
            Weather::FailsAfter(left) | Weather::FailsLate(left) | Weather::DiesAfter(left) => {
                *left -= 1;
                Ok(Ok(()))
            }
            Weather::Full if writes => Err(io::ErrorKind::StorageFull.into()),
            Weather::Full => Ok(Ok(())),
            Weather::Dead => broken(),
        }
    }
}

impl FileSystem for Memory {
    fn distrust(&self, _file: &Path) -> Option<String> {
        None
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<(PathBuf, FileStamp)>> {
        let mut inside = self.0.lock();
        inside.may(false)??;
        if !inside.folders.contains(folder) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let files = inside.files.iter().filter(|(path, _)| path.parent() == Some(folder));
        Ok(files.map(|(path, (_, stamp))| (path.clone(), *stamp)).collect())
    }

    fn stamp(&self, file: &Path) -> io::Result<FileStamp> {
        let mut inside = self.0.lock();
        inside.may(false)??;
        inside.files.get(file).map(|(_, stamp)| *stamp).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, file: &Path, most: u64) -> io::Result<Vec<u8>> {
        let mut inside = self.0.lock();
        inside.may(false)??;
        let (bytes, _) = inside.files.get(file).ok_or(io::ErrorKind::NotFound)?;
        Ok(bytes[..bytes.len().min(most as usize)].to_vec())
    }

    fn write(&self, file: &Path, bytes: &[u8], _mode: u32) -> io::Result<()> {
        let mut inside = self.0.lock();
        let told = inside.may(true)?;
        inside.put(file, bytes);
        told
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut inside = self.0.lock();
        let told = inside.may(true)?;
        let (bytes, _) = inside.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        inside.put(to, &bytes);
        told
    }

    fn remove(&self, file: &Path) -> io::Result<()> {
        let mut inside = self.0.lock();
        let told = inside.may(false)?;
        inside.files.remove(file);
        told
    }

    fn make_folder(&self, folder: &Path, _mode: u32) -> io::Result<()> {
        let mut inside = self.0.lock();
        let told = inside.may(true)?;
        inside.folders.insert(folder.to_owned());
        told
    }
}
