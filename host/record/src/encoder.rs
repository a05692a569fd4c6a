//! Encodes one beat: in full, or as the difference from the previous one. Writes no file.

use std::sync::Arc;

use groundskeeper_base::peer::PeerLabel;
use groundskeeper_engine::Changes;
use groundskeeper_engine::beat::{BeatHeader, Recordable, RecordedRun};
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::BroadcastTotals;

use super::bytes::{put, put_address, put_text};
use super::runs::CodecState;
use super::tables::{Elapsed, MOST_ROWS, NEW, Rule, put_column, put_rows};

/// The contents of one beat that are written.
pub(super) struct BeatContents {
    pub moment: BeatHeader,
    pub snapshot: Arc<dyn Recordable>,
    pub runs: Vec<RecordedRun>,
    /// All changes by the plans of the beat.
    pub after: Arc<Changes>,
}

/// One encoded beat.
pub(super) struct EncodedBeat {
    pub bytes: Vec<u8>,
    /// Positions where the kind of data changes, ascending.
    pub seams: Vec<usize>,
}

/// Why a beat is not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it has {0} rows, more than {MOST_ROWS}")]
pub(super) struct TooManyRows(usize);

/// What a reader knows from the beats written so far.
#[derive(Default)]
pub(super) struct Encoder {
    before: Option<(BeatHeader, Arc<dyn Recordable>)>,
    known: CodecState,
}

impl Encoder {
    /// The next beat will be written in full.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether the next beat must be written in full.
    pub fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// Encodes a beat: in full if the encoder is new, else as the difference from the last one. `names` gives the names
    /// of connections that were not in the last one.
    ///
    /// # Errors
    /// [`TooManyRows`]; the next beat must then be written in full.
    pub fn encode(
        &mut self,
        beat: &BeatContents,
        names: impl Fn(u32) -> Option<Arc<PeerLabel>>,
    ) -> Result<EncodedBeat, TooManyRows> {
        let before = self.before.take();
        let (mut out, mut seams) = (Vec::new(), Vec::new());
        let moment = &beat.moment;
        numbers(moment).into_iter().for_each(|number| put(&mut out, number));
        if before.is_none() {
            let peers = written_peers().map(|column| (column.name(), Rule::of_peers(column)));
            put_layout(&mut out, &peers.collect::<Vec<_>>());
            put_layout(&mut out, &AddressColumn::ALL.map(|column| (column.name(), Rule::of_book(column))));
        }
        let elapsed = before.as_ref().map_or(Elapsed::default(), |(before, _)| elapsed(before, moment));
        let before = before.as_ref().map(|(_, snapshot)| snapshot);

        let conns = beat.snapshot.peers(PeerColumn::Conn);
        let addresses = beat.snapshot.addresses();
        if let Some(rows) = [conns.len(), addresses.len()].into_iter().find(|rows| *rows > MOST_ROWS) {
            return Err(TooManyRows(rows));
        }
        let old = before.map_or(&[][..], |before| before.peers(PeerColumn::Conn));
        let sources = put_rows(&mut out, old, conns, |out, conn| put(out, conn.into()));
        let came = conns.iter().zip(&sources).filter(|(_, source)| **source == NEW);
        put_names(&mut out, came.map(|(&conn, _)| names(conn)).collect());
        seams.push(out.len());
        for column in written_peers() {
            let old = before.map_or(&[][..], |before| before.peers(column));
            let now = beat.snapshot.peers(column);
            put_column(&mut out, &mut seams, Rule::of_peers(column), elapsed, &sources, old, now);
        }

        let old = before.map_or(&[][..], |before| before.addresses());
        let sources = put_rows(&mut out, old, addresses, put_address);
        for column in AddressColumn::ALL {
            let old = before.map_or(&[][..], |before| before.book(column));
            let now = beat.snapshot.book(column);
            put_column(&mut out, &mut seams, Rule::of_book(column), elapsed, &sources, old, now);
        }

        self.known.put(&mut out, &beat.runs, &beat.after);
        self.before = Some((beat.moment, Arc::clone(&beat.snapshot)));
        Ok(EncodedBeat { bytes: out, seams })
    }
}

/// The peer columns that are written as columns. `Conn` is not one of them: it is the identity of its row.
fn written_peers() -> impl Iterator<Item = PeerColumn> {
    PeerColumn::ALL.into_iter().filter(|column| *column != PeerColumn::Conn)
}

/// Writes the names of columns and how each is written, so that a reader needs no list of columns.
fn put_layout(out: &mut Vec<u8>, columns: &[(&str, Rule)]) {
    put(out, columns.len() as u64);
    for (name, rule) in columns {
        put_text(out, name);
        out.push(rule.to_byte());
    }
}

/// Writes ids, addresses and agents of the new rows, one kind after the other: similar data compresses better.
fn put_names(out: &mut Vec<u8>, names: Vec<Option<Arc<PeerLabel>>>) {
    out.extend(names.iter().map(|name| u8::from(name.is_some())));
    let known = || names.iter().flatten();
    known().for_each(|name| out.extend_from_slice(name.id.as_bytes()));
    known().for_each(|name| put_address(out, name.address));
    known().for_each(|name| put_text(out, &name.agent));
}

/// The numbers of a moment, in the order in which they are written.
fn numbers(moment: &BeatHeader) -> [u64; 17] {
    let BroadcastTotals { held, oldest_s, in_window, window_s } = moment.broadcasts;
    [
        moment.tick.into(),
        moment.urgent.into(),
        moment.late.into(),
        moment.skipped.into(),
        moment.slept_ms,
        moment.lateness_ms,
        moment.mono_ms,
        moment.unix_ms,
        moment.interval_ms,
        moment.dialing.into(),
        moment.healthy_above.into(),
        moment.least.into(),
        moment.most.into(),
        held.into(),
        oldest_s.into(),
        in_window.into(),
        window_s.into(),
    ]
}

/// The time between two beats in whole seconds, the unit of the columns.
pub(super) fn elapsed(before: &BeatHeader, now: &BeatHeader) -> Elapsed {
    let mono_ms = now.mono_ms.saturating_sub(before.mono_ms);
    Elapsed {
        mono_s: u32::try_from((mono_ms + 500) / 1000).unwrap_or(u32::MAX),
        unix_s: now.unix_s().saturating_sub(before.unix_s()),
    }
}
