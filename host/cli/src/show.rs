//! Formats answers for a terminal. Control characters in text from peers are escaped.

use std::sync::Arc;
use std::time::UNIX_EPOCH;

use groundskeeper::admin::answers::{Health, NodeStatus, Peer, Peers, PhaseList, ResumeAnswer};
use groundskeeper::engine::policy::Mode;
use groundskeeper::flow::{BreakerState, KeyConflict, KindSnapshot, LatencySnapshot, TrafficSnapshot};
use groundskeeper::journal::Record;
use groundskeeper::pool::Direction;
use groundskeeper::pool::PoolStats;
use groundskeeper::registry::{PhaseState, PhaseStatus};
use groundskeeper::reload::ReloadReport;
use groundskeeper_sdk::span::Span;
use serde_json::Value;

mod records;

use records::record;
pub(super) use records::{explanation, journal};

pub(super) fn status(status: &NodeStatus) -> String {
    let listening: Vec<String> = status.listening.iter().map(ToString::to_string).collect();
    let (pool, up, interval) = (&status.pool, age(status.uptime_s), Span::millis(status.interval_ms));
    let PoolStats { total, healthy, stale, avg_health, oldest_s, inbound, outbound, handshaking, closing } =
        pool.stats;
    let facts = [
        ("node", status.node.to_string()),
        ("version", format!("{}, network {}, up {up}", status.version, status.network)),
        ("listening", if listening.is_empty() { "nowhere".into() } else { listening.join(", ") }),
        ("tick", format!("{}, one each {interval}", status.tick)),
        (
            "peers",
            format!(
                "{total} of at most {}: {inbound} in, {outbound} out; {healthy} healthy, {stale} stale, mean health \
                 {avg_health}, oldest {}",
                pool.capacity,
                age(oldest_s.into())
            ),
        ),
        ("under way", format!("{handshaking} handshakes, {} dials, {closing} closing", status.book.dialing)),
        ("book", format!("{} addresses, {} bans", status.book.addresses, pool.bans)),
        ("ended", format!("{} connections since the start", status.journal.disconnects)),
    ];
    let mut facts = facts.map(|(name, fact)| vec![name.to_owned(), fact]).to_vec();
    facts.extend(status.traffic.iter().map(|traffic| vec!["traffic".to_owned(), traffic_words(traffic)]));
    let conflict = status.traffic.iter().filter_map(|traffic| traffic.key_conflict.as_ref());
    facts.extend(conflict.map(|conflict| vec!["KEY".to_owned(), key_words(conflict)]));
    facts.extend(status.disk.iter().map(|trouble| vec!["DISK".to_owned(), trouble.to_string()]));
    facts.push(vec!["waiting".to_owned(), waiting_words(status)]);
    let mut text = table(&[], facts);
    if !status.requests.is_empty() {
        text += &format!("\n{}", request_table(&status.requests));
    }
    text + "\n" + &phase_table(&status.phases)
}

fn key_words(KeyConflict { signs, last_s, last }: &KeyConflict) -> String {
    let ago = age(*last_s);
    format!(
        "another process runs with this node's key: {signs} signs, the last {ago} ago: {}",
        printable(last)
    )
}

/// How long frames, requests and users of locks have waited.
fn waiting_words(status: &NodeStatus) -> String {
    let mut words = Vec::new();
    if let Some(traffic) = &status.traffic {
        let frames = traffic.frame_waits.iter().map(|waits| waits.p99_us).max().unwrap_or(0);
        words.push(format!(
            "p99 of frames {}, of requests for a slot {}",
            micros(frames),
            micros(traffic.slot_waits.p99_us)
        ));
    }
    let locks = status.locks.iter().map(|(lock, waits)| {
        format!("{lock} lock {} times, longest {}", waits.contended, micros(waits.longest_us))
    });
    words.extend(locks);
    words.join("; ")
}

