//! One view as JSON, written by hand or taken from a recording, to try a phase on. Refuses unknown keys, and reports
//! all mistakes at once. Omitted values are as in [`groundskeeper_sdk::testing::world`].

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use groundskeeper_base::problem::Problem;
use groundskeeper_base::read::read_regular_text;
use groundskeeper_engine::PhaseView;
use groundskeeper_engine::beat::RecordedRun;
use groundskeeper_sdk::column::{AddressColumn, PeerColumn, UNKNOWN};
use groundskeeper_sdk::host::{BroadcastTotals, Frozen, Name, Saved, Table, Totals};
use groundskeeper_sdk::phase::Tick;
use serde_json::{Value, json};

use super::beat::RecordedBeat;
use super::snapshot::RecordedSnapshot;

mod reader;
use reader::JsonReader;

/// Maximum size of a file; 10,000 peers take 3 MB.
const LARGEST: u64 = 256 << 20;

/// One view, its tick, and the memory of the phase.
#[derive(Clone, Debug)]
pub struct Fixture {
    snapshot: Arc<RecordedSnapshot>,
    /// The tick that the phase gets.
    pub tick: Tick,
    /// What the phase stored in an earlier run. None if it stored nothing.
    pub memory: Option<Saved>,
}

impl Default for Fixture {
    /// No peers, no addresses, 5 to 64 connections wanted, tick 1.
    fn default() -> Self {
        let peers = PeerColumn::ALL.map(|_| Some(Arc::default()));
        let book = AddressColumn::ALL.map(|_| Some(Arc::default()));
        let mut snapshot = RecordedSnapshot::new((peers, Arc::default()), (book, Arc::default()));
        let tick = Tick {
            number: 1,
            since_last_s: Some(30),
            unix_s: 1_700_000_000,
            seed: [1, 2],
            ..Tick::default()
        };
        snapshot.totals = Totals { least: 5, most: 64, ..Totals::default() };
        snapshot.healthy_above = 30;
        Self { snapshot: Arc::new(snapshot), tick, memory: None }
    }
}

impl Fixture {
    /// Reads a file.
    ///
    /// # Errors
    /// All mistakes, each with its place in the file.
    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        let name = path.display().to_string();
        let cannot =
            |error: &dyn std::fmt::Display| vec![Problem::of(&name, format!("cannot be read: {error}"))];
        let text = read_regular_text(path, LARGEST).map_err(|error| cannot(&error))?;
        Self::parse(&text, &name)
    }

    /// Reads the text of a file; `name` is what problems call it.
    ///
    /// # Errors
    /// All mistakes, each with its place in the text.
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<Problem>> {
        let value: Value = serde_json::from_str(text).map_err(|error| {
            let place = |number: usize| u32::try_from(number).ok().filter(|number| *number > 0);
            let problem = Problem::of(name, format!("not JSON: {error}"));
            vec![Problem { line: place(error.line()), column: place(error.column()), ..problem }]
        })?;
        let mut reader = JsonReader { name, problems: Vec::new() };
        let fixture = reader.fixture(&value);
        if reader.problems.is_empty() { Ok(fixture) } else { Err(reader.problems) }
    }

    /// A copy of what `view` shows. A connection counts as healthy above `healthy_above`.
    pub fn of(view: &dyn Frozen, tick: Tick, healthy_above: u32) -> Self {
        // Leaves out columns that only a newer host knows.
        let column = |table: Table, name: &str| Some(Arc::new(view.column(table, name)?.to_vec()));
        let peers = PeerColumn::ALL.map(|known| column(Table::Peers, known.name()));
        let book = AddressColumn::ALL.map(|known| column(Table::Book, known.name()));
        let names = |table| (0..view.rows(table)).map(move |row| view.name(table, row));
        // The rows of the book always have a valid address; the default is never used.
        let addresses = names(Table::Book).map(|name| name.address.parse().unwrap_or(NOWHERE)).collect();
        let peer_names = names(Table::Peers).map(Arc::new).collect();
        let mut snapshot = RecordedSnapshot::new((peers, Arc::new(peer_names)), (book, Arc::new(addresses)));
        snapshot.totals = view.totals();
        snapshot.broadcasts = view.broadcasts();
        snapshot.healthy_above = healthy_above;
        Self { snapshot: Arc::new(snapshot), tick, memory: view.memory() }
    }

    /// The view at the start of a recorded beat with the time of its tick, for a phase that has never run before.
    pub fn of_beat(beat: &RecordedBeat) -> Self {
        // The seed of any run is fine, as long as the same recording gives the same view.
        let seed = beat.runs.first().map_or([1, 2], |run| run.tick.seed);
        Self::of(&*beat.view(None), beat.tick(seed), beat.moment.healthy_above)
    }

    /// The view, tick and memory that a recorded run had.
    pub fn of_run(beat: &RecordedBeat, run: &RecordedRun) -> Self {
        Self::of(&*beat.view_of(run), run.tick, beat.moment.healthy_above)
    }

    /// The view as a phase gets it.
    pub fn view(&self) -> Arc<dyn Frozen> {
        Arc::new(PhaseView::new(Arc::clone(&self.snapshot), Arc::default(), self.memory.clone()))
    }

    /// One row per line: easy to read, and a changed row is a changed line.
    pub fn to_json(&self) -> String {
        let Tick { number, since_last_s, missed, late, unix_s, seed } = self.tick;
        let Totals { dialing, least, most, .. } = self.snapshot.totals;
        let BroadcastTotals { held, oldest_s, in_window, window_s } = self.snapshot.broadcasts;
        let tick = json!({
            "number": number, "since-last-s": since_last_s, "missed": missed, "late": late, "unix-s": unix_s,
            "seed": seed,
        });
        let healthy_above = self.snapshot.healthy_above;
        let totals =
            json!({ "dialing": dialing, "least": least, "most": most, "healthy-above": healthy_above });
        let broadcasts =
            json!({ "held": held, "oldest-s": oldest_s, "in-window": in_window, "window-s": window_s });
        let mut text = String::from("{\n");
        let mut line = |key: &str, value: String| {
            writeln!(text, "  {key:?}: {value}").expect("a string takes any text");
        };
        line("tick", format!("{tick},"));
        line("totals", format!("{totals},"));
        line("broadcasts", format!("{broadcasts},"));
        if let Some(memory) = &self.memory {
            line("memory", format!("{},", memory_value(memory)));
        }
        let view = self.view();
        line("peers", format!("{},", rows_json(&*view, Table::Peers)));
        line("book", rows_json(&*view, Table::Book));
        text + "}\n"
    }
}

