//! Formats records of the journal, and the answers of `explain` and `journal`.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use groundskeeper::admin::answers::{
    Explanation, JournalPage, JournalPast, Peer, PhaseExplanation, RunSummary,
};
use groundskeeper::journal::{Initiator, Outcome, Record};
use groundskeeper::registry::PhaseStatus;

use super::{age, micros, or_dash, phase_table, printable, table};

pub(in crate::show) fn moment(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

pub(crate) fn explanation(explanation: &Explanation) -> String {
    let Explanation { peer, connected, records, at_its_addresses, known_at, phase, note, past } = explanation;
    let mut text = note.iter().map(|note| format!("{}\n", printable(note))).collect::<String>();
    if let Some(phase) = phase {
        text += &phase_text(phase, records);
    } else {
        text += &peer.map(|peer| format!("peer {peer}\n")).unwrap_or_default();
        text += &connection(connected.as_ref());
        if !known_at.is_empty() {
            let addresses: Vec<String> = known_at.iter().map(ToString::to_string).collect();
            text += &format!("in the address book at {}\n", addresses.join(", "));
        }
    }
    text.extend(records.iter().map(record));
    if !at_its_addresses.is_empty() {
        text += "at the same address, by or to a peer that showed no key:\n";
        text.extend(at_its_addresses.iter().map(record));
    }
    text + &how_far_back(past)
}

fn connection(connected: Option<&Peer>) -> String {
    let Some(peer) = connected else { return "not connected\n".to_owned() };
    format!(
        "connected at {} for {}, idle for {}, health {}\n",
        peer.address,
        age(peer.age_s.into()),
        age(peer.idle_s.into()),
        peer.health
    )
}

fn phase_text(PhaseExplanation { name, status, runs }: &PhaseExplanation, records: &[Record]) -> String {
    let name = printable(name);
    let mut text = match status {
        Some(status) => about(status),
        None => format!("phase {name} is not in this node now; records of it are left\n"),
    };
    if !runs.is_empty() {
        text += &format!("its last {} runs:\n", runs.len());
        text.extend(runs.iter().map(run));
    }
    text + &asks(records)
}

fn about(status: &PhaseStatus) -> String {
    let mut text = format!("phase {} {}", printable(&status.name), printable(&status.version));
    if let Some(digest) = &status.digest {
        text += &format!(", generation {}", printable(digest));
    }
    text += &format!(": {}\n", printable(&status.summary));
    text += &phase_table(std::slice::from_ref(status));
    for metric in &status.metrics {
        let value = metric.value.map(|value| format!(" is {value}")).unwrap_or_default();
        let added = metric.added.map(|added| format!(" has grown by {added}")).unwrap_or_default();
        let shadow = if metric.shadow { " in shadow mode" } else { "" };
        text += &format!("its number {}{value}{added}{shadow}\n", printable(&metric.name));
    }
    text
}

fn run(run: &RunSummary) -> String {
    let RunSummary { tick, urgent, unix_ms, result, took_us, fuel, tally, why } = run;
    let beat = if *urgent == 0 { tick.to_string() } else { format!("{tick}+{urgent}") };
    let did: Vec<String> = tally.iter().map(|(what, n)| format!("{n} {}", what.replace('_', " "))).collect();
    let did = if did.is_empty() { "asked for nothing".to_owned() } else { did.join(", ") };
    let fuel = fuel.map(|fuel| format!(", fuel {fuel}")).unwrap_or_default();
    let why = why.iter().map(|why| format!(": {}", printable(why))).collect::<String>();
    let (when, result) = (moment(*unix_ms), printable(result));
    format!("{when}  tick {beat}  {result} in {}{fuel}: {did}{why}\n", micros(*took_us))
}

/// What the phase asked for, summed over its records, with the last reason of each kind.
fn asks(records: &[Record]) -> String {
    let mut sums: BTreeMap<(&str, &str), (u64, String)> = BTreeMap::new();
    for record in records.iter().filter(|record| matches!(record.by, Initiator::Phase { .. })) {
        let (outcome, why) = match &record.outcome {
            Outcome::Applied => ("applied", ""),
            Outcome::Started => ("started", ""),
            Outcome::Shadow => ("shadow", ""),
            Outcome::Void(why) => ("void", why.as_str()),
            Outcome::Refused(why) => ("refused", why.as_str()),
            Outcome::Failed(why) => ("failed", why.as_str()),
        };
        let (count, last) = sums.entry((record.what.as_str(), outcome)).or_default();
        *count += u64::from(record.count);
        *last = printable(if why.is_empty() { &record.reason } else { why });
    }
    let rows = sums.into_iter().map(|((what, outcome), (count, last))| {
        vec![
            what.to_owned(),
            outcome.to_owned(),
            count.to_string(),
            or_dash((!last.is_empty()).then_some(last)),
        ]
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { String::new() } else { table(&["ACTION", "OUTCOME", "COUNT", "LAST REASON"], rows) }
}

pub(crate) fn journal(page: &JournalPage) -> String {
    let mut text: String = page.records.iter().map(record).collect();
    if text.is_empty() {
        text += "no such record\n";
    }
    text + &page.past.as_ref().map(how_far_back).unwrap_or_default()
}

/// What is missing from an answer.
fn how_far_back(past: &JournalPast) -> String {
    let JournalPast { file, start_unix_ms, from_unix_ms, unreadable, lost, trouble } = past;
    let Some(file) = file else {
        // An older node says nothing about it.
        if *start_unix_ms == 0 {
            return String::new();
        }
        let start = moment(*start_unix_ms);
        return format!("no journal file is configured; records before the start at {start} are not known\n");
    };
    let file = printable(file);
    let mut text = String::new();
    if let Some(trouble) = trouble {
        let from = from_unix_ms.map(|from| format!(" before {}", moment(from))).unwrap_or_default();
        text += &format!("records{from} may not be listed: {} ({file})\n", printable(trouble));
    }
    if *lost > 0 {
        text += &format!("{lost} records did not reach {file}\n");
    }
    if *unreadable > 0 {
        text += &format!("{unreadable} lines of {file} are damaged and left out\n");
    }
    text
}

/// The initiator, with the name of an operator.
fn initiator(by: &Initiator) -> String {
    match by {
        Initiator::Operator { uid: Some(uid) } => match user_name(*uid) {
            Some(name) => format!("operator {} (uid {uid})", printable(&name)),
            None => by.to_string(),
        },
        _ => printable(&by.to_string()),
    }
}

/// The name of a user of this machine, if it is in the usual file.
fn user_name(uid: u32) -> Option<String> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// One line: time, tick, initiator, action, target and reason.
pub(super) fn record(record: &Record) -> String {
    let when = moment(record.unix_ms);
    let beat =
        if record.beat == 0 { record.tick.to_string() } else { format!("{}+{}", record.tick, record.beat) };
    let mut line = format!("{when}  tick {beat}  {}  {}", initiator(&record.by), record.what.as_str());
    if let Some(address) = record.address {
        line += &format!(" {address}");
    }
    if let Some(peer) = record.peer {
        line += &format!("  peer {}", peer.short());
    }
    if let Some(cause) = record.cause {
        line += &format!("  cause {}", cause.as_str());
    }
    if !record.reason.is_empty() {
        line += &format!("  \"{}\"", printable(&record.reason));
    }
    let inputs: Vec<String> = record
        .inputs
        .iter()
        .map(|(name, value)| if *value == u32::MAX { format!("{name}=?") } else { format!("{name}={value}") })
        .collect();
    if !inputs.is_empty() {
        line += &format!("  ({})", inputs.join(", "));
    }
    if record.count > 1 {
        line += &format!("  {} times", record.count);
    }
    if record.outcome != Outcome::Applied {
        line += &format!("  {}", printable(&record.outcome.to_string()));
    }
    line + "\n"
}

#[cfg(test)]
mod tests {
    use groundskeeper::journal::{ActionKind, Cause};
    use groundskeeper::peer::PeerId;

    use super::*;

    #[test]
    fn a_record_is_one_line_with_everything_in_it() {
        let by = Initiator::Phase { name: "reaper".into(), version: "0.1.0".into() };
        let mut one = Record {
            seq: 1,
            start: 0,
            unix_ms: 1_700_000_000_123,
            tick: 7,
            beat: 0,
            by,
            what: ActionKind::Disconnect,
            phase: None,
            peer: Some(PeerId::from_bytes([1; 32])),
            conn: Some(1),
            address: Some("192.0.2.4:7420".parse().unwrap()),
            cause: Some(Cause::Phase),
            reason: "silent for 92 s\n\x1b[2J".into(),
            inputs: vec![("idle-s".into(), 92), ("rtt-us".into(), u32::MAX)],
            outcome: Outcome::Applied,
            count: 1,
        };
        let shown = "2023-11-14T22:13:20.123Z  tick 7  reaper 0.1.0  disconnect 192.0.2.4:7420  peer aeaqcaibae  cause phase  \
                     \"silent for 92 s\\n\\u{1b}[2J\"  (idle-s=92, rtt-us=?)\n";
        assert_eq!(record(&one), shown);
        one.beat = 2;
        one.outcome = Outcome::Failed("no\nanswer".into());
        assert!(record(&one).contains("tick 7+2") && record(&one).ends_with("failed: no\\nanswer\n"));
    }

    #[test]
    fn operators_are_named_if_the_machine_knows_them() {
        assert_eq!(initiator(&Initiator::OPERATOR), "operator");
        assert_eq!(initiator(&Initiator::Operator { uid: Some(0) }), "operator root (uid 0)");
        let unknown = Initiator::Operator { uid: Some(4_000_000_001) };
        assert_eq!(initiator(&unknown), "operator uid 4000000001");
    }

    #[test]
    fn what_is_missing_is_said() {
        let none = JournalPast { start_unix_ms: 1_700_000_000_000, ..JournalPast::default() };
        let words = "no journal file is configured; records before the start at 2023-11-14T22:13:20.000Z are not known\n";
        assert_eq!(how_far_back(&none), words);
        let torn =
            JournalPast { file: Some("j".into()), unreadable: 2, trouble: Some("slow".into()), ..none };
        assert_eq!(
            how_far_back(&torn),
            "records may not be listed: slow (j)\n2 lines of j are damaged and left out\n"
        );
        assert_eq!(how_far_back(&JournalPast::default()), "");
    }
}
