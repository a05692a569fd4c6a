//! Turns a config as written into a resolved one: checks ranges and contradictions, and fills defaults that depend on
//! other keys. Reads only manifests in the drop-in folder; those of built-in phases replace their sections.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use groundskeeper_base::bytes::ByteSize;
use groundskeeper_base::peer::canonical;
use groundskeeper_base::problem::Problem;
use groundskeeper_base::units::span;
use groundskeeper_engine::policy::Mode;
use groundskeeper_engine::{BUILTINS as PHASES, BuiltInPhase, BuiltInPhases, Settings};
use groundskeeper_flow::{MAX_NETWORK, NetSettings, Performance};
use groundskeeper_phases::Reaper;
use groundskeeper_pool::book::BookLimits;
use groundskeeper_pool::settings::PoolSettings;
use groundskeeper_sdk::span::Span;

use super::builtin;
use super::document::Document;
use super::manifest::{Manifest, read_drop_in};
use super::{
    AdminSection, Config, GuestSettings, NodeSettings, Overrides, TrustRequirement, bounds, performance,
    schedule,
};

/// `sockaddr_un` holds 107 bytes. A long path is reached through its folder, as `/proc/self/fd/N/NAME`, and the socket is
/// bound beside its name.
const LONGEST_SOCKET_NAME: usize = 70;

/// The default drop-in folder, in the data folder.
const PHASES_DIR: &str = "phases.d";

/// `folder` is the folder of the config file; `guests.dir` is relative to it.
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
    let found = read_from.map(read_drop_in).unwrap_or_default();
    let names: Vec<String> = found.iter().map(|file| file.path.display().to_string()).collect();
    let (mut files, mut refused) = (Vec::new(), Vec::new());
    for (file, name) in found.iter().zip(&names).filter(|(file, _)| file.is_built_in) {
        match &file.manifest {
            Ok(manifest) => {
                files.push(BuiltInFile { manifest, document: Document::parse(&file.text, name) });
            }
            Err(problems) => refused.extend(problems.iter().cloned()),
        }
    }
    let mut check = Resolver { document, files, overrides };
    check.ranges(&raw);
    check.both_given();
    let config = check.resolve(raw, dir);
    let mut problems = check.document.into_problems();
    problems.extend(check.files.into_iter().flat_map(|file| file.document.into_problems()));
    problems.extend(refused);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

/// Checks a config that is resolved, by the rules for one that is read.
pub(super) fn check(config: &Config, name: &str) -> Result<(), Vec<Problem>> {
    let document = Document::parse("", name);
    let mut check = Resolver { document, files: Vec::new(), overrides: &Overrides::default() };
    check.ranges(config);
    check.resolve(config.clone(), config.guests.dir.clone());
    let problems = check.document.into_problems();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// The drop-in folder: from the flag, else from the file, else in the data folder.
fn phases_dir(raw: &Config, folder: Option<&Path>, overrides: &Overrides) -> Option<PathBuf> {
    if overrides.phases.is_some() {
        return overrides.phases.clone();
    }
    if let Some(dir) = &raw.guests.dir {
        return Some(folder?.join(dir));
    }
    let data = raw.node.data_dir.as_ref().or(overrides.usual_data_dir.as_ref())?;
    Some(data.join(PHASES_DIR))
}

/// Whether one of `listening` has the port of `address`, at the same address or at all addresses.
fn takes_part(address: SocketAddr, listening: &[SocketAddr]) -> bool {
    let address = canonical(address);
    listening.iter().copied().map(canonical).any(|other| {
        let is_same =
            other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified();
        other.port() == address.port() && is_same
    })
}

/// A built-in phase that is configured by a manifest.
struct BuiltInFile<'a> {
    manifest: &'a Manifest,
    document: Document<'a>,
}

struct Resolver<'a> {
    document: Document<'a>,
    files: Vec<BuiltInFile<'a>>,
    overrides: &'a Overrides,
}

fn read(from: &mut Document<'_>, overrides: &Overrides) -> Config {
    let mut raw: Config = from.read("", &[]);
    raw.performance.timeouts.entry(Performance::ALL_KINDS.to_owned()).or_default();
    if let Some(interval) = overrides.interval {
        raw.node.interval = interval.into();
    }
    if let Some(allow) = overrides.allow_private {
        raw.net.allow_private = allow;
    }
    if overrides.data_dir.is_some() {
        raw.node.data_dir.clone_from(&overrides.data_dir);
    }
    if raw.journal.file.is_none() {
        raw.journal.file.clone_from(&overrides.usual_journal);
    }
    raw.journal.file.take_if(|file| file.as_os_str().is_empty());
    raw
}

