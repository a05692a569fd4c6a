//! State files: four bytes of magic, a version, a checksum, then postcard. Knows no meaning of what it keeps.
//!
//! The head is the same in all versions: magic, version as little-endian `u16`, CRC-32 (IEEE) of version and content as
//! little-endian `u32`. So a damaged version number is a damaged file, not a newer one.

use std::borrow::Cow;
use std::io;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DataError, Files, is_there};
use crate::book::Entry;
use crate::registry::LastRuns;

/// The owner's, and for the group to read.
pub(super) const MODE: u32 = 0o640;

/// Ten bytes before the content.
const HEAD: usize = 10;

/// A book of a million entries has about 70 MB: what is larger was not written by us.
const LARGEST: u64 = 256 << 20;

/// What was found in a state file.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Loaded<T> {
    pub value: T,
    /// The file was damaged and moved aside; `value` is a fresh start. For the log.
    pub warning: Option<String>,
}

/// One kind of state file.
pub(super) struct StateFile<T> {
    name: Cow<'static, str>,
    magic: [u8; 4],
    version: u16,
    kind: PhantomData<fn() -> T>,
}

pub(super) const BOOK: StateFile<Vec<Entry>> =
    StateFile { name: Cow::Borrowed("book.gk"), magic: *b"GKbk", version: 1, kind: PhantomData };
pub(super) const SCHEDULE: StateFile<LastRuns> =
    StateFile { name: Cow::Borrowed("schedule.gk"), magic: *b"GKsc", version: 1, kind: PhantomData };

/// Starts since one came far.
pub(super) const STARTS: StateFile<u32> =
    StateFile { name: Cow::Borrowed("starts.gk"), magic: *b"GKst", version: 1, kind: PhantomData };

/// Whether a node has lived in this folder.
pub(super) fn exists_in(folder: &Path) -> bool {
    [BOOK.name, SCHEDULE.name].iter().any(|name| {
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

enum Unreadable {
    Newer(u16),
    Corrupt(&'static str),
}

impl<T: Serialize + DeserializeOwned + Default> StateFile<T> {
    pub fn new(name: impl Into<Cow<'static, str>>, magic: [u8; 4], version: u16) -> Self {
        Self { name: name.into(), magic, version, kind: PhantomData }
    }

    pub fn save(&self, files: &dyn Files, folder: &Path, value: &T) -> Result<(), DataError> {
        let (path, bytes) = self.encode(folder, value);
        files.write(&path, &bytes, MODE).map_err(DataError::io("cannot write", &path))
    }

    /// What [`StateFile::save`] writes, and where.
    pub fn encode(&self, folder: &Path, value: &T) -> (PathBuf, Vec<u8>) {
        let path = folder.join(&*self.name);
        let content = postcard::to_stdvec(value).expect("plain data in memory has a postcard form");
        let mut bytes = Vec::with_capacity(HEAD + content.len());
        bytes.extend(self.magic);
        bytes.extend(self.version.to_le_bytes());
        bytes.extend(checksum(self.version, &content).to_le_bytes());
        bytes.extend(content);
        (path, bytes)
    }

    pub fn load(&self, files: &dyn Files, folder: &Path) -> Result<Loaded<T>, DataError> {
        let path = folder.join(&*self.name);
        let bytes = match files.read(&path, LARGEST + 1) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Loaded::default()),
            Err(error) => return Err(DataError::io("cannot read", &path)(error)),
        };
        match self.decode(&bytes) {
            Ok(value) => Ok(Loaded { value, warning: None }),
            Err(Unreadable::Newer(found)) => Err(DataError::Newer { path, found, known: self.version }),
            Err(Unreadable::Corrupt(why)) => {
                let aside = path.with_extension("gk.bad");
                files.rename(&path, &aside).map_err(DataError::io("cannot move aside", &path))?;
                let (path, aside) = (path.display(), aside.display());
                let warning = format!(
                    "{path} is damaged ({why}); it is kept as {aside} and the node starts without it"
                );
                Ok(Loaded { value: T::default(), warning: Some(warning) })
            }
        }
    }

    fn decode(&self, bytes: &[u8]) -> Result<T, Unreadable> {
        if bytes.len() as u64 > LARGEST {
            return Err(Unreadable::Corrupt("it is too large"));
        }
        let (head, content) = bytes.split_at_checked(HEAD).ok_or(Unreadable::Corrupt("it is too short"))?;
        let (magic, head) = head.split_at(4);
        if magic != self.magic {
            return Err(Unreadable::Corrupt("it does not begin like one"));
        }
        let version = u16::from_le_bytes([head[0], head[1]]);
        if u32::from_le_bytes([head[2], head[3], head[4], head[5]]) != checksum(version, content) {
            return Err(Unreadable::Corrupt("its checksum does not match"));
        }
        match version {
            newer if newer > self.version => Err(Unreadable::Newer(newer)),
            1 => postcard::from_bytes(content).map_err(|_| Unreadable::Corrupt("its content cannot be read")),
            _ => Err(Unreadable::Corrupt("its version was never released")),
        }
    }
}