fn rows_json(view: &dyn Frozen, table: Table) -> String {
    let rows: Vec<String> = (0..view.rows(table)).map(|row| row_json(view, table, row)).collect();
    if rows.is_empty() { "[]".to_owned() } else { format!("[\n    {}\n  ]", rows.join(",\n    ")) }
}

fn row_json(view: &dyn Frozen, table: Table, row: u32) -> String {
    let Name { id, address, agent } = view.name(table, row);
    let mut cells = match table {
        Table::Peers => vec![("id", json!(id)), ("address", json!(address)), ("agent", json!(agent))],
        Table::Book => vec![("address", json!(address))],
    };
    for name in view.columns(table) {
        let value = view.column(table, name).and_then(|values| values.get(row as usize));
        cells.push((name, json!(value.filter(|value| **value != UNKNOWN))));
    }
    // Written by hand, because a map would sort the keys.
    let cells: Vec<String> = cells.iter().map(|(key, value)| format!("{key:?}: {value}")).collect();
    format!("{{ {} }}", cells.join(", "))
}

const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0);

/// JSON as JSON if it converts back to the same bytes, text as text, anything else in hexadecimal.
fn memory_value(memory: &Saved) -> Value {
    let Saved { version, bytes } = memory;
    let parsed: Option<Value> = serde_json::from_slice(bytes).ok();
    let same = |value: &Value| serde_json::to_vec(value).is_ok_and(|again| again == *bytes);
    match (parsed.filter(same), str::from_utf8(bytes)) {
        (Some(json), _) => json!({ "version": version, "json": json }),
        (None, Ok(text)) => json!({ "version": version, "text": text }),
        (None, Err(_)) => json!({ "version": version, "hex": HEXLOWER.encode(bytes) }),
    }
}

#[cfg(test)]
mod tests {
    use groundskeeper_sdk::column::{address, peer};
    use groundskeeper_sdk::span::Span;
    use groundskeeper_sdk::testing::world;

    use super::*;

    fn assert_same(one: &dyn Frozen, two: &dyn Frozen) {
        for table in [Table::Peers, Table::Book] {
            assert_eq!((one.rows(table), one.columns(table)), (two.rows(table), two.columns(table)));
            for column in one.columns(table) {
                assert_eq!(one.column(table, column), two.column(table, column), "{column}");
            }
            (0..one.rows(table)).for_each(|row| assert_eq!(one.name(table, row), two.name(table, row)));
        }
        assert_eq!((one.totals(), one.broadcasts()), (two.totals(), two.broadcasts()));
        assert_eq!(one.memory(), two.memory());
    }

