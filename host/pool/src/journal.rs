//! The record of every action: initiator, reason, inputs, outcome. Stores and answers queries; makes no decisions.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use groundskeeper_base::clock::Clock;
use groundskeeper_base::lock::{LockWaits, WatchedMutex};
use groundskeeper_base::peer::PeerId;

mod file;
mod filter;
mod history;
mod kinds;
mod record;
mod rooms;
#[cfg(test)]
mod tests;

pub use file::JournalFile;
pub use filter::{JournalFilter, RecordPeer};
pub use history::{JournalHistory, ReadLimits};
pub use kinds::{ActionKind, Cause, Initiator};
pub use record::{Input, NewRecord, Outcome, Record};
pub use rooms::RoomUse;
use rooms::Rooms;

/// How many records stay in memory. A record takes about 300 bytes.
///
/// Each limit is divided into rooms, so that a flood of one kind pushes out only records of its kind. In a full room, the
/// source with the most records loses its oldest one. A source is an IPv4 address, an IPv6 /48, or a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct JournalLimits {
    /// Three eighths for disconnects and bans, three for dials and probes, one for refused connections, one for changes
    /// of phases and config.
    pub notable: usize,
    /// Half for what else phases did, half for everything else.
    pub chatter: usize,
}

impl Default for JournalLimits {
    fn default() -> Self {
        Self { notable: 8192, chatter: 4096 }
    }
}

/// The journal of one node. Recording takes one short lock and never touches the disk.
pub struct Journal {
    clock: Arc<dyn Clock>,
    start: u64,
    rooms: WatchedMutex<Rooms>,
    /// The current beat: tick in the upper half, number of the urgent beat in the lower.
    beat: AtomicU64,
    disconnects: [AtomicU64; Cause::ALL.len()],
    file: Option<JournalFile>,
}

impl Journal {
    /// Creates an empty journal. With `file`, each record is also written there.
    pub fn new(clock: Arc<dyn Clock>, limits: JournalLimits, file: Option<JournalFile>) -> Arc<Self> {
        Arc::new(Self {
            start: clock.unix().as_millis() as u64,
            clock,
            rooms: WatchedMutex::new(Rooms::new(limits)),
            beat: AtomicU64::new(0),
            disconnects: Default::default(),
            file,
        })
    }

    /// Waits, at most this long, until all records are in the file. Blocks the caller. False if they are not.
    #[doc(hidden)]
    pub fn finish_file(&self, deadline: std::time::Duration) -> bool {
        self.file.as_ref().is_none_or(|file| file.finish(deadline))
    }

    /// Later records belong to this beat.
    #[doc(hidden)]
    pub fn begin_beat(&self, tick: u32, beat: u32) {
        self.beat.store(u64::from(tick) << 32 | u64::from(beat), Ordering::Relaxed);
    }

    /// The current beat: tick, and number of the urgent beat after it.
    fn current_beat(&self) -> (u32, u32) {
        let beat = self.beat.load(Ordering::Relaxed);
        ((beat >> 32) as u32, beat as u32)
    }

    /// Writes one record and returns its number. O(log n) of the records held.
    pub fn record(&self, draft: NewRecord) -> u64 {
        let (tick, beat) = self.current_beat();
        let NewRecord { by, what, phase, peer, conn, address, cause, reason, inputs, outcome, count } = draft;
        debug_assert_eq!(what == ActionKind::Disconnect && outcome == Outcome::Applied, cause.is_some());
        if let Some(cause) = cause {
            self.disconnects[cause as usize].fetch_add(1, Ordering::Relaxed);
        }
        let mut record = Record {
            seq: 0,
            start: self.start,
            unix_ms: self.clock.unix().as_millis() as u64,
            tick,
            beat,
            by,
            what,
            phase,
            peer,
            conn,
            address,
            cause,
            reason,
            inputs,
            outcome,
            count,
        };
        let mut rooms = self.rooms.lock();
        record.seq = rooms.next_number();
        if let Some(file) = &self.file {
            file.append(&record);
        }
        rooms.keep(record)
    }

    /// Number of live connections that have ended since the host started. Does not depend on what is still held.
    pub fn disconnects(&self) -> u64 {
        Cause::ALL.into_iter().map(|cause| self.disconnects_by(cause)).sum()
    }

    /// The share of [`Journal::disconnects`] that has this cause.
    pub fn disconnects_by(&self, cause: Cause) -> u64 {
        self.disconnects[cause as usize].load(Ordering::Relaxed)
    }

    /// The newest `limit` records that `keep` accepts, oldest first. Calls `keep` on the newest record first, and stops
    /// when it has `limit` of them. O(records held).
    pub fn select(&self, limit: usize, keep: impl FnMut(&Record) -> bool) -> Vec<Record> {
        self.select_after(0, limit, keep)
    }

    /// As [`Journal::select`], of the records with a number above `seq`. O(records with such a number).
    pub fn select_after(&self, seq: u64, limit: usize, mut keep: impl FnMut(&Record) -> bool) -> Vec<Record> {
        let rooms = self.rooms.lock();
        let newest = rooms.newest_first().take_while(|record| record.seq > seq);
        let mut found: Vec<Record> = newest.filter(|record| keep(record)).take(limit).cloned().collect();
        drop(rooms);
        found.reverse();
        found
    }

    /// All records still held about one peer, oldest first.
    pub fn explain(&self, peer: &PeerId) -> Vec<Record> {
        self.select(usize::MAX, |record| record.peer.as_ref() == Some(peer))
    }

    /// The number of the newest record; 0 if there is none.
    pub fn newest(&self) -> u64 {
        self.rooms.lock().numbered()
    }

    /// Wall time at which the journal was created, in milliseconds since 1970: [`Record::start`] of its records.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Number of records under the two limits: notable, chatter.
    pub fn held(&self) -> (usize, usize) {
        self.rooms.lock().held()
    }

    /// What each room holds and has dropped.
    pub fn rooms(&self) -> Vec<RoomUse> {
        self.rooms.lock().uses()
    }

    /// The journal's file, if it has one.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(JournalFile::path)
    }

    /// How long the journal's thread has waited for one write to its file; zero if it does not wait.
    #[doc(hidden)]
    pub fn file_waited(&self) -> std::time::Duration {
        self.file.as_ref().map_or(std::time::Duration::ZERO, JournalFile::waited)
    }

    /// How long callers have waited for the journal's lock.
    pub fn lock_waits(&self) -> LockWaits {
        self.rooms.waits()
    }

    /// Lines that could not be written to the journal's file, 0 without one.
    pub fn lines_lost(&self) -> u64 {
        self.file.as_ref().map_or(0, JournalFile::lost)
    }
}
