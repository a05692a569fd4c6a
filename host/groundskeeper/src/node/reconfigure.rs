//! Changes of the config while the node runs: what takes effect at once, and what waits for the next start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::builtins::builtins;
use super::config_files::FollowedFiles;
use super::limits::within_descriptors;
use super::maintenance::Maintenance;
use crate::config::{Config, GuestSettings, PoolSettings, Problem};
use crate::cycle::Thresholds;
use crate::descriptors::DescriptorLimit;
use crate::disk::{DiskCalls, DiskThread, DiskUser, NoAnswer, PATIENCE};
use crate::engine::BuiltInPhases;
use crate::journal::{ActionKind, Cause, Initiator, Journal, NewRecord, Outcome};
use crate::net::Net;
use crate::pool::{Direction, Pool, PoolLimits, Removal, over_limit};
use crate::registry::PhaseSpec;
use crate::reload::ConfigReport;
use crate::ticker::TickerHandle;

/// The source of a running node's config. It is read again when its files change, and on command.
pub struct ConfigSource {
    /// The config file. Without one, only the manifests of built-in phases are watched.
    pub file: Option<PathBuf>,
    /// Reads and checks the whole config. After an error, the config in effect stays.
    pub read: Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send + Sync>,
    /// Called with each config that takes effect, for settings that only the application knows, such as the log level.
    pub applied: Box<dyn Fn(&Config) + Send + Sync>,
}

/// Gives a running node another config.
pub struct Reconfigurer {
    /// Reads the config: a file system that hangs holds up nothing else.
    pub(super) reader: DiskThread<ConfigReader>,
    #[cfg_attr(not(feature = "telemetry"), allow(dead_code, reason = "only operators ask for it"))]
    pub(super) calls: Arc<DiskCalls>,
    applied: Box<dyn Fn(&Config) + Send + Sync>,
    /// The config in effect.
    config: tokio::sync::Mutex<Config>,
    /// What the connections may use. `None` if they use none.
    descriptors: Option<DescriptorLimit>,
    pool: Arc<Pool>,
    net: Arc<Net>,
    journal: Arc<Journal>,
    ticker: TickerHandle,
    thresholds: Arc<Mutex<Thresholds>>,
}

/// Reads the config, on a separate thread.
pub(super) struct ConfigReader {
    file: Option<PathBuf>,
    read: Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send + Sync>,
    pub calls: Arc<DiskCalls>,
    pub followed: Option<FollowedFiles>,
}

impl ConfigReader {
    fn read(&self) -> Result<Config, Vec<Problem>> {
        let place = self.file.as_deref().unwrap_or(Path::new("the config"));
        self.calls.during("read", place, &self.read)
    }
}

impl Reconfigurer {
    pub(super) fn new(
        source: ConfigSource,
        config: Config,
        descriptors: Option<DescriptorLimit>,
        net: Arc<Net>,
        maintenance: &Maintenance,
    ) -> std::io::Result<Self> {
        let ConfigSource { file, read, applied } = source;
        let calls = DiskCalls::new(DiskUser::Config);
        let reader = ConfigReader { file, read, calls: Arc::clone(&calls), followed: None };
        Ok(Self {
            reader: DiskThread::start("gk-config", || reader)?,
            calls,
            applied,
            config: tokio::sync::Mutex::new(config),
            descriptors,
            pool: Arc::clone(&maintenance.state.pool),
            net,
            journal: Arc::clone(&maintenance.state.journal),
            ticker: maintenance.handle.clone(),
            thresholds: Arc::clone(&maintenance.thresholds),
        })
    }

