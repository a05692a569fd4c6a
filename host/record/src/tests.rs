//! Recordings of generated beats: they are read back unchanged, and damage does not spread.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use groundskeeper_base::peer::{PeerId, PeerLabel};
use groundskeeper_engine::beat::{BeatRecorder, Recordable};
use groundskeeper_engine::{Changes, FailureKind};
use groundskeeper_sdk::column::{AddressColumn, PeerColumn, address, peer};
use groundskeeper_sdk::host::{Ask, BroadcastTotals, Metric, MetricChange, Saved, Table};
use groundskeeper_sdk::phase::Tick;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::head::{FILE_HEAD, RECORD_HEAD, file_head};
use super::output::RecordSink;
use super::*;

/// A generated beat: its tables by column.
#[derive(Clone, Debug)]
struct Made {
    peers: Vec<Vec<u32>>,
    book: Vec<Vec<u32>>,
    addresses: Vec<SocketAddr>,
    moment: BeatHeader,
    runs: Vec<RecordedRun>,
    after: Arc<Changes>,
}

fn naming(conn: u32) -> Option<PeerLabel> {
    // One connection in seven has ended before its name was read.
    (conn % 7 != 3).then(|| PeerLabel {
        id: PeerId::from_bytes([conn as u8; 32]),
        address: socket(conn),
        agent: format!("agent/{}", conn % 3),
    })
}

fn socket(n: u32) -> SocketAddr {
    if n.is_multiple_of(2) {
        ([10, 0, 0, n as u8], 7420).into()
    } else {
        (std::net::Ipv6Addr::from_bits(n.into()), 7421).into()
    }
}

impl Recordable for Made {
    fn peers(&self, column: PeerColumn) -> &[u32] {
        &self.peers[column as usize]
    }

    fn book(&self, column: AddressColumn) -> &[u32] {
        &self.book[column as usize]
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    fn naming(&self, row: usize) -> Option<PeerLabel> {
        naming(self.peers[PeerColumn::Conn as usize][row])
    }
}

/// Checks that the beat read equals the generated one.
fn assert_same(read: &RecordedBeat, made: &Made) {
    assert_eq!((read.moment, &read.runs, &read.after), (made.moment, &made.runs, &made.after));
    let view = read.view(None);
    for (place, name) in peer::COLUMNS.iter().enumerate() {
        assert_eq!(view.column(Table::Peers, name), Some(&made.peers[place][..]), "{name}");
    }
    for (place, name) in address::COLUMNS.iter().enumerate() {
        assert_eq!(view.column(Table::Book, name), Some(&made.book[place][..]), "{name}");
    }
    for (row, conn) in made.peers[PeerColumn::Conn as usize].iter().enumerate() {
        let name = view.name(Table::Peers, row as u32);
        let naming = naming(*conn);
        assert_eq!(name.id, naming.as_ref().map_or_else(String::new, |naming| naming.id.to_string()));
        assert_eq!(name.agent, naming.map_or_else(String::new, |naming| naming.agent));
    }
    for (row, address) in made.addresses.iter().enumerate() {
        assert_eq!(view.name(Table::Book, row as u32).address, address.to_string());
    }
    assert_eq!(view.totals().dialing, made.moment.dialing);
    assert_eq!(view.broadcasts(), made.moment.broadcasts);
}

/// A file in memory that a test can look into.
#[derive(Clone)]
struct Memory {
    bytes: Arc<Mutex<Vec<u8>>>,
    most: usize,
    /// The rotated files.
    former: Arc<Mutex<Vec<Vec<u8>>>>,
    /// If set, each record waits for a message.
    gate: Option<Arc<Mutex<Receiver<()>>>>,
}

impl Memory {
    fn new(most: usize) -> Self {
        let bytes = Arc::new(Mutex::new(file_head().to_vec()));
        Self { bytes, most, former: Arc::default(), gate: None }
    }
}

impl RecordSink for Memory {
    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.lock().len() + bytes <= self.most
    }

