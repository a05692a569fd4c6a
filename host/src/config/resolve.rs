//! Raw to resolved: ranges, contradictions, defaults that hang on other keys. Reads no file but the drop-in folder's
//! manifests, of which those of built-in phases take the place of their sections.

use std::collections::BTreeSet;

use std::path::{Path, PathBuf};

use groundskeeper_phases::Reaper;
use groundskeeper_sdk::span::Span;

use super::bounds::{self, BOUNDS};
use super::builtin::{self, BUILTINS as PHASES, BuiltIn, Settings};
use super::document::Document;
use super::manifest::{Declared, Manifest, read_manifests};
use super::performance;
use super::policy::Mode;
use super::problem::Problem;
use super::raw::{self, Raw};
use super::{
    Admin, Book, Broadcasts, Config, Guests, Journal, Log, Net, Node, Overrides, Phase, Phases, Pool,
    Schedule, Shutdown, Telemetry, schedule,
};

/// `sockaddr_un` holds 108 bytes with the closing zero; some are left for systems with less.
const LONGEST_SOCKET_PATH: usize = 100;

/// The drop-in folder of a node that is told no other.
const PHASES_DIR: &str = "phases.d";

/// Connections to one network group unless private addresses are allowed: sixteen groups fill the default pool.
const PER_GROUP: u32 = 64;

/// `folder` is the config file's own: what `guests.dir` is relative to.
pub(super) fn resolve(
    text: &str,
    name: &str,
    folder: Option<&Path>,
    overrides: &Overrides,
) -> Result<Config, Vec<Problem>> {
    let mut document = Document::parse(text, name);
    let raw = read(&mut document, overrides);
    let dir = phases_dir(&raw, folder, overrides);
    let named = overrides.phases.is_some() || raw.guests.dir.is_some();
    let read_from = dir.as_deref().filter(|_| !overrides.without_manifests);
    if let Some(dir) = read_from.filter(|dir| named && !dir.is_dir()) {
        let message = format!("there is no folder {}", dir.display());
        match overrides.phases {
            Some(_) => document.problems.push(Problem::of("--phases", message)),
            None => document.report_at("guests.dir", message, None),
        }
    }
    let found = read_from.map(read_manifests).unwrap_or_default();
    let names: Vec<String> = found.iter().map(|file| file.path.display().to_string()).collect();
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for (file, name) in found.iter().zip(&names).filter(|(file, _)| file.is_built_in) {
        match &file.manifest {
            Ok(manifest) => {
                let document = Document::parse(&file.text, name);
                files.push(BuiltInFile { manifest, document, name });
            }
            Err(problems) => refused.extend(problems.iter().cloned()),
        }
    }
    let mut check = Check { document, files, overrides };
    check.ranges(&raw);
    check.both_given();
    let config = check.resolve(raw, dir);
    let mut problems = check.document.into_problems();
    problems.extend(check.files.into_iter().flat_map(|file| file.document.into_problems()));
    problems.extend(refused);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Where the manifests are, as the flag, the file and the data folder say, in this order.
fn phases_dir(raw: &Raw, folder: Option<&Path>, overrides: &Overrides) -> Option<PathBuf> {
    if overrides.phases.is_some() {
        return overrides.phases.clone();
    }
    if let Some(dir) = &raw.guests.dir {
        return Some(folder?.join(dir));
    }
    let data = raw.node.data_dir.as_ref().or(overrides.usual_data_dir.as_ref())?;
    Some(data.join(PHASES_DIR))
}

/// A built-in phase that is configured by a file of its own.
struct BuiltInFile<'a> {
    manifest: &'a Manifest,
    document: Document<'a>,
    name: &'a str,
}

struct Check<'a> {
    document: Document<'a>,
    files: Vec<BuiltInFile<'a>>,
    overrides: &'a Overrides,
}

fn read(from: &mut Document<'_>, overrides: &Overrides) -> Raw {
    let sections = [
        "node",
        "pool",
        "net",
        "book",
        "broadcasts",
        "journal",
        "performance",
        "admin",
        "telemetry",
        "shutdown",
        "log",
        "guests",
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
        performance: performance::read(from),
        admin: from.section(&["admin"], &[]),
        telemetry: from.section(&["telemetry"], &[]),
        shutdown: from.section(&["shutdown"], &[]),
        log: from.section(&["log"], &[]),
        guests: from.section(&["guests"], &[]),
        phases: raw::Phases {
            reaper: phase(from, PHASES[0]),
            reconnect: phase(from, PHASES[1]),
            broadcast_cleanup: phase(from, PHASES[2]),
            exchange_cleanup: phase(from, PHASES[3]),
        },
    };
    if let Some(interval) = overrides.interval {
        raw.node.interval = interval;
    }
    if let Some(allow) = overrides.allow_private {
        raw.net.allow_private = allow;
    }
    if overrides.data_dir.is_some() {
        raw.node.data_dir.clone_from(&overrides.data_dir);
    }
    raw
}