    /// Has the thread that reads the config do a job, with a bound on the wait.
    pub(super) async fn on_disk<R: Send + 'static>(
        &self,
        job: impl FnOnce(&mut ConfigReader) -> R + Send + 'static,
    ) -> Result<R, NoAnswer> {
        self.reader.ask(PATIENCE, job).await
    }

    /// Reads the config again. Applies what can change between two beats. A config with a problem changes nothing.
    ///
    /// The journal gets a record that names `by` as the initiator and `how` the order came, unless the host itself looked
    /// and found nothing.
    pub async fn reconfigure(&self, by: Initiator, how: &str) -> ConfigReport {
        self.try_reconfigure(by, how).await.unwrap_or_else(|no_answer| {
            let problem = match no_answer {
                NoAnswer::Busy(since) => {
                    format!("still reading it (since {} s): its file system does not answer", since.as_secs())
                }
                NoAnswer::Ended => "the thread that reads it has panicked; restart the node".to_owned(),
            };
            ConfigReport { problems: vec![problem], ..ConfigReport::default() }
        })
    }

    /// As [`Reconfigurer::reconfigure`].
    ///
    /// # Errors
    /// The files could not be read yet.
    pub(super) async fn try_reconfigure(&self, by: Initiator, how: &str) -> Result<ConfigReport, NoAnswer> {
        let report = self.read_again(&by).await?;
        if by != Initiator::Host || report != ConfigReport::default() {
            self.journal.record(journalled(&report, by, how));
        }
        Ok(report)
    }

    async fn read_again(&self, by: &Initiator) -> Result<ConfigReport, NoAnswer> {
        let mut holds = self.config.lock().await;
        let new = match self.on_disk(|reader| reader.read()).await {
            Ok(Ok(new)) => until_the_start(&holds, new),
            Ok(Err(problems)) => {
                let problems = problems.iter().map(Problem::to_string).collect();
                return Ok(ConfigReport { problems, ..ConfigReport::default() });
            }
            Err(no_answer) => return Err(no_answer),
        };
        let mut report = compare(&holds, &new);
        if report.changed.is_empty() {
            return Ok(report);
        }
        // Keys that wait for a start have no part in what is applied.
        let now = live_part(&holds, new);
        if let Err(problem) = self.take(&holds, &now, &report, by).await {
            report.changed.clear();
            report.problems.push(problem);
            return Ok(report);
        }
        *holds = now;
        Ok(report)
    }

    async fn take(
        &self,
        old: &Config,
        new: &Config,
        report: &ConfigReport,
        by: &Initiator,
    ) -> Result<(), String> {
        let going_down = || "the node is shutting down".to_owned();
        let mut new = new.clone();
        if let Some(limit) = self.descriptors {
            new.pool = within_descriptors(&new.pool, limit);
        }
        let new = &new;
        let (thresholds, guests) = (thresholds(new), new.guests.ceilings(new.pool.least));
        let own = changed_builtins(&old.phases, &new.phases);
        let put = self.ticker.with_cycle(move |cycle| {
            cycle.put_own(own)?;
            cycle.set_world(thresholds, guests);
            Ok::<(), String>(())
        });
        if report.changed.iter().any(|key| key != "node.interval" && key != "log.level") {
            put.await.ok_or_else(going_down)??;
        }
        *self.thresholds.lock() = thresholds;
        if old.node.interval != new.node.interval {
            self.ticker.set_interval(new.node.interval).await.ok_or_else(going_down)?;
        }
        (self.applied)(new);
        self.net.tune(new.performance.clone(), new.pool.healthy_above());
        let PoolLimits { inbound, outbound, handshakes, .. } = new.pool.limits(new.net.allow_private);
        self.pool.set_limits(inbound, outbound, handshakes);
        self.lower(Direction::Inbound, inbound, "pool.max_inbound", by);
        self.lower(Direction::Outbound, outbound, "pool.max_outbound", by);
        Ok(())
    }

    /// Ends connections above a limit.
    fn lower(&self, direction: Direction, limit: u32, key: &str, by: &Initiator) {
        let rows = self.pool.freeze();
        for conn in over_limit(&rows, &self.pool.freeze_connected_at(&rows), direction, limit) {
            let reason = format!("{key} was lowered to {limit}");
            self.pool.disconnect(conn, Removal::new(by.clone(), Cause::Limits, reason), None);
        }
    }
}

/// The record of a config that was read again.
fn journalled(report: &ConfigReport, by: Initiator, how: &str) -> NewRecord {
    let ConfigReport { changed, restart, problems, .. } = report;
    let mut words = vec![how.to_owned()];
    if !changed.is_empty() {
        words.push(format!("changed {}", changed.join(", ")));
    }
    if !restart.is_empty() {
        words.push(format!("at the next start {}", restart.join(", ")));
    }
    if changed.is_empty() && restart.is_empty() && problems.is_empty() {
        words.push("nothing has changed".to_owned());
    }
    let outcome = match problems.first() {
        Some(first) if problems.len() > 1 => {
            Outcome::Refused(format!("{first}, and {} more", problems.len() - 1))
        }
        Some(first) => Outcome::Refused(first.clone()),
        None => Outcome::Applied,
    };
    NewRecord { outcome, ..NewRecord::new(by, ActionKind::Config, words.join(": ")) }
}

/// The built-in phases whose section has changed. The others keep their breakers, durations and metrics.
fn changed_builtins(old: &BuiltInPhases, new: &BuiltInPhases) -> Vec<PhaseSpec> {
    let changed = [
        old.reaper != new.reaper,
        old.reconnect != new.reconnect,
        old.broadcast_cleanup != new.broadcast_cleanup,
        old.exchange_cleanup != new.exchange_cleanup,
    ];
    let all = builtins(new).into_iter().zip(changed);
    all.filter(|(_, has_changed)| *has_changed).map(|(spec, _)| spec).collect()
}

pub(super) fn thresholds(config: &Config) -> Thresholds {
    let pool = &config.pool;
    let (healthy_above, stale_after) = (pool.healthy_above(), config.stale_after());
    Thresholds { healthy_above, least: pool.least, most: pool.most(), stale_after }
}