impl<'a> Resolver<'a> {
    /// The document that contains `key`, and the key's name there. A built-in phase may have its own file.
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
            if self.document.value(&key).is_some() {
                let message = format!("this phase is configured by {} too", file.document.name);
                self.document.report_at(&key, message, Some("remove one of them".to_owned()));
            }
        }
    }

    fn ranges(&mut self, raw: &Config) {
        let values = serde_json::to_value(raw).expect("a config is plain data");
        for (key, value, bound) in bounds::outside(&bounds::all(), &values) {
            self.wrong(key, format!("{value} is out of range: {bound}"));
        }
    }

    /// Reports a mistake at `key`, or at the flag that set it.
    fn wrong(&mut self, key: &str, message: String) {
        if key == "node.interval" && self.overrides.interval.is_some() {
            self.document.problems.push(Problem::of("--interval", message));
        } else {
            let (document, key) = self.at(key);
            document.report_at(key, message, None);
        }
    }

    /// Reports that keys contradict each other, at the first key that is written. Does nothing if one of them already
    /// has a problem.
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
            let is_written = flag || document.value(inside).is_some();
            first = first.or(is_written.then_some(*key));
        }
        self.wrong(first.unwrap_or(keys[0]), message);
    }

    /// Reports if the first of two keys of a section is above the second.
    fn ascends<V: PartialOrd + Display>(&mut self, section: &str, low: (&str, V), high: (&str, V), so: &str) {
        let (low, value) = low;
        let (high, limit) = high;
        if value > limit {
            let message = format!("{low} = {value} is above {high} = {limit}{so}");
            self.clash(&[&format!("{section}.{low}"), &format!("{section}.{high}")], message);
        }
    }

    fn resolve(&mut self, mut config: Config, dir: Option<PathBuf>) -> Config {
        self.pool(&config.pool);
        self.net(&config.net);
        self.book(&config.book);
        self.node(&config.node);
        self.socket(&config.admin);
        if let Some(listen) = config
            .telemetry
            .listen
            .filter(|listen| listen.port() != 0 && takes_part(*listen, &config.net.listen))
        {
            let message = format!("{listen} is in net.listen too; choose another port");
            self.wrong("telemetry.listen", message);
        }
        performance::check(&config.performance, |key, message| self.wrong(key, message));
        let least = config.pool.least;
        self.guests(&mut config.guests, dir, least);
        self.phases(&mut config.phases);
        let phases = &config.phases;
        self.reaper_gives_a_chance(&phases.reaper, span(config.node.interval));
        if phases.reconnect.mode != Mode::Off && phases.reconnect.settings.target < least {
            let target = phases.reconnect.settings.target;
            let message = format!(
                "phases.reconnect.settings.target = {target} is below pool.least = {least}: the floor would never be reached"
            );
            self.clash(&["phases.reconnect.settings.target", "pool.least"], message);
        }
        config.pool = config.pool.resolved(config.net.allow_private);
        config.performance = config.performance.resolved();
        config
    }

    fn node(&mut self, node: &NodeSettings) {
        let name = &node.network;
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || name.len() > MAX_NETWORK || !name.chars().all(allowed) {
            self.wrong("node.network", format!("{name:?} is not 1 to {MAX_NETWORK} of a-z, 0-9 and \"-\""));
        }
        if node.data_dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            self.wrong("node.data_dir", "is empty; leave the key out for the default folder".into());
        }
    }

    fn socket(&mut self, admin: &AdminSection) {
        let Some(path) = &admin.socket else { return };
        match path.file_name().map_or(0, |name| name.len()) {
            0 => {
                self.wrong("admin.socket", "names no file, like \"/run/groundskeeper/admin.sock\"".to_owned())
            }
            length if length > LONGEST_SOCKET_NAME => {
                let message =
                    format!("the file name has {length} bytes, the system takes {LONGEST_SOCKET_NAME}");
                self.wrong("admin.socket", message);
            }
            _ => {}
        }
    }

    fn pool(&mut self, pool: &PoolSettings) {
        let PoolSettings { max_connections, least, .. } = *pool;
        for (key, value) in [
            ("max_inbound", pool.max_inbound),
            ("max_outbound", pool.max_outbound),
            ("max_per_group", pool.max_per_group),
            ("most", pool.most),
        ] {
            if let Some(value) = value {
                self.ascends("pool", (key, value), ("max_connections", max_connections), "");
            }
        }
        let most = pool.most();
        if least > most {
            let message = format!("least = {least} is above most = {most}");
            self.clash(&["pool.least", "pool.most", "pool.max_connections"], message);
        }
    }

    fn net(&mut self, net: &NetSettings) {
        if net.queue_bytes < net.max_frame {
            let [queue_bytes, max_frame] =
                [net.queue_bytes, net.max_frame].map(|bytes| ByteSize(bytes as u64));
            let message = format!(
                "queue_bytes = {queue_bytes} is below max_frame = {max_frame}: the largest frame would never fit"
            );
            self.clash(&["net.queue_bytes", "net.max_frame"], message);
        }
        let mut seen = BTreeSet::new();
        for address in net.listen.iter().filter(|address| address.port() != 0) {
            if !seen.insert(canonical(*address)) {
                self.wrong("net.listen", format!("{address} is in the list twice"));
            }
        }
        for address in &net.advertise {
            let ip = canonical(*address).ip();
            if address.port() == 0 || ip.is_unspecified() || ip.is_multicast() {
                self.wrong("net.advertise", format!("{address} is not an address that others could dial"));
            }
        }
    }

    fn book(&mut self, book: &BookLimits) {
        let BookLimits { capacity, per_source_group, .. } = *book;
        self.ascends("book", ("per_source_group", per_source_group), ("capacity", capacity), "");
        let (first, most) = (span(book.backoff_first), span(book.backoff_most));
        self.ascends("book", ("backoff_first", first), ("backoff_most", most), "");
    }

    /// The reaper pings a quiet peer in one run, so the peer must have time to answer before the next run.
    fn reaper_gives_a_chance(&mut self, reaper: &BuiltInPhase<Reaper>, interval: Span) {
        let longest = reaper.schedule.cadence.longest();
        let between = interval.as_millis().saturating_mul(longest.into());
        let stale_after = reaper.settings.stale_after;
        if reaper.mode != Mode::Off && stale_after.as_millis() <= between {
            let between = Span::millis(between);
            let message = format!(
                "stale_after = {stale_after} is not above the {between} between two runs of the reaper: live peers \
                 would be dropped without a ping; raise it above {between}, or lower node.interval"
            );
            let keys = [
                "phases.reaper.settings.stale_after",
                "phases.reaper.schedule.every_n_ticks",
                "node.interval",
            ];
            self.clash(&keys, message);
        }
    }

    fn guests(&mut self, guests: &mut GuestSettings, dir: Option<PathBuf>, least: u32) {
        let per_tick = ("disconnects_per_tick", guests.disconnects_per_tick);
        let per_hour = ("disconnects_per_hour", guests.disconnects_per_hour);
        self.ascends("guests", per_tick, per_hour, ": it would never be reached");
        if guests.dir.as_ref().is_some_and(|dir| dir.as_os_str().is_empty()) {
            self.wrong("guests.dir", "is empty; leave the key out for the default folder".into());
        }
        let key = guests.public_key.as_deref().map(str::trim);
        let is_key = |key: &str| minisign_verify::PublicKey::from_base64(key).is_ok();
        match key {
            Some(key) if !is_key(key) => {
                let message = format!(
                    "{key:?} is not a public key; copy the last line of the file that minisign made, minisign.pub"
                );
                self.wrong("guests.public_key", message);
            }
            None if guests.require == TrustRequirement::Signature => {
                let message =
                    "require = \"signature\" needs public_key, the last line of minisign.pub".to_owned();
                self.wrong("guests.require", message);
            }
            _ => {}
        }
        guests.public_key = key.map(str::to_owned);
        guests.floor.get_or_insert(least);
        guests.dir = dir;
    }

    fn phases(&mut self, phases: &mut BuiltInPhases) {
        self.phase(PHASES[0], &mut phases.reaper);
        self.phase(PHASES[1], &mut phases.reconnect);
        self.phase(PHASES[2], &mut phases.broadcast_cleanup);
        self.phase(PHASES[3], &mut phases.exchange_cleanup);
        self.circles(phases);
    }

    fn circles(&mut self, phases: &BuiltInPhases) {
        let schedules = builtin::schedules(phases);
        let place = |name: &String| PHASES.iter().position(|known| known == name);
        // `before[a][b]`: the phase at place `b` runs before the one at place `a`.
        let mut before = [[false; PHASES.len()]; PHASES.len()];
        for (at, schedule) in schedules.into_iter().enumerate() {
            schedule.after.iter().filter_map(place).for_each(|earlier| before[at][earlier] = true);
            schedule.before.iter().filter_map(place).for_each(|later| before[later][at] = true);
        }
        // Transitive closure: what runs before `via` also runs before everything after `via`.
        for via in 0..PHASES.len() {
            for at in (0..PHASES.len()).filter(|at| before[*at][via]).collect::<Vec<_>>() {
                (0..PHASES.len()).for_each(|earlier| before[at][earlier] |= before[via][earlier]);
            }
        }
        for (at, name) in PHASES.into_iter().enumerate() {
            if before[at][at] {
                let message = format!("{name} would have to run before itself");
                let key = if schedules[at].after.is_empty() { "before" } else { "after" };
                self.wrong(&format!("phases.{name}.schedule.{key}"), message);
            }
        }
    }

    /// Checks the section of a phase. If the phase has its own file, that file replaces the section.
    fn phase<S: Settings>(&mut self, name: &str, phase: &mut BuiltInPhase<S>) {
        let document = &mut self.document;
        schedule::check(document, &format!("phases.{name}.schedule"), Some(&PHASES), &phase.schedule);
        builtin::check(document, &format!("phases.{name}.settings"), &phase.settings);
        if let Some(file) = self.files.iter_mut().find(|file| file.manifest.name == name) {
            let Manifest { mode, schedule, .. } = file.manifest;
            let settings = file.document.read("settings", &[]);
            let on_failure = phase.on_failure;
            *phase = BuiltInPhase { mode: *mode, schedule: schedule.clone(), on_failure, settings };
        }
    }
}