    fn append(&mut self, record: &[u8]) -> std::io::Result<()> {
        if let Some(gate) = &self.gate {
            gate.lock().recv().map_err(std::io::Error::other)?;
        }
        self.bytes.lock().extend_from_slice(record);
        Ok(())
    }

    fn turn_over(&mut self) -> std::io::Result<()> {
        let former = std::mem::replace(&mut *self.bytes.lock(), file_head().to_vec());
        self.former.lock().push(former);
        Ok(())
    }
}

fn options(whole_every: u32) -> RecorderOptions {
    RecorderOptions { whole_every, patience: Duration::from_secs(60), ..RecorderOptions::default() }
}

fn take(recorder: &mut Recorder, made: &Made) {
    assert!(recorder.begin(Arc::new(made.clone()), made.moment).is_some());
    made.runs.iter().for_each(|run| recorder.ran(run.clone()));
    recorder.end(Arc::clone(&made.after));
}

fn record(beats: &[Made], whole_every: u32) -> Vec<u8> {
    let sink = Memory::new(usize::MAX);
    let mut recorder = Recorder::into_sink(Box::new(sink.clone()), 0, options(whole_every)).unwrap();
    beats.iter().for_each(|made| take(&mut recorder, made));
    drop(recorder);
    sink.bytes.lock().clone()
}

fn opened(bytes: &[u8]) -> Result<Recording, ReadError> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    Recording::open(file.path())
}

fn read(bytes: Vec<u8>) -> Vec<Event> {
    opened(&bytes).unwrap().events().collect()
}

fn beats(bytes: Vec<u8>) -> Vec<RecordedBeat> {
    let beat = |event| match event {
        Event::Beat(beat) => *beat,
        other => panic!("{other:?}"),
    };
    read(bytes).into_iter().map(beat).collect()
}

fn ask() -> impl Strategy<Value = Ask> {
    let reason = || "[ -~]{1,20}";
    prop_oneof![
        (any::<u32>(), reason()).prop_map(|(peer, reason)| Ask::Disconnect { peer, reason }),
        (any::<u32>(), any::<i32>(), reason()).prop_map(|(peer, by, reason)| Ask::Health {
            peer,
            by,
            reason
        }),
        proptest::collection::vec(any::<u32>(), 1..5).prop_map(|peers| Ask::Ping { peers }),
        (any::<u32>(), reason()).prop_map(|(address, reason)| Ask::Dial { address, reason }),
        any::<u32>().prop_map(|ticks| Ask::AgainIn { ticks }),
    ]
}

fn saved() -> impl Strategy<Value = Option<Saved>> {
    proptest::option::of((0_u32..3, proptest::collection::vec(any::<u8>(), 0..9)))
        .prop_map(|saved| saved.map(|(version, bytes)| Saved { version, bytes }))
}

fn came() -> impl Strategy<Value = RecordedOutcome> {
    let fate = prop_oneof![
        Just(AskOutcome::Applied),
        Just(AskOutcome::Void),
        Just(AskOutcome::Refused),
        Just(AskOutcome::Shadow),
        any::<u32>().prop_map(|granted| AskOutcome::Partial { granted })
    ];
    let metric = ("[a-z]{1,5}", any::<u32>(), any::<bool>()).prop_map(|(name, n, add)| Metric {
        name,
        change: if add { MetricChange::Add(n) } else { MetricChange::Set(f64::from(n) / 3.0) },
    });
    let asks = proptest::collection::vec((ask(), fate), 0..4);
    prop_oneof![
        4 => (asks, saved(), proptest::collection::vec(metric, 0..3)).prop_map(|(asks, memory, metrics)| {
            let (asks, ask_outcomes) = asks.into_iter().unzip();
            RecordedOutcome::Planned(AppliedPlan { asks, memory, metrics, ask_outcomes })
        }),
        1 => ".{0,12}".prop_map(|text| RecordedOutcome::Failed { how: FailureKind::Transient, text }),
    ]
}

/// Rows of a table of `rows`, ascending.
fn some_rows(rows: usize) -> impl Strategy<Value = Vec<u32>> {
    proptest::sample::subsequence((0..rows as u32).collect::<Vec<_>>(), 0..=rows.min(3))
}