fn traffic_words(traffic: &TrafficSnapshot) -> String {
    let dropped: u64 = [traffic.full, traffic.refused, traffic.shed].iter().flatten().sum();
    format!(
        "{} of {} KiB queued, {} of {} KiB being received, {} frames sent, {} dropped or refused, {} too late; \
         {} requests open",
        traffic.queued_bytes.div_ceil(1024),
        traffic.budget_bytes / 1024,
        traffic.receiving_bytes.div_ceil(1024),
        traffic.receiving_budget_bytes / 1024,
        traffic.sent.iter().sum::<u64>(),
        dropped,
        traffic.expired,
        traffic.pending
    )
}

/// Statistics of the requests of each kind.
fn request_table(requests: &[KindSnapshot]) -> String {
    let head =
        ["REQUEST", "ANSWERED", "FAILED", "BUSY", "TIMED OUT", "OTHER", "P50", "P99", "P999", "TIME-OUT"];
    let row = |of: &KindSnapshot| {
        let [answered, failed, busy, timed_out, other @ ..] = of.ends;
        let LatencySnapshot { p50_us, p99_us, p999_us, .. } = of.latency;
        let counts = [answered, failed, busy, timed_out, other.iter().sum()].map(|count| count.to_string());
        let mut row = vec![printable(&of.kind)];
        row.extend(counts);
        row.extend([p50_us, p99_us, p999_us, of.timeout_us].map(micros));
        row
    };
    table(&head, requests.iter().map(row))
}

pub(super) fn resumed(resumed: &ResumeAnswer) -> String {
    let phase = printable(&resumed.phase);
    match resumed.was.as_str() {
        "active" => format!("{phase} was active already\n"),
        was => format!("{phase} runs again; it was {was}\n"),
    }
}

pub(super) fn paused(paused: &ResumeAnswer) -> String {
    let phase = printable(&paused.phase);
    format!(
        "{phase} is paused; it was {}. `groundskeeper resume {phase}` lets it run again\n",
        paused.was.as_str()
    )
}

/// The result of `run-now`, which is a separate beat for one phase.
pub(super) fn ran(report: &Value) -> String {
    let runs = report["runs"].as_array().map(Vec::as_slice).unwrap_or_default();
    if runs.is_empty() {
        return "nothing ran\n".to_owned();
    }
    runs.iter().map(run).collect()
}

fn run(run: &Value) -> String {
    let text = |value: &Value| printable(value.as_str().unwrap_or("-"));
    let nanos = |took: &Value| {
        took["secs"].as_u64().unwrap_or(0) * 1_000_000_000 + took["nanos"].as_u64().unwrap_or(0)
    };
    let did: Vec<String> = run["tally"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, n)| n.as_u64().is_some_and(|n| n > 0))
        .map(|(what, n)| format!("{n} {}", what.replace('_', " ")))
        .collect();
    let did = if did.is_empty() { "asked for nothing".to_owned() } else { did.join(", ") };
    let fuel = run["fuel"].as_u64().map(|fuel| format!(", fuel {fuel}")).unwrap_or_default();
    let words = run["words"].as_str().map(|words| format!(": {}", printable(words))).unwrap_or_default();
    format!(
        "{} {} in {}{fuel}: {did}{words}\n",
        text(&run["name"]),
        text(&run["result"]),
        micros(nanos(&run["took"]) / 1000)
    )
}

/// One line of `tap`.
pub(super) fn event(line: &str) -> String {
    let Ok(event) = serde_json::from_str::<Value>(line) else { return format!("{}\n", printable(line)) };
    match event["event"].as_str() {
        Some("run") => format!("run     tick {}: {}", event["tick"], run(&event)),
        Some("action") => match serde_json::from_value::<Record>(event) {
            Ok(told) => format!("action  {}\n", record(&told)),
            Err(_) => format!("{}\n", printable(line)),
        },
        Some("reload") => {
            let text = |key: &str| printable(event[key].as_str().unwrap_or("-"));
            let why = event["why"].as_str().map(|why| format!(": {}", printable(why))).unwrap_or_default();
            format!("reload  {} {} {}{why}\n", text("phase"), text("digest"), text("change"))
        }
        Some("lost") => format!("lost    {} events came faster than they were read\n", event["events"]),
        _ => format!("{}\n", printable(line)),
    }
}

