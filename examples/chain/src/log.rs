//! What a node must not forget: certified blocks and its own promises, in one file that only grows. Knows no rule of
//! the chain: the ledger interprets the records.
//!
//! After a crash the file ends with the last append that returned, or with part of a later one. That part is cut off,
//! because no peer has seen its content. So a killed node never votes twice in a slot, nor for less than it has seen.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use groundskeeper::data::write_whole;
use serde::{Deserialize, Serialize};

use crate::block::{Certified, Genesis};

/// Length and checksum, in front of each append.
const HEAD: usize = 8;

/// Only processes of this user need the file.
const MODE: u32 = 0o640;

/// One entry of the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Record {
    /// The first entry.
    Genesis(Genesis),
    Certified(Certified),
    /// This node has proposed in a slot and must not do so again.
    Proposed(u64),
    /// This node has voted in a slot and must not do so again.
    Voted(u64),
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} is damaged at byte {at}, and has more behind it: restore it from a copy", path.display())]
    Damaged { path: PathBuf, at: usize },
}

/// The file, open at its end.
pub struct ChainLog {
    file: File,
    path: PathBuf,
}

impl ChainLog {
    /// Creates a log that begins with `genesis`.
    ///
    /// # Errors
    /// An error of the file system. The path then has no file, or the previous one.
    pub fn create(path: &Path, genesis: &Genesis) -> Result<Self, LogError> {
        let failed = |source| LogError::Io { path: path.to_owned(), source };
        write_whole(path, &framed(&[Record::Genesis(genesis.clone())]), MODE).map_err(failed)?;
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Opens a log and reads it. None if there is no such file.
    ///
    /// # Errors
    /// [`LogError`]; the file is unchanged then.
    pub fn open(path: &Path) -> Result<Option<(Self, Vec<Record>)>, LogError> {
        let failed = |source| LogError::Io { path: path.to_owned(), source };
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        let (mut records, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            match next(&bytes[at..]) {
                Next::Whole(more, length) => {
                    records.extend(more);
                    at += length;
                }
                Next::Torn => break,
                Next::Damaged => return Err(LogError::Damaged { path: path.to_owned(), at }),
            }
        }
        let file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        if at < bytes.len() {
            tracing::warn!(
                bytes = bytes.len() - at,
                "the last write before a crash was not finished; cut off"
            );
            file.set_len(at as u64).and_then(|()| file.sync_all()).map_err(failed)?;
        }
        Ok(Some((Self { file, path: path.to_owned() }, records)))
    }

    /// Appends all of `records` or, after a crash, none. Blocks until they are on the disk.
    ///
    /// # Errors
    /// An error of the file system. The content of the disk is unknown then: make no promise, and reopen the log.
    pub fn append(&mut self, records: &[Record]) -> Result<(), LogError> {
        let written = self.file.write_all(&framed(records)).and_then(|()| self.file.sync_data());
        written.map_err(|source| LogError::Io { path: self.path.clone(), source })
    }
}

fn framed(records: &[Record]) -> Vec<u8> {
    let body = postcard::to_stdvec(records).expect("plain data has a postcard form");
    let length = u32::try_from(body.len()).expect("an append is some blocks");
    [&length.to_le_bytes()[..], &crc32fast::hash(&body).to_le_bytes(), &body].concat()
}

enum Next {
    Whole(Vec<Record>, usize),
    /// It is incomplete at the end of the file: the result of a crash.
    Torn,
    /// More bytes follow it, so it was complete once.
    Damaged,
}

fn next(bytes: &[u8]) -> Next {
    let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
    let (Some(length), Some(sum)) = (number(0), number(4)) else { return Next::Torn };
    let end = HEAD + length as usize;
    let Some(body) = bytes.get(HEAD..end) else { return Next::Torn };
    let records = if crc32fast::hash(body) == sum { postcard::from_bytes(body).ok() } else { None };
    match records {
        Some(records) => Next::Whole(records, end),
        None if end == bytes.len() => Next::Torn,
        None => Next::Damaged,
    }
}

#[cfg(test)]
mod tests {
    use groundskeeper::net::Identity;

    use super::*;

    fn genesis() -> Genesis {
        Genesis { name: "test".into(), slot_ms: 100, validators: vec![Identity::generate().peer_id()] }
    }

    #[test]
    fn a_log_that_is_cut_anywhere_opens_with_whole_appends_and_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (path, copy) = (folder.path().join("log"), folder.path().join("copy"));
        let mut log = ChainLog::create(&path, &genesis()).unwrap();
        let first = std::fs::metadata(&path).unwrap().len();
        log.append(&[Record::Proposed(7), Record::Voted(7)]).unwrap();
        let second = std::fs::metadata(&path).unwrap().len();
        log.append(&[Record::Voted(8)]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        for end in first as usize..=bytes.len() {
            std::fs::write(&copy, &bytes[..end]).unwrap();
            let (mut again, records) = ChainLog::open(&copy).unwrap().unwrap();
            let whole = if end == bytes.len() {
                4
            } else if end as u64 >= second {
                3
            } else {
                1
            };
            assert_eq!(records.len(), whole, "cut at {end}");
            again.append(&[Record::Voted(9)]).unwrap();
            let (_, records) = ChainLog::open(&copy).unwrap().unwrap();
            assert_eq!((records.len(), records.last()), (whole + 1, Some(&Record::Voted(9))));
        }
    }

    #[test]
    fn damage_that_no_crash_makes_is_told_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let mut log = ChainLog::create(&path, &genesis()).unwrap();
        log.append(&[Record::Voted(8)]).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[HEAD + 3] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(matches!(ChainLog::open(&path), Err(LogError::Damaged { at: 0, .. })));
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
        assert!(ChainLog::open(&folder.path().join("none")).unwrap().is_none());
    }
}
