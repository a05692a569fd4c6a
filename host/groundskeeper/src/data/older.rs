//! Formats of state files that earlier versions wrote. Reads them, never writes them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;

use crate::book::BookEntry;
use crate::peer::PeerId;
use crate::registry::{LastRun, LastRuns};

/// Greatest age that a stamp of wall time becomes. Such stamps may come from clocks that were wrong by years. A day
/// keeps the order of the addresses, and costs none of them: `forget_after` is a week by default.
const OLDEST_S: u32 = 86_400;

/// Version 1 of an address, with stamps in seconds since 1970.
#[derive(Deserialize)]
struct BookEntryV1 {
    address: SocketAddr,
    peer: Option<PeerId>,
    heard: u32,
    reached: Option<u32>,
    failures: u32,
    told_by: Option<u32>,
}

/// Reads version 1 of the address book.
///
/// The newest stamp of the file counts as now: today's wall clock, and the time that the node was off, are not asked.
pub(super) fn book(content: &[u8]) -> postcard::Result<Vec<BookEntry>> {
    let entries: Vec<BookEntryV1> = postcard::from_bytes(content)?;
    let newest = entries.iter().map(|entry| entry.heard.max(entry.reached.unwrap_or(0))).max().unwrap_or(0);
    let age = |stamp: u32| newest.saturating_sub(stamp).min(OLDEST_S);
    let upgraded = entries.into_iter().map(|entry| BookEntry {
        address: entry.address,
        peer: entry.peer,
        heard_s: age(entry.heard),
        reached_s: entry.reached.map(age),
        // Version 1 did not note who dialled.
        has_answered: entry.reached.is_some(),
        failures: entry.failures,
        told_by: entry.told_by,
    });
    Ok(upgraded.collect())
}

/// Reads version 1 of the schedule: seconds since 1970 by name of the phase. The newest stamp counts as the time of the
/// save.
pub(super) fn schedule(content: &[u8]) -> postcard::Result<LastRuns> {
    let stamps: BTreeMap<String, u32> = postcard::from_bytes(content)?;
    let newest = stamps.values().copied().max().unwrap_or(0);
    let upgraded = stamps.into_iter().map(|(name, stamp)| (name, LastRun::accepted(newest - stamp)));
    Ok(LastRuns { taken_unix_s: newest, phases: upgraded.collect() })
}