impl<'a> Check<'a> {
    /// The document that `key` stands in, and what it is called there: a built-in phase may have a file of its own.
    fn at<'k>(&mut self, key: &'k str) -> (&mut Document<'a>, &'k str) {
        let inside = key.strip_prefix("phases.").and_then(|rest| rest.split_once('.'));
        if let Some((name, inside)) = inside
            && let Some(file) = self.files.iter_mut().find(|file| file.manifest.name == name)
        {
            return (&mut file.document, inside);
        }
        (&mut self.document, key)
    }

    fn both_given(&mut self) {
        for file in &self.files {
            let key = format!("phases.{}", file.manifest.name);
            if self.document.place(&key).is_some() {
                let message = format!("this phase is configured by {} too", file.name);
                self.document.report_at(&key, message, Some("take one of them away".to_owned()));
            }
        }
    }

    fn ranges(&mut self, raw: &Raw) {
        let values = serde_json::to_value(raw).expect("a config is plain data");
        for (key, value, bound) in bounds::outside(&BOUNDS, &values) {
            self.wrong(key, format!("{value} is out of range: {bound}"));
        }
    }

    /// Tells a mistake at `key`, or at the flag that set it.
    fn wrong(&mut self, key: &str, message: String) {
        if key == "node.interval" && self.overrides.interval.is_some() {
            self.document.problems.push(Problem::of("--interval", message));
        } else {
            let (document, key) = self.at(key);
            document.report_at(key, message, None);
        }
    }

    /// Tells that keys contradict each other, at the first that was written. A key that is wrong by itself contradicts
    /// nothing.
    fn clash(&mut self, keys: &[&str], message: String) {
        let flag = |key: &str| key == "node.interval" && self.overrides.interval.is_some();
        let flags: Vec<bool> = keys.iter().map(|key| flag(key)).collect();
        let mut first = None;
        for (key, flag) in keys.iter().zip(flags) {
            let (document, inside) = self.at(key);
            let mut problems = document.problems.iter();
            if problems.any(|one| one.key.as_deref() == Some(inside) || (flag && one.file == "--interval")) {
                return;
            }
            let is_written = flag || document.place(inside).is_some();
            first = first.or(is_written.then_some(*key));
        }
        self.wrong(first.unwrap_or(keys[0]), message);
    }

    fn resolve(&mut self, raw: Raw, dir: Option<PathBuf>) -> Config {
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
        for (key, message) in performance::problems(&raw.performance) {
            self.wrong(&key, message);
        }
        let guests = self.guests(&raw.guests, dir, pool.least);
        let phases = self.phases(raw.phases);
        self.reaper_gives_a_chance(&phases.reaper, raw.node.interval);
        if phases.reconnect.mode != Mode::Off && phases.reconnect.settings.target < pool.least {
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
            performance: performance::resolve(raw.performance),
            admin: Admin { enabled: raw.admin.enabled, socket: raw.admin.socket },
            telemetry: Telemetry { listen: raw.telemetry.listen },
            shutdown: Shutdown { deadline: raw.shutdown.deadline.into() },
            log: Log { level: raw.log.level, format: raw.log.format },
            guests,
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
        if reaper.mode != Mode::Off && stale_after.as_millis() <= between {
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

    fn guests(&mut self, raw: &raw::Guests, dir: Option<PathBuf>, least: u32) -> Guests {
        if raw.disconnects_per_tick > raw.disconnects_per_hour {
            let message = format!(
                "disconnects_per_tick = {} is above disconnects_per_hour = {}: it would never be reached",
                raw.disconnects_per_tick, raw.disconnects_per_hour
            );
            self.clash(&["guests.disconnects_per_tick", "guests.disconnects_per_hour"], message);
        }
        if raw.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            self.wrong("guests.dir", "is empty; leave the key out for the default folder".into());
        }
        let key = raw.public_key.as_deref().map(str::trim);
        let is_key = |key: &str| minisign_verify::PublicKey::from_base64(key).is_ok();
        match key {
            Some(key) if !is_key(key) => {
                let message = format!(
                    "{key:?} is no public key; copy the last line of the file that minisign made, minisign.pub"
                );
                self.wrong("guests.public_key", message);
            }
            None if raw.require == raw::Require::Signature => {
                let message =
                    "require = \"signature\" needs public_key, the last line of minisign.pub".to_owned();
                self.wrong("guests.require", message);
            }
            _ => {}
        }
        Guests {
            dir,
            require: raw.require,
            public_key: key.map(str::to_owned),
            allow_native: raw.allow_native,
            reload_native: raw.reload_native,
            disconnects_per_tick: raw.disconnects_per_tick,
            disconnects_per_hour: raw.disconnects_per_hour,
            floor: raw.floor.unwrap_or(least),
            protected: raw.protected,
            bans: raw.bans,
            untouchable: raw.untouchable.clone(),
        }
    }

    fn phases(&mut self, raw: raw::Phases) -> Phases {
        let usual = raw::Phases::default();
        let mut phases = Phases {
            reaper: self.phase(PHASES[0], raw.reaper, usual.reaper.schedule),
            reconnect: self.phase(PHASES[1], raw.reconnect, usual.reconnect.schedule),
            broadcast_cleanup: self.phase(PHASES[2], raw.broadcast_cleanup, usual.broadcast_cleanup.schedule),
            exchange_cleanup: self.phase(PHASES[3], raw.exchange_cleanup, usual.exchange_cleanup.schedule),
        };
        for file in &self.files {
            let Manifest { mode, schedule, body: Declared::BuiltIn(settings), .. } = file.manifest else {
                continue;
            };
            match settings.clone() {
                BuiltIn::Reaper(settings) => phases.reaper = from_file(*mode, schedule, settings),
                BuiltIn::Reconnect(settings) => phases.reconnect = from_file(*mode, schedule, settings),
                BuiltIn::BroadcastCleanup(settings) => {
                    phases.broadcast_cleanup = from_file(*mode, schedule, settings);
                }
                BuiltIn::ExchangeCleanup(settings) => {
                    phases.exchange_cleanup = from_file(*mode, schedule, settings);
                }
            }
        }
        self.circles(&phases);
        phases
    }

    fn circles(&mut self, phases: &Phases) {
        let schedules = [
            &phases.reaper.schedule,
            &phases.reconnect.schedule,
            &phases.broadcast_cleanup.schedule,
            &phases.exchange_cleanup.schedule,
        ];
        let mut before: Vec<BTreeSet<&str>> =
            schedules.iter().map(|schedule| schedule.after.iter().map(String::as_str).collect()).collect();
        for (name, schedule) in PHASES.into_iter().zip(schedules) {
            for later in
                (0..PHASES.len()).filter(|later| schedule.before.iter().any(|one| one == PHASES[*later]))
            {
                before[later].insert(name);
            }
        }
        // With as many rounds as phases, whatever can be reached from a phase is reached.
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
                let key = if schedules[at].after.is_empty() { "before" } else { "after" };
                self.wrong(&format!("phases.{name}.schedule.{key}"), message);
            }
        }
    }

    fn phase<S: Settings>(
        &mut self,
        name: &'static str,
        raw: raw::Phase<S>,
        usual: raw::Schedule,
    ) -> Phase<S> {
        let (document, table) = (&mut self.document, format!("phases.{name}.schedule"));
        let schedule = schedule::resolve(document, &table, Some(&PHASES), raw.schedule.or(usual));
        let settings = builtin::check(document, &format!("phases.{name}.settings"), raw.settings);
        Phase { mode: if raw.enabled { Mode::Enforce } else { Mode::Off }, schedule, settings }
    }
}

fn from_file<S>(mode: Mode, schedule: &Schedule, settings: S) -> Phase<S> {
    Phase { mode, schedule: schedule.clone(), settings }
}

fn phase<S: Settings>(from: &mut Document<'_>, name: &str) -> raw::Phase<S> {
    let outer: raw::Phase<S> = from.section(&["phases", name], &["schedule", "settings"]);
    raw::Phase {
        enabled: outer.enabled,
        schedule: from.section(&["phases", name, "schedule"], &[]),
        settings: from.section(&["phases", name, "settings"], &[]),
    }
}
