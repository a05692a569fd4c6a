//! Decodes one beat, given the beats since the last one in full. Rejects bytes that no recorder writes; memory use is
//! proportional to the input.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use groundskeeper_base::peer::PeerId;
use groundskeeper_engine::beat::BeatHeader;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::{BroadcastTotals, Name, Totals, clean};

use super::beat::RecordedBeat;
use super::bytes::{ByteReader, CorruptBytes};
use super::runs::CodecState;
use super::snapshot::{RecordedSnapshot, SharedColumn};
use super::tables::{Elapsed, NEW, Rule, take_column, take_rows};

/// The contract has a dozen columns per table; this leaves room for future ones.
const MOST_COLUMNS: usize = 64;

/// A column as it is written, even if this version of the host does not know it.
struct WrittenColumn<C> {
    column: Option<C>,
    rule: Rule,
    values: Arc<Vec<u32>>,
}

/// The tables of the last beat.
struct Tables {
    moment: BeatHeader,
    conns: Arc<Vec<u32>>,
    names: Arc<Vec<Arc<Name>>>,
    peers: Vec<WrittenColumn<PeerColumn>>,
    addresses: Arc<Vec<SocketAddr>>,
    book: Vec<WrittenColumn<AddressColumn>>,
}

/// What is known from the beats read so far.
#[derive(Default)]
pub(super) struct Decoder {
    before: Option<Tables>,
    known: CodecState,
}

impl Decoder {
    /// Decodes a beat: in full, or as the difference from the last one read.
    ///
    /// # Errors
    /// If the bytes are invalid. Only a beat in full can be decoded next.
    pub fn decode(&mut self, session: u64, whole: bool, raw: &[u8]) -> Result<RecordedBeat, CorruptBytes> {
        let before = self.before.take();
        if whole {
            self.known = CodecState::default();
        }
        let mut bytes = ByteReader(raw);
        let moment = take_moment(&mut bytes)?;
        let before = if whole {
            Tables {
                moment,
                conns: Arc::default(),
                names: Arc::default(),
                peers: take_layout(&mut bytes, peer_column)?,
                addresses: Arc::default(),
                book: take_layout(&mut bytes, AddressColumn::from_name)?,
            }
        } else {
            before.ok_or(CorruptBytes("the beat that it depends on is missing"))?
        };
        let elapsed = super::encoder::elapsed(&before.moment, &moment);

        let (conns, sources) = take_rows(&mut bytes, &before.conns, ByteReader::small)?;
        let names = take_names(&mut bytes, &before.names, &sources)?;
        let peers = take_columns(&mut bytes, before.peers, &sources, elapsed)?;
        let (addresses, sources) = take_rows(&mut bytes, &before.addresses, ByteReader::address)?;
        let book = take_columns(&mut bytes, before.book, &sources, elapsed)?;
        let (runs, after) = self.known.take(&mut bytes)?;
        if bytes.left() > 0 {
            return Err(CorruptBytes("it is longer than it should be"));
        }

        let tables = Tables {
            moment,
            conns: Arc::new(conns),
            names: Arc::new(names),
            peers,
            addresses: Arc::new(addresses),
            book,
        };
        let snapshot = Arc::new(tables.snapshot());
        // Views look up the changed rows without another check.
        let (peers, book) = (tables.conns.len() as u32, tables.addresses.len() as u32);
        let fits = |rows: &BTreeSet<u32>, count: u32| rows.last().is_none_or(|last| *last < count);
        let all_fit = runs.iter().map(|run| &run.before).chain([&after]).all(|changes| {
            fits(&changes.closed, peers)
                && fits(&changes.protected, peers)
                && changes.health.last_key_value().is_none_or(|(row, _)| *row < peers)
                && fits(&changes.dialed, book)
        });
        if !all_fit {
            return Err(CorruptBytes("a changed row is not there"));
        }
        self.before = Some(tables);
        Ok(RecordedBeat { session, moment, snapshot, runs, after })
    }
}

impl Tables {
    fn snapshot(&self) -> RecordedSnapshot {
        let mut peers = by_place(&self.peers, |column| column as usize);
        peers[PeerColumn::Conn as usize] = Some(Arc::clone(&self.conns));
        let book = by_place(&self.book, |column| column as usize);
        let BeatHeader { dialing, healthy_above, least, most, broadcasts, .. } = self.moment;
        let (names, addresses) = (Arc::clone(&self.names), Arc::clone(&self.addresses));
        let mut snapshot = RecordedSnapshot::new((peers, names), (book, addresses));
        snapshot.totals = Totals { dialing, least, most, ..Totals::default() };
        snapshot.healthy_above = healthy_above;
        snapshot.broadcasts = broadcasts;
        snapshot
    }
}

