//! State files: four bytes of magic, a version, a checksum, then postcard. Does not interpret the content.
//!
//! The header is the same in all versions: magic, version as little-endian `u16`, CRC-32 (IEEE) of version and content as
//! little-endian `u32`. So a damaged version number means a damaged file, not a newer one.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::older;
use super::{DataError, DataFolder};
use crate::book::BookEntry;
use crate::cycle::KeptLimits;
use crate::registry::LastRuns;

/// The owner may write, the group may read.
pub(super) const MODE: u32 = 0o640;

/// Bytes before the content.
const HEAD: usize = 10;

/// A book of a million entries takes about 70 MB. A larger file was not written by this program.
const LARGEST: u64 = 256 << 20;

/// The content of a state file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LoadedState<T> {
    /// The decoded content; the default if there is no file yet.
    pub value: T,
    /// Set if the file was damaged and moved aside; `value` is then the default. For the log.
    pub warning: Option<String>,
}

impl<T> LoadedState<T> {
    /// Returns the value. Logs a warning, with the phase it concerns.
    pub fn logged(self, phase: Option<&str>) -> T {
        if let Some(warning) = self.warning {
            tracing::warn!(phase, "{warning}");
        }
        self.value
    }
}

/// Reads the content of an older version.
type ReadOlder<T> = fn(&[u8]) -> postcard::Result<T>;

/// A state file, perhaps in a subfolder of the data folder.
pub(super) struct StateFile<T> {
    path: Cow<'static, str>,
    magic: [u8; 4],
    version: u16,
    /// Reads the content of version 1, if that was different.
    version_1: Option<ReadOlder<T>>,
    kind: PhantomData<fn() -> T>,
}

pub(super) const BOOK: StateFile<Vec<BookEntry>> = StateFile::version_2("book.gk", *b"GKbk", older::book);
pub(super) const SCHEDULE: StateFile<LastRuns> =
    StateFile::version_2("schedule.gk", *b"GKsc", older::schedule);

/// Bans in force, and what guests have used of their ceilings.
pub(super) const LIMITS: StateFile<KeptLimits> = StateFile::new(Cow::Borrowed("limits.gk"), *b"GKlm", 1);

/// Starts since the last good one.
pub(super) const STARTS: StateFile<u32> = StateFile::new(Cow::Borrowed("starts.gk"), *b"GKst", 1);

/// Whether a node has used this folder before.
pub(super) fn exists_in(folder: &Path) -> bool {
    // A dangling link counts as well.
    let is_there = |path: &Path| fs::symlink_metadata(path).is_ok();
    [BOOK.path, SCHEDULE.path].iter().any(|name| {
        let path = folder.join(&**name);
        is_there(&path) || is_there(&path.with_extension("gk.bad"))
    })
}

fn checksum(version: u16, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&version.to_le_bytes());
    hasher.update(content);
    hasher.finalize()
}

/// Why bytes are not a state file.
pub(super) enum StateFileError {
    Newer(u16),
    Corrupt(&'static str),
}

impl<T: Serialize + DeserializeOwned + Default> StateFile<T> {
    pub const fn new(path: Cow<'static, str>, magic: [u8; 4], version: u16) -> Self {
        Self { path, magic, version, version_1: None, kind: PhantomData }
    }

    /// A file of version 2, which also reads what version 1 wrote.
    const fn version_2(path: &'static str, magic: [u8; 4], version_1: ReadOlder<T>) -> Self {
        let version_1 = Some(version_1);
        Self { path: Cow::Borrowed(path), magic, version: 2, version_1, kind: PhantomData }
    }

    pub fn path_in(&self, data: &DataFolder) -> PathBuf {
        data.path.join(&*self.path)
    }

    pub fn save(&self, data: &DataFolder, value: &T) -> Result<(), DataError> {
        let path = self.path_in(data);
        data.make_folder_of(&path)?;
        data.files.write(&path, &self.encode(value), MODE).map_err(DataError::io("cannot write", &path))
    }

    pub fn encode(&self, value: &T) -> Vec<u8> {
        let content = postcard::to_stdvec(value).expect("plain data in memory has a postcard form");
        self.with_head(self.version, &content)
    }

    /// The bytes of a file with this content.
    pub(super) fn with_head(&self, version: u16, content: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD + content.len());
        bytes.extend(self.magic);
        bytes.extend(version.to_le_bytes());
        bytes.extend(checksum(version, content).to_le_bytes());
        bytes.extend(content);
        bytes
    }

    pub fn load(&self, data: &DataFolder) -> Result<LoadedState<T>, DataError> {
        let path = self.path_in(data);
        let content = match data.files.read(&path, LARGEST) {
            Ok(bytes) => self.decode(&bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(LoadedState::default()),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => {
                Err(StateFileError::Corrupt("it is too large"))
            }
            Err(error) => return Err(DataError::io("cannot read", &path)(error)),
        };
        match content {
            Ok(value) => Ok(LoadedState { value, warning: None }),
            Err(StateFileError::Newer(found)) => Err(DataError::Newer { path, found, known: self.version }),
            Err(StateFileError::Corrupt(why)) => {
                let aside = path.with_extension("gk.bad");
                data.files.rename(&path, &aside).map_err(DataError::io("cannot move aside", &path))?;
                let (path, aside) = (path.display(), aside.display());
                let warning = format!(
                    "{path} is damaged ({why}); it is kept as {aside} and the node starts without it"
                );
                Ok(LoadedState { value: T::default(), warning: Some(warning) })
            }
        }
    }

    pub(super) fn decode(&self, bytes: &[u8]) -> Result<T, StateFileError> {
        let (head, content) =
            bytes.split_at_checked(HEAD).ok_or(StateFileError::Corrupt("it is too short"))?;
        let (magic, head) = head.split_at(4);
        if magic != self.magic {
            return Err(StateFileError::Corrupt("it does not begin like one"));
        }
        let version = u16::from_le_bytes([head[0], head[1]]);
        if u32::from_le_bytes([head[2], head[3], head[4], head[5]]) != checksum(version, content) {
            return Err(StateFileError::Corrupt("its checksum does not match"));
        }
        let value = match (version, self.version_1) {
            (newer, _) if newer > self.version => return Err(StateFileError::Newer(newer)),
            (1, Some(read)) => read(content),
            (current, _) if current == self.version => postcard::from_bytes(content),
            _ => return Err(StateFileError::Corrupt("its version was never released")),
        };
        value.map_err(|_| StateFileError::Corrupt("its content cannot be read"))
    }
}
