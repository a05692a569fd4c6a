//! Feeds arbitrary bytes to the readers of all state files, and their content to what a node builds of it. For the fuzz
//! target.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::state::{BOOK, LIMITS, SCHEDULE, STARTS, StateFile, StateFileError};
use super::{generations, phases};
use crate::book::BookEntry;
use crate::clock::SystemClock;
use crate::cycle::KeptLimits;
use crate::node::{NodeLimits, NodeState};
use crate::peer::PeerId;

/// An older version may be written more briefly: two bytes of a schedule become eight.
const MOST_GROWTH: usize = 8;

/// Names in the paths of the files. They decide nothing else.
const PHASE: &str = "fuzz";

/// After this time, no limit of an hour is in force.
const LONG_AFTER: Duration = Duration::from_secs(2 * 3600);

/// Reads `bytes` as a state file. The first byte chooses which one. The second is 0 before a whole file, and otherwise the
/// version of a content, which gets its head here: no fuzzer finds a checksum.
///
/// # Panics
/// If a reader breaks a promise: bytes are refused with a reason, and what is accepted has a bounded size and is read
/// again as it is written.
pub fn fuzz_decode(bytes: &[u8]) {
    let [file, version, rest @ ..] = bytes else { return };
    let input = StateInput { version: *version, rest };
    match file {
        0 => drop(input.read(&BOOK).map(restore_book)),
        1 => drop(input.read(&SCHEDULE)),
        2 => drop(input.read(&LIMITS).map(restore_limits)),
        3 => drop(input.read(&STARTS)),
        4 => drop(input.read(&phases::file(PHASE))),
        5 => drop(input.read(&generations::head_file(PHASE))),
        6 => drop(input.read(&generations::generation_file(&[0; 32])).map(|generation| generation.digest())),
        _ => {}
    }
}

struct StateInput<'a> {
    version: u8,
    rest: &'a [u8],
}

impl StateInput<'_> {
    fn read<T: Serialize + DeserializeOwned + Default>(&self, file: &StateFile<T>) -> Option<T> {
        let bytes = match self.version {
            0 => self.rest.to_vec(),
            version => file.with_head(version.into(), self.rest),
        };
        let value = match file.decode(&bytes) {
            Ok(value) => value,
            Err(StateFileError::Newer(_)) => return None,
            Err(StateFileError::Corrupt(why)) => {
                assert!(!why.is_empty(), "what is refused has a reason");
                return None;
            }
        };
        let written = file.encode(&value);
        assert!(written.len() <= MOST_GROWTH * bytes.len(), "{} bytes of {}", written.len(), bytes.len());
        let Ok(again) = file.decode(&written) else { panic!("what was written is not read") };
        assert!(file.encode(&again) == written, "what is read again has other bytes");
        Some(value)
    }
}

fn state() -> NodeState {
    NodeState::new(PeerId::from_bytes([1; 32]), NodeLimits::for_connections(8), SystemClock::new(), None)
}

fn restore_book(entries: Vec<BookEntry>) {
    let NodeState { book, pool, .. } = state();
    let named = entries.len();
    book.restore(entries);
    assert!(book.len() <= named.min(book.limits().capacity), "a book of {} addresses", book.len());
    book.freeze(&pool);
    let saved = book.entries();
    assert!(saved.len() <= book.len());
    let again = state().book;
    again.restore(saved);
    assert_eq!(again.len(), book.len(), "a saved address is lost");
}

fn restore_limits(limits: KeptLimits) {
    let NodeState { pool, .. } = state();
    limits.ban_again(&pool);
    assert!(pool.bans() <= limits.bans.len(), "{} bans of {}", pool.bans(), limits.bans.len());
    let kept = limits.used.after(Duration::ZERO);
    assert!(kept.after(Duration::ZERO) == kept, "other amounts after a second start");
    assert!(limits.used.after(LONG_AFTER).has_only_bans(), "amounts that do not expire");
}
