//! Raw to resolved: ranges, contradictions, defaults that hang on other keys. Reads no file.

use std::collections::BTreeSet;

use groundskeeper_phases::Reaper;
use groundskeeper_sdk::span::Span;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::bounds::{self, MOST_TICKS};
use super::document::Document;
use super::problem::{Problem, meant};
use super::raw::{self, EveryNTicks, Raw};
use super::{
    Admin, Book, Broadcasts, Cadence, Config, Journal, Log, Net, Node, Overrides, Phase, Phases, Pool,
    Schedule, Shutdown, Telemetry,
};

/// `sockaddr_un` holds 108 bytes with the closing zero; some are left for systems with less.
const LONGEST_SOCKET_PATH: usize = 100;

/// Connections to one network group unless private addresses are allowed: sixteen groups fill the default pool.
const PER_GROUP: u32 = 64;

pub(super) fn resolve(text: &str, name: &str, overrides: &Overrides) -> Result<Config, Vec<Problem>> {
    let mut check = Check { document: Document::parse(text, name), overrides };
    let raw = check.read();
    check.ranges(&raw);
    let config = check.resolve(raw);
    let mut problems = check.document.problems;
    if problems.is_empty() {
        Ok(config)
    } else {
        problems.sort_by_key(|problem| (problem.line.unwrap_or(u32::MAX), problem.column));
        Err(problems)
    }
}

struct Check<'a> {
    document: Document<'a>,
    overrides: &'a Overrides,
}