pub(super) fn reloaded(report: &ReloadReport) -> String {
    let mut text = String::new();
    for event in &report.events {
        let digest = event.digest.as_deref().map(|digest| format!(" {digest}")).unwrap_or_default();
        text += &format!("{}{digest}: {}\n", printable(&event.phase), event.change.as_str());
        for line in event.why.iter().flat_map(|why| why.lines()) {
            text += &format!("  {}\n", printable(line));
        }
    }
    if let Some(trouble) = &report.trouble {
        text += &format!("{}\n", printable(trouble));
    }
    if let Some(config) = &report.config {
        for (keys, what) in [(&config.changed, "changed"), (&config.restart, "at the next start")] {
            if !keys.is_empty() {
                text += &format!("config: {what}: {}\n", keys.join(", "));
            }
        }
        for problem in &config.problems {
            text += &format!("config, which stays as it is: {}\n", printable(problem));
        }
    }
    if text.is_empty() {
        text += "nothing has changed\n";
    }
    text + &format!("{} dropped-in phases run\n", report.running)
}

pub(super) fn phases(phases: &PhaseList) -> String {
    format!("tick {}\n{}", phases.tick, phase_table(&phases.phases))
}

fn phase_table(phases: &[PhaseStatus]) -> String {
    let head = [
        "PHASE", "KIND", "MODE", "STATE", "EVERY", "LAST", "NEXT", "RUNS", "FAILED", "MISSED", "REFUSED",
        "TOOK", "MEDIAN", "FUEL", "MEMORY",
    ];
    let mut text = table(&head, phases.iter().map(phase_row));
    for phase in phases {
        let file = phase.file.as_ref().map(|file| format!(" ({})", file.display())).unwrap_or_default();
        if let Some(error) = &phase.last_error {
            // A hint may contain a whole manifest to copy.
            let lines: Vec<String> = error.lines().map(printable).collect();
            text += &format!("{}{}: {}\n", printable(&phase.name), printable(&file), lines.join("\n  "));
        }
        if let Some(candidate) = &phase.candidate {
            let digest = candidate.digest.as_deref().map(|digest| format!(" {digest}")).unwrap_or_default();
            let since =
                candidate.since_unix_s.map(|at| format!(" {} ago", age_since(at))).unwrap_or_default();
            if candidate.state == PhaseState::Compiling {
                let time =
                    candidate.since_unix_s.map(|at| format!(" for {}", age_since(at))).unwrap_or_default();
                text += &format!("{}: another generation{digest} is being compiled{time}\n", phase.name);
                continue;
            }
            let lines: Vec<String> = candidate.why.lines().map(printable).collect();
            text += &format!(
                "{}: another generation{digest} is {}{since}: {}\n",
                phase.name,
                candidate.state.as_str(),
                lines.join("\n  ")
            );
        }
        if phase.state == PhaseState::Quarantined {
            text += &format!(
                "{0}: runs again when its bytes change, or after `groundskeeper resume {0}`\n",
                phase.name
            );
        }
    }
    text
}

fn phase_row(phase: &PhaseStatus) -> Vec<String> {
    let state = match (phase.state, phase.pause_left) {
        (PhaseState::Tripped, 1) => "tripped for 1 run".to_owned(),
        (PhaseState::Tripped, runs) => format!("tripped for {runs} runs"),
        (PhaseState::Probation, _) => match phase.probation_left {
            Some(1) => "probation, 1 run left".to_owned(),
            Some(runs) if runs > 0 => format!("probation, {runs} runs left"),
            _ => "probation".to_owned(),
        },
        (state, _) => state.as_str().to_owned(),
    };
    if phase.state == PhaseState::Compiling {
        let time = phase.since_unix_s.map(|at| format!(" for {}", age_since(at))).unwrap_or_default();
        return vec![
            printable(&phase.name),
            phase.kind.to_string(),
            "-".to_owned(),
            format!("{state}{time}"),
        ];
    }
    if matches!(phase.state, PhaseState::Rejected | PhaseState::Pending) {
        return vec![printable(&phase.name), phase.kind.to_string(), "-".to_owned(), state];
    }
    let mode = match phase.mode {
        Mode::Enforce => "enforce",
        Mode::Shadow => "shadow",
        Mode::Off => "off",
    };
    let memory = phase.memory_peak_bytes.map(|bytes| format!("{} KiB", bytes.div_ceil(1024)));
    vec![
        phase.name.to_string(),
        phase.kind.to_string(),
        mode.to_owned(),
        state,
        phase.every_n_ticks.to_string(),
        or_dash(phase.last_run_tick),
        or_dash(phase.next_due_tick),
        phase.runs.to_string(),
        phase.failures.to_string(),
        phase.missed.to_string(),
        phase.refused.values().sum::<u64>().to_string(),
        micros(phase.last_duration_us),
        or_dash(phase.median_duration_us.map(micros)),
        or_dash(phase.last_fuel),
        or_dash(memory),
    ]
}