fn changes(peers: usize, book: usize) -> impl Strategy<Value = Arc<Changes>> {
    (some_rows(peers), some_rows(peers), some_rows(peers), some_rows(book)).prop_map(
        |(closed, health, protected, dialed)| {
            let health = health.into_iter().map(|row| (row, row as u8)).collect();
            let (closed, protected) = (closed.into_iter().collect(), protected.into_iter().collect());
            Arc::new(Changes { closed, health, protected, dialed: dialed.into_iter().collect() })
        },
    )
}

fn run(peers: usize, book: usize) -> impl Strategy<Value = RecordedRun> {
    let tick =
        (any::<u32>(), proptest::option::of(0..u32::MAX), any::<u32>(), any::<bool>(), any::<[u32; 2]>());
    (0_u32..4, tick, saved(), changes(peers, book), came(), proptest::option::of(0_u64..1 << 40)).prop_map(
        |(phase, (number, since_last_s, missed, late, seed), memory, before, came, fuel)| RecordedRun {
            phase: Arc::new(RunInfo {
                name: format!("phase-{phase}"),
                version: "1.2.3".into(),
                kind: "wasm".into(),
                place: phase,
                digest: (phase > 1).then_some([phase as u8; 32]),
                settings: (phase > 2).then(|| "{}".to_owned()),
            }),
            tick: Tick { number, since_last_s, missed, late, unix_s: number ^ missed, seed },
            memory,
            before,
            took_us: u64::from(missed),
            fuel,
            outcome: came,
        },
    )
}

/// Columns for this number of rows, with likely and unlikely values.
fn columns(names: &'static [&'static str], rows: usize) -> impl Strategy<Value = Vec<Vec<u32>>> {
    let value = prop_oneof![4 => 0_u32..200, 1 => any::<u32>(), 1 => Just(u32::MAX)];
    proptest::collection::vec(proptest::collection::vec(value, rows), names.len())
}

fn made() -> impl Strategy<Value = Made> {
    let conns = proptest::collection::btree_set(0_u32..60, 0..25).prop_shuffle_some();
    let addresses = proptest::collection::btree_set(0_u32..60, 0..15).prop_shuffle_some();
    (conns, addresses).prop_flat_map(|(conns, addresses)| {
        let (rows, known) = (conns.len(), addresses.len());
        let runs = proptest::collection::vec(run(rows, known), 0..4);
        let tables = (columns(peer::COLUMNS, rows), columns(address::COLUMNS, known));
        let times = (any::<u32>(), any::<bool>(), 0_u64..1 << 40, 0_u64..1 << 40, any::<u32>());
        (tables, runs, changes(rows, known), times).prop_map(move |(tables, runs, after, times)| {
            let (mut peers, book) = tables;
            peers[PeerColumn::Conn as usize] = conns.clone();
            let (tick, late, mono_ms, unix_ms, dialing) = times;
            let moment = BeatHeader {
                tick,
                late,
                mono_ms,
                unix_ms,
                dialing,
                urgent: tick % 3,
                broadcasts: BroadcastTotals { held: dialing, ..BroadcastTotals::default() },
                ..BeatHeader::default()
            };
            let addresses = addresses.iter().map(|n| socket(*n)).collect();
            Made { peers, book, addresses, moment, runs, after }
        })
    })
}

trait SomeOrder {
    fn prop_shuffle_some(self) -> BoxedStrategy<Vec<u32>>;
}