/// `[guests]` in effect: the folder and the trust settings wait for the next start.
fn live_guests(old: &GuestSettings, new: &GuestSettings) -> GuestSettings {
    let GuestSettings { dir, allow_native, reload_native, require, public_key, .. } = old.clone();
    GuestSettings { dir, allow_native, reload_native, require, public_key, ..new.clone() }
}

/// `new`, of which limits that nothing but `pool.max_connections` sets wait for the next start with it.
fn until_the_start(old: &Config, mut new: Config) -> Config {
    let following = |max_connections| {
        let pool =
            PoolSettings { max_connections, max_inbound: None, max_outbound: None, most: None, ..new.pool };
        pool.resolved(new.net.allow_private)
    };
    let (then, now) = (following(new.pool.max_connections), following(old.pool.max_connections));
    let pool = &mut new.pool;
    for (key, then, now) in [
        (&mut pool.max_inbound, then.max_inbound, now.max_inbound),
        (&mut pool.max_outbound, then.max_outbound, now.max_outbound),
        (&mut pool.most, then.most, now.most),
    ] {
        if *key == then {
            *key = now;
        }
    }
    new
}

/// `new` where it can change, `old` elsewhere.
fn live_part(old: &Config, new: Config) -> Config {
    let mut config = old.clone();
    config.guests = live_guests(&old.guests, &new.guests);
    config.phases = new.phases;
    config.node.interval = new.node.interval;
    config.log.level = new.log.level;
    config.performance = new.performance;
    let (max_connections, max_per_group) = (old.pool.max_connections, old.pool.max_per_group);
    config.pool = PoolSettings { max_connections, max_per_group, ..new.pool };
    config
}

macro_rules! keys {
    ($($section:ident.$key:ident),* $(,)?) => {
        [$(ConfigKey {
            name: concat!(stringify!($section), ".", stringify!($key)),
            differs: |old, new| old.$section.$key != new.$section.$key,
        }),*]
    };
}

/// One key of the config.
struct ConfigKey {
    name: &'static str,
    differs: fn(&Config, &Config) -> bool,
}

/// Keys that take effect while the node runs.
const LIVE: [ConfigKey; 23] = keys!(
    node.interval,
    pool.max_inbound,
    pool.max_outbound,
    pool.max_handshakes,
    pool.least,
    pool.most,
    pool.healthy_above,
    guests.disconnects_per_tick,
    guests.disconnects_per_hour,
    guests.floor,
    guests.protected,
    guests.bans,
    guests.untouchable,
    guests.log_bytes_per_tick,
    performance.backpressure,
    performance.circuit_breaker,
    performance.retry,
    performance.timeouts,
    phases.reaper,
    phases.reconnect,
    phases.broadcast_cleanup,
    phases.exchange_cleanup,
    log.level,
);

/// Keys that take effect at the next start.
const AT_START: [ConfigKey; 36] = keys!(
    node.network,
    node.data_dir,
    pool.max_connections,
    pool.max_per_group,
    guests.dir,
    guests.allow_native,
    guests.reload_native,
    guests.require,
    guests.public_key,
    log.format,
    shutdown.deadline,
    net.listen,
    net.advertise,
    net.bootstrap,
    net.allow_private,
    net.handshake_timeout,
    net.request_timeout,
    net.bytes_per_second_per_peer,
    net.broadcasts_per_second_per_peer,
    net.queue_bytes,
    net.max_frame,
    book.capacity,
    book.per_source_group,
    book.backoff_first,
    book.backoff_most,
    book.min_life,
    broadcasts.held,
    broadcasts.per_window,
    broadcasts.window,
    journal.notable,
    journal.chatter,
    journal.file,
    journal.file_max,
    admin.enabled,
    admin.socket,
    telemetry.listen,
);

/// Which keys differ, by when they take effect.
pub fn compare(old: &Config, new: &Config) -> ConfigReport {
    let differing = |keys: &[ConfigKey]| {
        keys.iter().filter(|key| (key.differs)(old, new)).map(|key| key.name.to_owned()).collect::<Vec<_>>()
    };
    let report =
        ConfigReport { changed: differing(&LIVE), restart: differing(&AT_START), ..ConfigReport::default() };
    debug_assert!(
        old == new || !(report.changed.is_empty() && report.restart.is_empty()),
        "a key of the config is in neither list"
    );
    report
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    #[test]
    fn every_key_takes_hold_at_once_or_at_the_start() {
        let schema = crate::config::schema();
        let mut written = Vec::new();
        for (section, table) in schema["properties"].as_object().unwrap() {
            let keys = table["properties"].as_object().unwrap().keys();
            written.extend(keys.map(|key| format!("{section}.{}", key.replace('-', "_"))));
        }
        // It has only one value.
        written.retain(|key| key != "performance.enable_lock_free");
        written.sort();
        let mut known: Vec<_> = LIVE.iter().chain(&AT_START).map(|key| key.name).collect();
        known.sort_unstable();
        assert_eq!(written, known);
    }
}