pub(super) fn peers(peers: &Peers) -> String {
    let head = ["PEER", "ADDRESS", "WAY", "HEALTH", "IDLE", "AGE", "RTT", "IN", "OUT", "BREAKERS", "AGENT"];
    let shown = if peers.peers.is_empty() { &[] } else { &head[..] };
    let mut text = table(shown, peers.peers.iter().map(peer));
    text += &match (peers.total, peers.peers.len()) {
        (0, _) => "no peer is connected\n".to_owned(),
        (total, shown) if shown < total => format!("{shown} of {total} peers; more with --limit\n"),
        (1, _) => "1 peer\n".to_owned(),
        (total, _) => format!("{total} peers\n"),
    };
    text
}

fn peer(peer: &Peer) -> Vec<String> {
    let way = match peer.direction {
        Direction::Inbound => "in",
        Direction::Outbound => "out",
    };
    let of = |(kind, state): (&Arc<str>, &BreakerState)| format!("{} {}", printable(kind), state.as_str());
    let breakers: Vec<String> = peer.breakers.iter().map(of).collect();
    vec![
        peer.id.short(),
        peer.address.to_string(),
        way.to_owned(),
        peer.health.to_string(),
        age(peer.idle_s.into()),
        age(peer.age_s.into()),
        round_trip(peer),
        format!("{} KiB", peer.kib_in),
        format!("{} KiB", peer.kib_out),
        or_dash((!breakers.is_empty()).then(|| breakers.join(", "))),
        printable(&peer.agent),
    ]
}

/// With the age of the figure.
fn round_trip(peer: &Peer) -> String {
    let Some(rtt) = peer.rtt_us else { return "-".to_owned() };
    let measured = peer.rtt_age_s.map(|seconds| format!(" ({} ago)", age(seconds.into())));
    micros(rtt.into()) + &measured.unwrap_or_default()
}

pub(super) fn health(health: &Health) -> String {
    if health.ok {
        "ok\n".to_owned()
    } else {
        health.why.iter().map(|why| format!("{}\n", printable(why))).collect()
    }
}

/// Columns as wide as their widest cell, two blanks apart, below a line of heads if there are any.
pub(super) fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head = (!head.is_empty()).then(|| head.iter().map(|&cell| cell.to_owned()).collect());
    let rows: Vec<Vec<String>> = head.into_iter().chain(rows).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// An age in its two largest units: people compare ages and do not add them.
fn age_since(unix_s: u32) -> String {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default().as_secs();
    age(now.saturating_sub(unix_s.into()))
}

pub(super) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h{:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or("-".to_owned(), |value| value.to_string())
}

fn micros(us: u64) -> String {
    if us < 1000 { format!("{us} us") } else { format!("{}.{} ms", us / 1000, us % 1000 / 100) }
}

/// Text from elsewhere as a part of one line.
pub(super) fn printable(text: &str) -> String {
    groundskeeper::base::text::printable(text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_and_durations_are_short() {
        assert_eq!([5, 65, 3_700, 90_000].map(age), ["5s", "1m05s", "1h01m", "1d01h"]);
        assert_eq!([7, 1_250, 65_000].map(micros), ["7 us", "1.2 ms", "65.0 ms"]);
    }

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows = [vec!["long".to_owned(), String::new()]];
        assert_eq!(table(&["a", "b"], rows), "a     b\nlong\n");
    }
}