impl Check<'_> {
    fn read(&mut self) -> Raw {
        let from = &mut self.document;
        let sections = [
            "node",
            "pool",
            "net",
            "book",
            "broadcasts",
            "journal",
            "admin",
            "telemetry",
            "shutdown",
            "log",
            "phases",
        ];
        _ = from.section::<Raw>(&[], &sections);
        _ = from.section::<raw::Phases>(&["phases"], &PHASES);
        let mut raw = Raw {
            node: from.section(&["node"], &[]),
            pool: from.section(&["pool"], &[]),
            net: from.section(&["net"], &[]),
            book: from.section(&["book"], &[]),
            broadcasts: from.section(&["broadcasts"], &[]),
            journal: from.section(&["journal"], &[]),
            admin: from.section(&["admin"], &[]),
            telemetry: from.section(&["telemetry"], &[]),
            shutdown: from.section(&["shutdown"], &[]),
            log: from.section(&["log"], &[]),
            phases: raw::Phases {
                reaper: phase(from, PHASES[0]),
                reconnect: phase(from, PHASES[1]),
                broadcast_cleanup: phase(from, PHASES[2]),
                exchange_cleanup: phase(from, PHASES[3]),
            },
        };
        if let Some(interval) = self.overrides.interval {
            raw.node.interval = interval;
        }
        if let Some(allow) = self.overrides.allow_private {
            raw.net.allow_private = allow;
        }
        if self.overrides.data_dir.is_some() {
            raw.node.data_dir.clone_from(&self.overrides.data_dir);
        }
        raw
    }

    fn ranges(&mut self, raw: &Raw) {
        let values = serde_json::to_value(raw).expect("a config is plain data");
        for (key, value, bound) in bounds::outside(&values) {
            self.wrong(key, format!("{value} is out of range: {bound}"));
        }
    }

    /// Tells a mistake at `key`, or at the flag that set it.
    fn wrong(&mut self, key: &str, message: String) {
        if key == "node.interval" && self.overrides.interval.is_some() {
            self.document.problems.push(Problem::of("--interval", message));
        } else {
            self.document.report_at(key, message, None);
        }
    }

    /// Tells that keys contradict each other, at the first that was written. A key that is wrong by itself contradicts
    /// nothing.
    fn clash(&mut self, keys: &[&str], message: String) {
        let flag = |key: &str| key == "node.interval" && self.overrides.interval.is_some();
        let told = |key: &str| {
            let mut problems = self.document.problems.iter();
            problems.any(|one| one.key.as_deref() == Some(key) || (flag(key) && one.file == "--interval"))
        };
        if keys.iter().any(|key| told(key)) {
            return;
        }
        let written = |key: &&&str| self.document.place(key).is_some() || flag(key);
        let at = keys.iter().find(written).unwrap_or(&keys[0]);
        self.wrong(at, message);
    }

    fn resolve(&mut self, raw: Raw) -> Config {
        let pool = self.pool(&raw);
        let net = self.net(&raw);
        let raw::Book { capacity, per_source_group, backoff_first, backoff_most, min_life } = raw.book;
        if per_source_group > capacity {
            let message = format!("per_source_group = {per_source_group} is above capacity = {capacity}");
            self.clash(&["book.per_source_group", "book.capacity"], message);
        }
        if backoff_first > backoff_most {
            let message = format!("backoff_first = {backoff_first} is above backoff_most = {backoff_most}");
            self.clash(&["book.backoff_first", "book.backoff_most"], message);
        }
        self.node(&raw.node);
        self.socket(&raw.admin);
        if let Some(listen) =
            raw.telemetry.listen.filter(|listen| listen.port() != 0 && raw.net.listen.contains(listen))
        {
            let message = format!("{listen} is in net.listen too; choose another port");
            self.wrong("telemetry.listen", message);
        }
        let phases = self.phases(raw.phases);
        self.reaper_gives_a_chance(&phases.reaper, raw.node.interval);
        if phases.reconnect.enabled && phases.reconnect.settings.target < pool.least {
            let (target, least) = (phases.reconnect.settings.target, pool.least);
            let message = format!(
                "phases.reconnect.settings.target = {target} is below pool.least = {least}: the floor would never be reached"
            );
            self.clash(&["phases.reconnect.settings.target", "pool.least"], message);
        }
        Config {
            node: Node {
                network: raw.node.network,
                interval: raw.node.interval.into(),
                data_dir: raw.node.data_dir,
            },
            pool,
            net,
            book: Book {
                capacity: capacity as usize,
                per_source_group: per_source_group as usize,
                backoff_first: backoff_first.into(),
                backoff_most: backoff_most.into(),
                min_life: min_life.into(),
            },
            broadcasts: Broadcasts {
                held: raw.broadcasts.held as usize,
                per_window: raw.broadcasts.per_window,
                window: raw.broadcasts.window.into(),
            },
            journal: Journal {
                notable: raw.journal.notable as usize,
                chatter: raw.journal.chatter as usize,
                file: raw.journal.file,
                file_max: raw.journal.file_max.0,
            },
            admin: Admin { enabled: raw.admin.enabled, socket: raw.admin.socket },
            telemetry: Telemetry { listen: raw.telemetry.listen },
            shutdown: Shutdown { deadline: raw.shutdown.deadline.into() },
            log: Log { level: raw.log.level, format: raw.log.format },
            phases,
        }
    }

    fn node(&mut self, node: &raw::Node) {
        let name = &node.network;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > 32 || !name.chars().all(allowed) {
            self.wrong("node.network", format!("{name:?} is not 1 to 32 of a-z, 0-9 and \"-\""));
        }
        if node.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            self.wrong("node.data_dir", "is empty; leave the key out for the default folder".into());
        }
    }

    fn socket(&mut self, admin: &raw::Admin) {
        let length = admin.socket.as_ref().map_or(0, |path| path.as_os_str().len());
        if length > LONGEST_SOCKET_PATH {
            let message = format!(
                "the path has {length} bytes, the system takes {LONGEST_SOCKET_PATH}; choose a shorter one, like \
                 \"/run/groundskeeper/admin.sock\""
            );
            self.wrong("admin.socket", message);
        }
    }

    fn pool(&mut self, raw: &Raw) -> Pool {
        let raw::Pool { max_connections, max_handshakes, least, healthy_above, .. } = raw.pool;
        let above = |value: Option<u32>| value.filter(|value| *value > max_connections);
        for (key, value) in [
            ("max_inbound", above(raw.pool.max_inbound)),
            ("max_outbound", above(raw.pool.max_outbound)),
            ("max_per_group", above(raw.pool.max_per_group)),
            ("most", above(raw.pool.most)),
        ] {
            if let Some(value) = value {
                let message = format!("{key} = {value} is above max_connections = {max_connections}");
                self.clash(&[&format!("pool.{key}"), "pool.max_connections"], message);
            }
        }
        let most = raw.pool.most.unwrap_or(max_connections);
        if least > most {
            let message = format!("least = {least} is above most = {most}");
            self.clash(&["pool.least", "pool.most", "pool.max_connections"], message);
        }
        let per_group = if raw.net.allow_private { max_connections } else { PER_GROUP.min(max_connections) };
        Pool {
            max_connections,
            max_inbound: raw.pool.max_inbound.unwrap_or(max_connections - max_connections / 8),
            max_outbound: raw.pool.max_outbound.unwrap_or(max_connections),
            max_per_group: raw.pool.max_per_group.unwrap_or(per_group),
            max_handshakes,
            least,
            most,
            healthy_above: u8::try_from(healthy_above).unwrap_or(u8::MAX),
        }
    }

    fn net(&mut self, raw: &Raw) -> Net {
        let net = &raw.net;
        if net.queue_bytes < net.max_frame {
            let message = format!(
                "queue_bytes = {} is below max_frame = {}: the largest frame would never fit",
                net.queue_bytes, net.max_frame
            );
            self.clash(&["net.queue_bytes", "net.max_frame"], message);
        }
        let mut seen = BTreeSet::new();
        for address in net.listen.iter().filter(|address| address.port() != 0) {
            if !seen.insert(address) {
                self.wrong("net.listen", format!("{address} is in the list twice"));
            }
        }
        for address in &net.advertise {
            if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
                self.wrong("net.advertise", format!("{address} is not an address that others could dial"));
            }
        }
        Net {
            listen: net.listen.clone(),
            advertise: net.advertise.clone(),
            bootstrap: net.bootstrap.clone(),
            allow_private: net.allow_private,
            handshake_timeout: net.handshake_timeout.into(),
            request_timeout: net.request_timeout.into(),
            bytes_per_second_per_peer: net.bytes_per_second_per_peer.0,
            queue_bytes: net.queue_bytes.0,
            max_frame: net.max_frame.0,
        }
    }

    /// A peer that was quiet at one run is pinged then, and must have had its chance to answer before the next.
    fn reaper_gives_a_chance(&mut self, reaper: &Phase<Reaper>, interval: Span) {
        let longest = reaper.schedule.cadence.all().into_iter().max().unwrap_or(1);
        let between = interval.as_millis().saturating_mul(longest.into());
        let stale_after = reaper.settings.stale_after;
        if reaper.enabled && stale_after.as_millis() <= between {
            let between = Span::millis(between);
            let message = format!(
                "stale_after = {stale_after} is not above the {between} between two runs of the reaper: living peers \
                 would be dropped unasked; raise it above {between}, or lower node.interval"
            );
            let keys = [
                "phases.reaper.settings.stale_after",
                "phases.reaper.schedule.every_n_ticks",
                "node.interval",
            ];
            self.clash(&keys, message);
        }
    }

    fn phases(&mut self, raw: raw::Phases) -> Phases {
        let usual = raw::Phases::default();
        let phases = Phases {
            reaper: self.phase(PHASES[0], raw.reaper, usual.reaper.schedule),
            reconnect: self.phase(PHASES[1], raw.reconnect, usual.reconnect.schedule),
            broadcast_cleanup: self.phase(PHASES[2], raw.broadcast_cleanup, usual.broadcast_cleanup.schedule),
            exchange_cleanup: self.phase(PHASES[3], raw.exchange_cleanup, usual.exchange_cleanup.schedule),
        };
        let after = [
            &phases.reaper.schedule.after,
            &phases.reconnect.schedule.after,
            &phases.broadcast_cleanup.schedule.after,
            &phases.exchange_cleanup.schedule.after,
        ];
        // With as many rounds as phases, whatever can be reached from a phase is reached.
        let mut before: Vec<BTreeSet<&str>> =
            after.iter().map(|names| names.iter().map(String::as_str).collect()).collect();
        for _ in 0..PHASES.len() {
            for at in 0..PHASES.len() {
                let further: Vec<&str> = (0..PHASES.len())
                    .filter(|other| before[at].contains(PHASES[*other]))
                    .flat_map(|other| before[other].iter().copied())
                    .collect();
                before[at].extend(further);
            }
        }
        for (at, name) in PHASES.into_iter().enumerate() {
            if before[at].contains(name) {
                let message = format!("{name} would have to run before itself");
                self.document.report_at(&format!("phases.{name}.schedule.after"), message, None);
            }
        }
        phases
    }

    fn phase<S: Settings>(
        &mut self,
        name: &'static str,
        raw: raw::Phase<S>,
        usual: raw::Schedule,
    ) -> Phase<S> {
        let schedule = self.schedule(name, raw.schedule.or(usual));
        Phase { enabled: raw.enabled, schedule, settings: self.settings(name, raw.settings) }
    }

    fn schedule(&mut self, name: &str, raw: raw::Schedule) -> Schedule {
        let key = format!("phases.{name}.schedule.every_n_ticks");
        let cadence = match raw.every_n_ticks.expect("every built-in phase has a usual cadence") {
            EveryNTicks::Number(n) => Cadence::Every(n),
            EveryNTicks::Steps(steps) => Cadence::Adaptive(steps),
        };
        for n in cadence.all() {
            if n == 0 || u64::from(n) > MOST_TICKS {
                self.document.report_at(&key, format!("{n} is out of range: 1 to {MOST_TICKS}"), None);
            }
        }
        if let Cadence::Adaptive(steps) = &cadence {
            let bounds: Vec<Option<u32>> = steps.iter().map(|step| step.below_connections).collect();
            let rising = bounds.is_sorted_by(|a, b| match (a, b) {
                (Some(a), Some(b)) => a < b,
                (Some(_), None) => true,
                (None, _) => false,
            });
            if !rising {
                let message =
                    "below_connections must rise from step to step, and only the last may leave it out";
                self.document.report_at(&key, message.into(), None);
            } else if !matches!(bounds.last(), Some(None)) {
                let message =
                    "the last step must leave below_connections out: it holds for every number above";
                self.document.report_at(&key, message.into(), Some("add { every_n_ticks = 4 }".into()));
            }
        }
        let offset = raw.offset.unwrap_or(0);
        let shortest = cadence.all().into_iter().min().unwrap_or(1);
        if offset > 0 && offset >= shortest && u64::from(offset) <= MOST_TICKS {
            let key = format!("phases.{name}.schedule.offset");
            self.document.report_at(&key, format!("{offset} is not below every_n_ticks = {shortest}"), None);
        }
        let after = raw.after.unwrap_or_default();
        for other in after.iter().filter(|other| !PHASES.contains(&other.as_str())) {
            let hint = match meant(other, PHASES) {
                Some(one) => format!("did you mean \"{one}\"?"),
                None => format!("known are {}", PHASES.join(", ")),
            };
            let key = format!("phases.{name}.schedule.after");
            self.document.report_at(&key, format!("no phase is called {other:?}"), Some(hint));
        }
        Schedule { cadence, offset, wake_on: raw.wake_on.unwrap_or_default(), after }
    }

    /// A phase's own check tells one mistake at a time: each is put back to its default until the rest passes.
    fn settings<S: Settings>(&mut self, name: &str, written: S) -> S {
        let table = format!("phases.{name}.settings");
        let usual = serde_json::to_value(S::default()).expect("settings are plain data");
        let mut tried = serde_json::to_value(&written).expect("settings are plain data");
        while let Err(message) = checked::<S>(&tried) {
            let culprit = keys(&usual).find_map(|key| {
                let mut repaired = tried.clone();
                repaired[&key] = usual[&key].clone();
                let cured = repaired != tried && checked::<S>(&repaired).err().as_ref() != Some(&message);
                cured.then_some((key, repaired))
            });
            match culprit {
                Some((key, repaired)) => {
                    self.document.report_at(&format!("{table}.{key}"), message, None);
                    tried = repaired;
                }
                None => {
                    self.document.report_at(&table, message, None);
                    break;
                }
            }
        }
        written
    }
}

/// Names of the built-in phases, in the order in which they run.
const PHASES: [&str; 4] = ["reaper", "reconnect", "broadcast-cleanup", "exchange-cleanup"];

trait Settings: groundskeeper_sdk::phase::Phase + Default + Serialize + DeserializeOwned {}
impl<S: groundskeeper_sdk::phase::Phase + Default + Serialize + DeserializeOwned> Settings for S {}

fn phase<S: Settings>(from: &mut Document<'_>, name: &str) -> raw::Phase<S> {
    let outer: raw::Phase<S> = from.section(&["phases", name], &["schedule", "settings"]);
    raw::Phase {
        enabled: outer.enabled,
        schedule: from.section(&["phases", name, "schedule"], &[]),
        settings: from.section(&["phases", name, "settings"], &[]),
    }
}

fn checked<S: Settings>(settings: &Value) -> Result<(), String> {
    serde_json::from_value::<S>(settings.clone()).map_err(|error| error.to_string())?.check()
}

fn keys(of: &Value) -> impl Iterator<Item = String> + '_ {
    of.as_object().into_iter().flatten().map(|(key, _)| key.clone())
}