/// The columns that this version of the host knows, each at its index.
fn by_place<C: Copy, const N: usize>(
    written: &[WrittenColumn<C>],
    place: fn(C) -> usize,
) -> [SharedColumn; N] {
    let mut columns = [const { None }; N];
    for WrittenColumn { column, values, .. } in written {
        if let Some(column) = column {
            columns[place(*column)] = Some(Arc::clone(values));
        }
    }
    columns
}

/// `Conn` is the identity of its row, and is never written as a column.
fn peer_column(name: &str) -> Option<PeerColumn> {
    PeerColumn::from_name(name).filter(|column| *column != PeerColumn::Conn)
}

fn take_moment(bytes: &mut ByteReader<'_>) -> Result<BeatHeader, CorruptBytes> {
    let moment = BeatHeader {
        tick: bytes.small()?,
        urgent: bytes.small()?,
        late: bytes.flag()?,
        skipped: bytes.small()?,
        slept_ms: bytes.number()?,
        lateness_ms: bytes.number()?,
        mono_ms: bytes.number()?,
        unix_ms: bytes.number()?,
        interval_ms: bytes.number()?,
        dialing: bytes.small()?,
        healthy_above: bytes.small()?,
        least: bytes.small()?,
        most: bytes.small()?,
        broadcasts: BroadcastTotals {
            held: bytes.small()?,
            oldest_s: bytes.small()?,
            in_window: bytes.small()?,
            window_s: bytes.small()?,
        },
    };
    let BeatHeader { slept_ms, lateness_ms, mono_ms, unix_ms, interval_ms, .. } = moment;
    // Times are added without overflow checks.
    if [slept_ms, lateness_ms, mono_ms, unix_ms, interval_ms].into_iter().any(|ms| ms > u64::MAX / 4) {
        return Err(CorruptBytes("a time is too long"));
    }
    Ok(moment)
}

fn take_layout<C>(
    bytes: &mut ByteReader<'_>,
    known: fn(&str) -> Option<C>,
) -> Result<Vec<WrittenColumn<C>>, CorruptBytes> {
    let count = bytes.count()?;
    if count > MOST_COLUMNS {
        return Err(CorruptBytes("there are more columns than there can be"));
    }
    let column = |_| {
        let name = bytes.text()?;
        Ok(WrittenColumn {
            column: known(name),
            rule: Rule::from_byte(bytes.byte()?)?,
            values: Arc::default(),
        })
    };
    (0..count).map(column).collect()
}

fn take_columns<C>(
    bytes: &mut ByteReader<'_>,
    columns: Vec<WrittenColumn<C>>,
    sources: &[u32],
    elapsed: Elapsed,
) -> Result<Vec<WrittenColumn<C>>, CorruptBytes> {
    let next = |column: WrittenColumn<C>| {
        let values = take_column(bytes, column.rule, elapsed, sources, &column.values)?;
        Ok(WrittenColumn { values: Arc::new(values), ..column })
    };
    columns.into_iter().map(next).collect()
}

/// The names of all rows: those of new rows are read, the others are as before.
fn take_names(
    bytes: &mut ByteReader<'_>,
    before: &[Arc<Name>],
    sources: &[u32],
) -> Result<Vec<Arc<Name>>, CorruptBytes> {
    let came = sources.iter().filter(|source| **source == NEW).count();
    let flags = bytes.exactly(came)?;
    let known = flags.iter().filter(|flag| **flag != 0).count();
    let ids = (0..known).map(|_| Ok(PeerId::from_bytes(bytes.array()?))).collect::<Result<Vec<_>, _>>()?;
    let addresses = (0..known).map(|_| bytes.address()).collect::<Result<Vec<_>, _>>()?;
    let agents = (0..known).map(|_| bytes.text()).collect::<Result<Vec<_>, _>>()?;
    let mut read = ids.iter().zip(addresses).zip(agents);
    let nobody = Arc::<Name>::default();
    let mut next = |flag: u8| {
        let name = if flag == 0 { None } else { read.next() };
        name.map_or_else(
            || Arc::clone(&nobody),
            |((id, address), agent)| {
                let (id, address) = (id.to_string(), address.to_string());
                Arc::new(Name { id, address, agent: clean(agent).into_owned() })
            },
        )
    };
    let mut flags = flags.iter();
    let name = |source: &u32| match *source {
        NEW => flags.next().map(|flag| next(*flag)),
        source => before.get(source as usize).cloned(),
    };
    sources.iter().map(name).map(|name| name.ok_or(CorruptBytes("a name is missing"))).collect()
}
