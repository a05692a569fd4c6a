//! The journal's memory: rooms by kind of record, each shared fairly by the sources of its records. Bounded.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{ActionKind, Initiator, JournalLimits, Outcome, Record};

/// A room, by weight: a room that strangers can fill at will holds nothing that explains anything else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RoomName {
    /// Live connections that ended, and bans.
    Disconnects,
    /// Dials and probes, which a node without peers makes all the time.
    Dials,
    /// Connections that never became live: any stranger can cause them.
    Refusals,
    /// Changes of phases and config: generations, quarantines, orders of the operator.
    Changes,
    /// The other records of phases: pings, asks that were refused, failed runs.
    Phases,
    /// Everything else, above all connections that became live.
    Others,
}

impl RoomName {
    /// In the order of the enum, with its name in metrics.
    const ALL: [(Self, &'static str); 6] = [
        (Self::Disconnects, "disconnects"),
        (Self::Dials, "dials"),
        (Self::Refusals, "refusals"),
        (Self::Changes, "changes"),
        (Self::Phases, "phases"),
        (Self::Others, "others"),
    ];

    /// An ask that was not applied explains no disconnect: a greedy guest can make more of them in one tick than a room
    /// holds.
    fn of(record: &Record) -> Self {
        let has_effect = matches!(record.outcome, Outcome::Applied | Outcome::Started | Outcome::Failed(_));
        match record.what {
            ActionKind::Disconnect | ActionKind::Ban if has_effect => Self::Disconnects,
            ActionKind::Dial | ActionKind::Probe if has_effect => Self::Dials,
            ActionKind::Refused => Self::Refusals,
            ActionKind::Reload
            | ActionKind::Pause
            | ActionKind::Resume
            | ActionKind::Quarantine
            | ActionKind::RunNow
            | ActionKind::Config
            | ActionKind::KeyConflict => Self::Changes,
            _ if matches!(record.by, Initiator::Phase { .. }) => Self::Phases,
            _ => Self::Others,
        }
    }

    /// Three eighths of `notable` each for what ends and what begins connections: at some 200 dials a minute a node
    /// without peers fills the latter in a quarter of an hour, and the former lasts for three connections per slot of the
    /// default pool.
    fn most(self, JournalLimits { notable, chatter }: JournalLimits) -> usize {
        let most = match self {
            Self::Disconnects | Self::Dials => notable * 3 / 8,
            Self::Refusals | Self::Changes => notable / 8,
            Self::Phases | Self::Others => chatter / 2,
        };
        most.max(1)
    }

    fn is_notable(self) -> bool {
        !matches!(self, Self::Phases | Self::Others)
    }
}

/// The cause of a record. A source with many records pushes out its own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
enum RecordSource {
    Phase(Arc<str>),
    Address(IpAddr),
    Node,
}

impl RecordSource {
    fn of(record: &Record, room: RoomName) -> Self {
        if matches!(room, RoomName::Changes | RoomName::Phases)
            && let Some(phase) = record.about_phase()
        {
            return Self::Phase(Arc::clone(phase));
        }
        match record.address.map(|address| address.ip().to_canonical()) {
            // A customer of a provider gets up to a /48, and with it as many addresses as it likes.
            Some(IpAddr::V6(ip)) => {
                let [a, b, c, ..] = ip.segments();
                Self::Address(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0).into())
            }
            Some(ip) => Self::Address(ip),
            None => Self::Node,
        }
    }
}

/// A source's place in the order of dropping: by the number of its records, then by the age of its oldest one.
type Rank = (usize, Reverse<u64>, RecordSource);

struct HeldRecord {
    seq: u64,
    /// None: dropped before older ones. Boxed, so that closing gaps moves little.
    record: Option<Box<Record>>,
}

/// Records of one room, in the order of their numbers.
struct Room {
    most: usize,
    held: usize,
    records: VecDeque<HeldRecord>,
    /// The numbers of each source's records, oldest first.
    sources: HashMap<RecordSource, VecDeque<u64>>,
    ranks: BTreeSet<Rank>,
    overwritten: u64,
}