    #[test]
    fn omitted_values_are_as_in_the_world_of_the_sdk() {
        let text = r#"{ "peers": [{}, { "rtt-us": 900000, "inbound": true }, { "health": 12, "idle-s": null }],
                        "book": [{}, { "failures": 3 }] }"#;
        let fixture = Fixture::parse(text, "view.json").unwrap();
        let world = world()
            .peer(|_| {})
            .peer(|p| _ = p.with(peer::RTT, Span::millis(900)).with(peer::INBOUND, true))
            .peer(|p| _ = p.with(peer::HEALTH, 12).unknown(peer::IDLE))
            .address(|_| {})
            .address(|a| _ = a.with(address::FAILURES, 3));
        assert_same(&*fixture.view(), &world);
        assert_eq!(fixture.tick, world.now());
        assert_same(
            &*Fixture::parse("{}", "view.json").unwrap().view(),
            &groundskeeper_sdk::testing::world(),
        );
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = r#"{
            "tick": { "number": 7, "since-last-s": null, "missed": 2, "late": true, "unix-s": 5, "seed": [3, 4] },
            "totals": { "dialing": 2, "least": 1, "most": 9, "healthy-above": 50 },
            "broadcasts": { "held": 4, "oldest-s": 3, "in-window": 2, "window-s": 1 },
            "memory": { "version": 3, "json": {"a":[1,2]} },
            "peers": [{ "id": "x\"y", "agent": "", "kib-in": 4294967294 }, { "protected": true }],
            "book": [{ "address": "[::1]:5", "reached-s": 9 }] }"#;
        let fixture = Fixture::parse(text, "view.json").unwrap();
        assert_eq!((fixture.tick.number, fixture.tick.since_last_s, fixture.tick.seed), (7, None, [3, 4]));
        assert_eq!(fixture.memory, Some(Saved { version: 3, bytes: b"{\"a\":[1,2]}".to_vec() }));
        assert_eq!((fixture.view().totals().dialing, fixture.view().totals().most), (2, 9));
        let again = Fixture::of(&*fixture.view(), fixture.tick, 50);
        let again = Fixture::parse(&again.to_json(), "again.json").unwrap();
        assert_same(&*again.view(), &*fixture.view());
        assert_eq!((again.tick, again.to_json()), (fixture.tick, fixture.to_json()));
        for bytes in [b"{ \"a\": 1 }".to_vec(), b"text \n".to_vec(), vec![0xff, 0], Vec::new()] {
            let memory = Some(Saved { version: 1, bytes });
            let fixture = Fixture { memory: memory.clone(), ..Fixture::default() };
            assert_eq!(Fixture::parse(&fixture.to_json(), "view.json").unwrap().memory, memory);
        }
    }

    #[test]
    fn every_mistake_is_named_with_its_place() {
        let text = r#"{ "peer": [], "peers": [{ "rtt_uss": 1 }, 5, { "conn": 1, "inbound": 2.5 }], "tick": { "late": 1 },
                        "book": [{ "address": "nowhere" }], "totals": { "connected": 4, "last": 1 },
                        "memory": { "json": 1, "hex": "00" }, "broadcasts": { "held": 4294967295 } }"#;
        let problems: Vec<String> =
            Fixture::parse(text, "view.json").unwrap_err().iter().map(ToString::to_string).collect();
        let expected = [
            "view.json: peer: unknown key; did you mean \"peers\"?",
            "view.json: peers[0].rtt_uss: unknown key; did you mean \"rtt-us\"?",
            "view.json: peers[1]: expected an object, found a number",
            "view.json: peers[2].inbound: expected a whole number of 0 to 4294967294, found 2.5",
            "view.json: peers[2].conn: 1 is already the number of peers[0]",
            "view.json: book[0].address: \"nowhere\" is not an address; write it like 192.0.2.1:7420",
            "view.json: totals.connected: is counted from the peers; leave it out",
            "view.json: totals.last: unknown key; did you mean \"least\"?",
            "view.json: broadcasts.held: expected a whole number of 0 to 4294967294, found 4294967295",
            "view.json: tick.late: expected true or false, found 1",
            "view.json: memory: expected one of json, text and hex; a phase in Rust reads what is under \"json\"",
        ];
        assert_eq!(problems, expected);
        let broken = Fixture::parse("{ \"peers\": [\n", "view.json").unwrap_err();
        assert!(broken[0].to_string().starts_with("view.json:2: not JSON"), "{}", broken[0]);
    }
}