impl<S: Strategy<Value = std::collections::BTreeSet<u32>> + 'static> SomeOrder for S {
    /// Mostly in order, as slots are.
    fn prop_shuffle_some(self) -> BoxedStrategy<Vec<u32>> {
        (self, 0_usize..5)
            .prop_map(|(set, turn)| {
                let mut rows: Vec<u32> = set.into_iter().collect();
                if turn == 0 {
                    rows.reverse();
                }
                rows
            })
            .boxed()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn beats_come_back_as_they_were(made in proptest::collection::vec(made(), 1..8), whole_every in 1_u32..5) {
        let bytes = record(&made, whole_every);
        let beats = beats(bytes.clone());
        prop_assert_eq!(beats.len(), made.len());
        beats.iter().zip(&made).for_each(|(read, made)| assert_same(read, made));
        let recording = opened(&bytes).unwrap();
        for made in &made {
            let BeatHeader { tick, urgent, .. } = made.moment;
            prop_assert_eq!(recording.beat_at(tick, urgent).unwrap().moment, made.moment);
        }
        prop_assert_eq!(recording.torn_bytes(), 0);
    }

    #[test]
    fn a_torn_end_costs_the_last_beats_and_no_others(
        made in proptest::collection::vec(made(), 1..5), whole_every in 1_u32..4, cut: prop::sample::Index,
    ) {
        let bytes = record(&made, whole_every);
        let cut = cut.index(bytes.len());
        match opened(&bytes[..cut]) {
            Err(error) => prop_assert!(cut < FILE_HEAD, "{}", error),
            Ok(recording) => {
                let whole = recording.events().count();
                prop_assert!(whole < made.len());
                for (event, made) in recording.events().zip(&made) {
                    let Event::Beat(beat) = event else { panic!("{event:?}") };
                    assert_same(&beat, made);
                }
                prop_assert!(recording.torn_bytes() < cut as u64);
            }
        }
    }

    #[test]
    fn a_flipped_bit_is_noticed_and_stays_local(
        made in proptest::collection::vec(made(), 1..7), whole_every in 1_u32..4, at: prop::sample::Index, bit in 0_u32..8,
    ) {
        let mut bytes = record(&made, whole_every);
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        if let Ok(recording) = opened(&bytes) {
            let mut read = 0;
            for event in recording.events() {
                let Event::Beat(beat) = event else { continue };
                let same: Vec<&Made> = made.iter().filter(|made| made.moment == beat.moment).collect();
                prop_assert!(!same.is_empty());
                assert_same(&beat, same[0]);
                read += 1;
            }
            // The damaged beat is lost, and those up to the next one in full.
            prop_assert!(read + whole_every as usize >= made.len(), "{} of {}", read, made.len());
            prop_assert!(read < made.len());
        } else {
            prop_assert!(at < FILE_HEAD);
        }
    }

    #[test]
    fn noise_is_refused(noise: Vec<u8>, head: bool) {
        let mut bytes = if head { file_head().to_vec() } else { Vec::new() };
        bytes.extend(noise);
        if let Ok(recording) = opened(&bytes) {
            prop_assert_eq!(recording.events().count(), 0);
        }
        fuzz_decode(&bytes);
    }

    #[test]
    fn damage_that_has_a_good_checksum_is_refused_or_read(
        made in proptest::collection::vec(made(), 2), at: prop::sample::Index, byte: u8,
    ) {
        let mut decoder = super::decoder::Decoder::default();
        let mut encoder = super::encoder::Encoder::default();
        for (which, made) in made.iter().enumerate() {
            let snapshot = Arc::new(made.clone()) as Arc<dyn Recordable>;
            let beat = super::encoder::BeatContents {
                moment: made.moment, snapshot, runs: made.runs.clone(), after: Arc::clone(&made.after),
            };
            let mut raw = encoder.encode(&beat, |conn| naming(conn).map(Arc::new)).unwrap().bytes;
            let at = at.index(raw.len());
            raw[at] = byte;
            let Ok(beat) = decoder.decode(1, which == 0, &raw) else { break };
            // Reading any decoded view must not panic.
            for run in &beat.runs {
                let view = beat.view_of(run);
                for table in [Table::Peers, Table::Book] {
                    for column in view.columns(table) {
                        prop_assert_eq!(view.column(table, column).unwrap().len(), view.rows(table) as usize);
                    }
                    (0..view.rows(table)).for_each(|row| drop(view.name(table, row)));
                }
                _ = view.totals();
            }
        }
    }
}

