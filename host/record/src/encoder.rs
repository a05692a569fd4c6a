//! One beat as bytes: whole, or as the difference from the one written before. Writes no file.

use std::sync::Arc;

use groundskeeper_base::peer::Naming;
use groundskeeper_engine::Changes;
use groundskeeper_engine::beat::{Moment, Recordable, RecordedRun};
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::BroadcastTotals;

use super::bytes::{put, put_address, put_text};
use super::runs::Known;
use super::tables::{Elapsed, MOST_ROWS, NEW, Rule, put_column, put_rows};

/// Everything about one beat that is written.
pub(super) struct Beat {
    pub moment: Moment,
    pub snapshot: Arc<dyn Recordable>,
    pub runs: Vec<RecordedRun>,
    /// What all of its plans have changed.
    pub after: Arc<Changes>,
}

/// The bytes of one beat.
pub(super) struct Raw {
    pub bytes: Vec<u8>,
    /// Places in them where unlike meets unlike, ascending.
    pub seams: Vec<usize>,
}

/// Why a beat is not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("it has {0} rows, more than {MOST_ROWS}")]
pub(super) struct TooManyRows(usize);

/// What the beats written so far have told a reader.
#[derive(Default)]
pub(super) struct Encoder {
    before: Option<(Moment, Arc<dyn Recordable>)>,
    known: Known,
}

impl Encoder {
    /// The next beat will be a whole one.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// Whether the next beat has to be a whole one.
    pub fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// The bytes of a beat: a whole one if the encoder is new, else the difference from the last. `names` knows every
    /// connection that was not there in the last.
    ///
    /// # Errors
    /// [`TooManyRows`]; the next beat has to be a whole one then.
    pub fn encode(
        &mut self,
        beat: &Beat,
        names: impl Fn(u32) -> Option<Arc<Naming>>,
    ) -> Result<Raw, TooManyRows> {
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
        Ok(Raw { bytes: out, seams })
    }
}

/// The columns of peers that are written as such: the number of a connection is its row's identity.
fn written_peers() -> impl Iterator<Item = PeerColumn> {
    PeerColumn::ALL.into_iter().filter(|column| *column != PeerColumn::Conn)
}

/// Names of columns and how each is written, so that a reader needs no list of its own.
fn put_layout(out: &mut Vec<u8>, columns: &[(&str, Rule)]) {
    put(out, columns.len() as u64);
    for (name, rule) in columns {
        put_text(out, name);
        out.push(rule.to_byte());
    }
}

/// Ids, addresses and agents of the rows that came, one kind after the other: like beside like is smaller.
fn put_names(out: &mut Vec<u8>, names: Vec<Option<Arc<Naming>>>) {
    out.extend(names.iter().map(|name| u8::from(name.is_some())));
    let known = || names.iter().flatten();
    known().for_each(|name| out.extend_from_slice(name.id.as_bytes()));
    known().for_each(|name| put_address(out, name.address));
    known().for_each(|name| put_text(out, &name.agent));
}

/// The numbers of a moment, in the order in which they are written.
fn numbers(moment: &Moment) -> [u64; 17] {
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

/// As whole seconds of columns count it.
pub(super) fn elapsed(before: &Moment, now: &Moment) -> Elapsed {
    let mono_ms = now.mono_ms.saturating_sub(before.mono_ms);
    Elapsed {
        mono_s: u32::try_from((mono_ms + 500) / 1000).unwrap_or(u32::MAX),
        unix_s: now.unix_s().saturating_sub(before.unix_s()),
    }
}