impl Room {
    fn new(most: usize) -> Self {
        Self {
            most,
            held: 0,
            records: VecDeque::new(),
            sources: HashMap::new(),
            ranks: BTreeSet::new(),
            overwritten: 0,
        }
    }

    fn push(&mut self, record: Record, source: RecordSource) {
        if self.held == self.most {
            self.drop_one();
        }
        let numbers = self.sources.entry(source.clone()).or_default();
        if let Some(&oldest) = numbers.front() {
            self.ranks.remove(&(numbers.len(), Reverse(oldest), source.clone()));
        }
        numbers.push_back(record.seq);
        self.ranks.insert((numbers.len(), Reverse(numbers[0]), source));
        self.records.push_back(HeldRecord { seq: record.seq, record: Some(Box::new(record)) });
        self.held += 1;
    }

    /// Drops the oldest record of the source that has the most.
    fn drop_one(&mut self) {
        let Some((count, Reverse(seq), source)) = self.ranks.pop_last() else { return };
        if count == 1 {
            self.sources.remove(&source);
        } else if let Some(numbers) = self.sources.get_mut(&source) {
            numbers.pop_front();
            self.ranks.insert((numbers.len(), Reverse(numbers[0]), source));
        }
        if let Ok(at) = self.records.binary_search_by_key(&seq, |held| held.seq) {
            self.records[at].record = None;
        }
        self.held -= 1;
        self.overwritten += 1;
        while self.records.front().is_some_and(|held| held.record.is_none()) {
            self.records.pop_front();
        }
        // Dropped records leave gaps, which are closed together: a few moves for each record.
        if self.records.len() > self.held + self.most / 4 {
            self.records.retain(|held| held.record.is_some());
        }
    }
}

/// What one room of the journal's memory holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct RoomUse {
    /// One of `disconnects`, `dials`, `refusals`, `changes`, `phases`, `others`.
    pub name: &'static str,
    /// Records in memory.
    pub held: usize,
    /// Records that fit.
    pub most: usize,
    /// Records dropped for newer ones since the start. The file may still have them.
    pub overwritten: u64,
}

/// All rooms, and the number of records so far.
pub(super) struct Rooms {
    seq: u64,
    rooms: [Room; RoomName::ALL.len()],
}

impl Rooms {
    pub(super) fn new(limits: JournalLimits) -> Self {
        Self { seq: 0, rooms: RoomName::ALL.map(|(room, _)| Room::new(room.most(limits))) }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.seq += 1;
        self.seq
    }

    pub(super) fn numbered(&self) -> u64 {
        self.seq
    }

    /// Keeps the newest record. Returns its number.
    pub(super) fn keep(&mut self, record: Record) -> u64 {
        let seq = record.seq;
        let room = RoomName::of(&record);
        let source = RecordSource::of(&record, room);
        self.rooms[room as usize].push(record, source);
        seq
    }

    /// Merges the rooms by number.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = &Record> {
        let mut rooms = self
            .rooms
            .each_ref()
            .map(|room| room.records.iter().rev().filter_map(|held| held.record.as_deref()).peekable());
        std::iter::from_fn(move || {
            let mut newest = (0, 0);
            for (at, room) in rooms.iter_mut().enumerate() {
                let seq = room.peek().map_or(0, |record| record.seq);
                newest = newest.max((seq, at));
            }
            rooms[newest.1].next()
        })
    }

    /// Records held: notable, others.
    pub(super) fn held(&self) -> (usize, usize) {
        let (mut notable, mut chatter) = (0, 0);
        for ((name, _), room) in RoomName::ALL.iter().zip(&self.rooms) {
            if name.is_notable() {
                notable += room.held;
            } else {
                chatter += room.held;
            }
        }
        (notable, chatter)
    }

    pub(super) fn uses(&self) -> Vec<RoomUse> {
        let uses = RoomName::ALL.iter().zip(&self.rooms).map(|((_, name), room)| {
            let Room { held, most, overwritten, .. } = *room;
            RoomUse { name, held, most, overwritten }
        });
        uses.collect()
    }
}