/// Typical beats of a node: the same peers, each older by a tick.
fn quiet(ticks: u32, rows: u32) -> Vec<Made> {
    let beat = |tick: u32| Made {
        peers: peer::COLUMNS
            .iter()
            .map(|name| match *name {
                "conn" => (0..rows).collect(),
                "idle-s" | "age-s" => (0..rows).map(|row| row + 30 * tick).collect(),
                _ => (0..rows).collect(),
            })
            .collect(),
        book: vec![Vec::new(); address::COLUMNS.len()],
        addresses: Vec::new(),
        moment: BeatHeader {
            tick,
            mono_ms: u64::from(tick) * 30_002,
            unix_ms: 1_700_000_000_000 + u64::from(tick) * 30_000,
            interval_ms: 30_000,
            ..BeatHeader::default()
        },
        runs: Vec::new(),
        after: Arc::default(),
    };
    (1..=ticks).map(beat).collect()
}

#[test]
fn a_quiet_beat_takes_few_bytes() {
    let made = quiet(3, 1000);
    let (one, three) = (record(&made[..1], 120).len(), record(&made, 120).len());
    let difference = (three - one) / 2;
    assert!(difference < RECORD_HEAD + 80, "{difference} bytes");
}

#[test]
fn beats_that_the_disk_is_too_slow_for_are_left_out_and_marked() {
    let (open, gate) = channel();
    let mut sink = Memory::new(usize::MAX);
    sink.gate = Some(Arc::new(Mutex::new(gate)));
    let options = RecorderOptions { patience: Duration::ZERO, ..options(120) };
    let mut recorder = Recorder::into_sink(Box::new(sink.clone()), 0, options).unwrap();
    let made = quiet(12, 5);
    // The queue has four places, and the writer waits at the gate.
    made[..10].iter().for_each(|made| take(&mut recorder, made));
    let left_out = recorder.counts().left_out;
    assert!((5..=6).contains(&left_out), "{left_out}");
    (0..100).for_each(|_| open.send(()).unwrap());
    while recorder.counts().beats < 10 - left_out {
        std::thread::yield_now();
    }
    made[10..].iter().for_each(|made| take(&mut recorder, made));
    drop(recorder);

    let events = read(sink.bytes.lock().clone());
    let ticks: Vec<u32> = events
        .iter()
        .filter_map(|event| match event {
            Event::Beat(beat) => Some(beat.moment.tick),
            _ => None,
        })
        .collect();
    let written = 10 - left_out as u32;
    assert_eq!(ticks, (1..=written).chain([11, 12]).collect::<Vec<_>>());
    let gap = events.iter().find_map(|event| if let Event::Gap(gap) = event { Some(*gap) } else { None });
    assert_eq!(gap, Some(Gap { beats: left_out as u32, first_tick: written + 1, last_tick: 10 }));
    assert!(!events.iter().any(|event| matches!(event, Event::Damaged(_))));
}

#[test]
fn a_disk_that_hangs_costs_no_memory() {
    let (open, gate) = channel();
    let mut sink = Memory::new(usize::MAX);
    sink.gate = Some(Arc::new(Mutex::new(gate)));
    let options = RecorderOptions { patience: Duration::ZERO, ..options(120) };
    let mut recorder = Recorder::into_sink(Box::new(sink.clone()), 0, options).unwrap();
    // At each tick all peers leave, and others connect.
    for (at, mut made) in quiet(500, 20).into_iter().enumerate() {
        made.peers[PeerColumn::Conn as usize] = (0..20).map(|row| row + 20 * at as u32).collect();
        take(&mut recorder, &made);
    }
    let (names, untold) = recorder.held();
    assert!(names <= 200 && untold <= 200, "{names} names, {untold} of them untold");
    (0..9).for_each(|_| open.send(()).unwrap());
    drop(recorder);
    let events = read(sink.bytes.lock().clone());
    assert!(matches!(events.last(), Some(Event::Gap(Gap { beats: 496, last_tick: 500, .. }))), "{events:?}");
}

