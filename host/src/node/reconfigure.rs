//! A config that changes while the node runs: what of it takes hold at once, and what waits for the next start.

use std::sync::Arc;

use parking_lot::Mutex;

use super::builtins::builtins;
use super::tuning::tuning;
use crate::config::{Config, Guests, Pool as PoolConfig, Problem};
use crate::cycle::{Measures, Thresholds};
use crate::data::KeptPhase;
use crate::journal::{Asker, Cause};
use crate::net::Net;
use crate::pool::{Direction, Pool, Removal};
use crate::registry::LastRuns;
use crate::reload::ConfigReport;
use crate::ticker::Controls;

/// Where the config of a node comes from when it is read again.
pub type ReadConfig = Box<dyn Fn() -> Result<Config, Vec<Problem>> + Send + Sync>;

/// Gives a running node another config.
pub struct Reconfigurer {
    read: ReadConfig,
    /// What holds.
    config: tokio::sync::Mutex<Config>,
    pool: Arc<Pool>,
    net: Arc<Net>,
    ticker: Controls,
    measures: Arc<Mutex<Measures>>,
    /// Sets what is logged.
    log: Box<dyn Fn(&Config) + Send + Sync>,
}

impl Reconfigurer {
    pub(super) fn new(
        read: ReadConfig,
        config: Config,
        pool: Arc<Pool>,
        net: Arc<Net>,
        ticker: Controls,
        measures: Arc<Mutex<Measures>>,
        log: Box<dyn Fn(&Config) + Send + Sync>,
    ) -> Self {
        Self { read, config: tokio::sync::Mutex::new(config), pool, net, ticker, measures, log }
    }

    /// Reads the config again. What can change does, between two beats; one with a problem changes nothing.
    pub async fn reconfigure(&self) -> ConfigReport {
        let mut holds = self.config.lock().await;
        let new = match (self.read)() {
            Ok(new) => new,
            Err(problems) => {
                let problems = problems.iter().map(Problem::to_string).collect();
                return ConfigReport { problems, ..ConfigReport::default() };
            }
        };
        let mut report = compare(&holds, &new);
        if report.changed.is_empty() {
            return report;
        }
        if let Err(problem) = self.take(&holds, &new, &report).await {
            report.changed.clear();
            report.problems.push(problem);
            return report;
        }
        let now = live_part(&holds, new);
        *holds = now;
        report
    }

    async fn take(&self, old: &Config, new: &Config, report: &ConfigReport) -> Result<(), String> {
        let going_down = || "the node is shutting down".to_owned();
        let thresholds = thresholds(&new.pool);
        let (stale_after, guests) = (new.stale_after(), live_guests(&old.guests, &new.guests));
        let own = builtins(&new.phases);
        let put = self.ticker.with_cycle(move |cycle| {
            for spec in own {
                cycle.put(spec, KeptPhase::default(), LastRuns::new())?;
            }
            cycle.set_world(thresholds, stale_after, guests);
            Ok::<(), String>(())
        });
        if report.changed.iter().any(|key| key != "node.interval" && key != "log.level") {
            put.await.ok_or_else(going_down)??;
        }
        *self.measures.lock() = Measures { thresholds, stale_after };
        if old.node.interval != new.node.interval {
            self.ticker.set_interval(new.node.interval).await.ok_or_else(going_down)?;
        }
        (self.log)(new);
        self.net.tune(tuning(new));
        let PoolConfig { max_inbound, max_outbound, max_handshakes, .. } = new.pool;
        self.pool.set_limits(max_inbound, max_outbound, max_handshakes);
        self.lower(Direction::Inbound, max_inbound, "pool.max_inbound");
        self.lower(Direction::Outbound, max_outbound, "pool.max_outbound");
        Ok(())
    }

    /// Ends connections above a limit: first those that do worst, of these the youngest; protected ones last.
    fn lower(&self, direction: Direction, limit: u32, key: &str) {
        let rows = self.pool.freeze();
        let since = self.pool.freeze_connected_at(&rows);
        let inbound = direction == Direction::Inbound;
        let mut of_it: Vec<usize> =
            (0..rows.len()).filter(|row| rows.words()[*row].inbound() == inbound).collect();
        let over = of_it.len().saturating_sub(limit as usize);
        of_it.sort_by_key(|&row| {
            let word = rows.words()[row];
            (word.protected(), word.health(), std::cmp::Reverse(since[row]))
        });
        for &row in &of_it[..over] {
            let reason = format!("{key} was lowered to {limit}");
            self.pool.disconnect(rows.key(row), Removal::new(Asker::Operator, Cause::Limits, reason), None);
        }
    }
}

pub(super) fn thresholds(pool: &PoolConfig) -> Thresholds {
    Thresholds { healthy_above: pool.healthy_above, least: pool.least, most: pool.most }
}

/// What holds of `[guests]`: the folder and who is trusted wait for the next start.
fn live_guests(old: &Guests, new: &Guests) -> Guests {
    Guests {
        dir: old.dir.clone(),
        allow_native: old.allow_native,
        reload_native: old.reload_native,
        require: old.require,
        public_key: old.public_key.clone(),
        ..new.clone()
    }
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
    config.pool = PoolConfig { max_connections, max_per_group, ..new.pool };
    config
}

macro_rules! keys {
    ($($section:ident.$key:ident),* $(,)?) => {
        [$(Key {
            name: concat!(stringify!($section), ".", stringify!($key)),
            differs: |old, new| old.$section.$key != new.$section.$key,
        }),*]
    };
}

/// One key of the config.
struct Key {
    name: &'static str,
    differs: fn(&Config, &Config) -> bool,
}

/// Keys that take hold while the node runs.
const LIVE: [Key; 22] = keys!(
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

/// Keys that take hold when it starts.
const AT_START: [Key; 35] = keys!(
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

/// Which keys differ, by whether they take hold while the node runs.
pub fn compare(old: &Config, new: &Config) -> ConfigReport {
    let differing = |keys: &[Key]| {
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