#[test]
fn a_full_file_is_rotated_and_the_next_begins_with_a_full_beat() {
    let made = quiet(200, 50);
    let sink = Memory::new(3_000);
    let mut recorder = Recorder::into_sink(Box::new(sink.clone()), 0, options(120)).unwrap();
    made.iter().for_each(|made| take(&mut recorder, made));
    drop(recorder);
    let mut files = sink.former.lock().clone();
    files.push(sink.bytes.lock().clone());
    assert!(files.len() > 2 && files.iter().all(|file| file.len() <= 3_000));
    let read: Vec<RecordedBeat> = files.into_iter().flat_map(beats).collect();
    assert_eq!(read.len(), made.len());
    read.iter().zip(&made).for_each(|(read, made)| assert_same(read, made));
}

#[test]
fn a_disk_that_is_full_ends_the_recording_and_nothing_else() {
    struct Full;
    impl RecordSink for Full {
        fn has_room(&self, _: usize) -> bool {
            true
        }
        fn append(&mut self, _: &[u8]) -> std::io::Result<()> {
            Err(std::io::ErrorKind::StorageFull.into())
        }
        fn turn_over(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut recorder = Recorder::into_sink(Box::new(Full), 0, options(120)).unwrap();
    let made = quiet(1, 5);
    take(&mut recorder, &made[0]);
    while !recorder.counts().stopped {
        std::thread::yield_now();
    }
    assert!(recorder.begin(Arc::new(made[0].clone()), made[0].moment).is_none());
}

#[test]
fn a_restarted_process_continues_after_the_last_complete_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hours.gkr");
    let made = quiet(3, 5);
    for round in 0..3 {
        let mut recorder = Recorder::start(&path, options(120)).unwrap();
        made.iter().for_each(|made| take(&mut recorder, made));
        drop(recorder);
        // As if the process had been killed while it wrote.
        let mut bytes = std::fs::read(&path).unwrap();
        let events = Recording::open(&path).unwrap().events().collect::<Vec<_>>();
        let beats = events.iter().filter(|event| matches!(event, Event::Beat(_))).count();
        assert_eq!(beats, 3 + round * 2);
        bytes.truncate(bytes.len() - 1);
        std::fs::write(&path, bytes).unwrap();
    }
    let recording = Recording::open(&path).unwrap();
    let sessions: std::collections::BTreeSet<u64> = recording
        .events()
        .map(|event| match event {
            Event::Beat(beat) => beat.session,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sessions.len(), 3);
    assert!(recording.beat(9).unwrap_err().to_string().contains("has no tick 9; it has ticks 1 to 2"));
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let mut bytes = record(&quiet(1, 1), 120);
    bytes[4..6].copy_from_slice(&7_u16.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..8]);
    bytes[8..12].copy_from_slice(&crc.to_le_bytes());
    let error = opened(&bytes).err().unwrap();
    assert!(matches!(error, ReadError::Newer { found: 7, known: 2, .. }), "{error}");
    assert!(error.to_string().contains("newer groundskeeper (format 7"));
}

#[test]
fn the_view_of_a_run_has_the_changes_before_it() {
    let mut made = quiet(1, 6).remove(0);
    made.peers[PeerColumn::Health as usize] = vec![100; 6];
    made.peers[PeerColumn::Protected as usize] = vec![0; 6];
    made.addresses = vec![socket(1), socket(2), socket(3)];
    made.book = vec![vec![7, 8, 9]; address::COLUMNS.len()];
    made.moment.healthy_above = 30;
    let changes = Changes {
        closed: [0, 4].into(),
        health: [(4, 1), (5, 20)].into(),
        protected: [1].into(),
        dialed: [1].into(),
    };
    made.after = Arc::new(changes);
    let beat = beats(record(&[made], 120)).remove(0);
    let view = beat.view_with(&beat.after, None);
    assert_eq!(view.column(Table::Peers, "conn"), Some(&[1, 2, 3, 5][..]));
    assert_eq!(view.column(Table::Peers, "health"), Some(&[100, 100, 100, 20][..]));
    assert_eq!(view.column(Table::Peers, "protected"), Some(&[1, 0, 0, 0][..]));
    assert_eq!(view.column(Table::Book, "heard-s"), Some(&[7, 9][..]));
    assert_eq!(view.name(Table::Book, 1).address, socket(3).to_string());
    let totals = view.totals();
    assert_eq!((totals.connected, totals.healthy, totals.dialing), (4, 3, 1));
}
