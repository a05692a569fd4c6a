//! Builds the answers from the current state of the node.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_pool::NodeState;
use groundskeeper_sdk::phase::Tick;

use super::AdminState;
use super::answers::{
    BookStatus, Health, JournalStatus, NodeStatus, Peer, Peers, PhaseList, PoolStatus, ReloadHold,
    ResumeAnswer,
};
use crate::clock::{CoarseInstant, unix_seconds};
use crate::cycle::{BeatReport, Cycle, SilenceCount, Thresholds, TickSnapshot};
use crate::engine::{MOST_STUCK, PhaseView};
use crate::journal::{ActionKind, Initiator, NewRecord, Outcome};
use crate::pool::{Direction, PeerRows};
use crate::record::Fixture;
use crate::registry::PhaseState;
use crate::reload::{ReloadHandle, ReloadReport};
use crate::ticker::TickerHandle;

/// Failures or skipped runs in a row of a built-in phase after which the node is not ready.
const FAILURES_TOLERATED: u32 = 3;

fn going_down<T>() -> Result<T, String> {
    Err("the node is shutting down".to_owned())
}

/// Changes a phase between two beats.
async fn change(
    ticker: &TickerHandle,
    phase: String,
    by: Initiator,
    change: fn(&mut Cycle, &str, Initiator) -> Result<PhaseState, String>,
) -> Result<ResumeAnswer, String> {
    let name = phase.clone();
    let was = ticker.with_cycle(move |cycle| change(cycle, &name, by)).await.unwrap_or_else(going_down)?;
    Ok(ResumeAnswer { phase, was })
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned()).to_string_lossy().into_owned()
}

impl AdminState {
    pub fn status(&self) -> NodeStatus {
        let from = &self.sources;
        let Thresholds { healthy_above, stale_after, .. } = *from.thresholds.lock();
        let stats = from.state.pool.stats(healthy_above, stale_after);
        let (notable, chatter) = from.state.journal.held();
        NodeStatus {
            node: from.state.pool.self_id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            network: self.network.clone(),
            tick: from.pulse.tick(),
            interval_ms: from.pulse.interval().as_millis() as u64,
            uptime_s: from.state.clock.mono().saturating_sub(from.started).as_secs(),
            listening: self.local_addrs.clone(),
            drop_in: from.reload.as_ref().map(|reload| absolute(reload.folder())),
            pool: PoolStatus {
                stats,
                capacity: from.state.pool.capacity(),
                bans: from.state.pool.bans(),
                removals: from.state.pool.removals(),
            },
            book: BookStatus { addresses: from.state.book.len(), dialing: from.state.book.dialing() },
            journal: JournalStatus {
                disconnects: from.state.journal.disconnects(),
                notable,
                chatter,
                lines_lost: from.state.journal.lines_lost(),
            },
            traffic: from.traffic.as_ref().map(|report| report.traffic()),
            requests: from.traffic.as_ref().map(|report| report.kinds()).unwrap_or_default(),
            locks: from.lock_waits().map(|(lock, waits)| (lock.to_owned(), waits)).into(),
            phases: from.phases.read().to_vec(),
            disk: from.disk.troubles(),
        }
    }

    pub fn phases(&self) -> PhaseList {
        PhaseList { tick: self.sources.pulse.tick(), phases: self.sources.phases.read().to_vec() }
    }

    /// What a phase would see now, at its first run. Copies every column: O(slots + addresses).
    pub fn view(&self) -> Fixture {
        let from = &self.sources;
        let (now, thresholds) = (from.state.clock.coarse(), *from.thresholds.lock());
        let snapshot = TickSnapshot::take(&from.state, thresholds, now, SilenceCount::default());
        let tick = Tick {
            number: from.pulse.tick(),
            unix_s: unix_seconds(&*from.state.clock),
            seed: [rand::random(), rand::random()],
            ..Tick::default()
        };
        Fixture::of(&PhaseView::new(snapshot, Arc::default(), None), tick, thresholds.healthy_above.into())
    }

    /// Reads the drop-in folder now, and applies the changes.
    pub(super) async fn reload(&self, by: Initiator) -> Result<ReloadReport, String> {
        let reload = self.reload_handle()?;
        // The config first: its settings for phases apply to new phases.
        let config = match &self.reconfigure {
            Some(reconfigure) => Some(reconfigure(by.clone()).await),
            None => None,
        };
        let report = reload.reload().await.map_or_else(going_down, Ok)?;
        let words = format!("scanned the drop-in folder: {} changes", report.events.len());
        self.sources.state.journal.record(NewRecord::new(by, ActionKind::Reload, words));
        Ok(ReloadReport { config, ..report })
    }

    /// Makes changes in the drop-in folder wait, for `time` or until a reload is ordered.
    pub(super) async fn hold(&self, time: Duration) -> Result<ReloadHold, String> {
        let reload = self.reload_handle()?;
        reload.hold(time).await;
        let folder = std::path::absolute(reload.folder()).map_err(|error| error.to_string())?;
        Ok(ReloadHold { folder })
    }

    fn reload_handle(&self) -> Result<&ReloadHandle, String> {
        let none = "this node has no folder for phases; name one with --phases or guests.dir";
        self.sources.reload.as_ref().ok_or_else(|| none.to_owned())
    }

    /// Lets a phase run again, even after many failures, and lets its failed bytes be tried again.
    pub(super) async fn resume(&self, phase: String, by: Initiator) -> Result<ResumeAnswer, String> {
        let ticker = self.ticker()?;
        if let Some(reload) = &self.sources.reload {
            reload.forgive(&phase).await;
        }
        change(ticker, phase, by, Cycle::resume_by).await
    }

    /// Stops a phase until it is resumed.
    pub(super) async fn pause(&self, phase: String, by: Initiator) -> Result<ResumeAnswer, String> {
        change(self.ticker()?, phase, by, Cycle::pause_by).await
    }

    /// Runs one phase in a separate beat.
    pub(super) async fn run_now(&self, phase: &str, by: Initiator) -> Result<Arc<BeatReport>, String> {
        let report = self.ticker()?.run_now(phase).await.map_err(|error| error.to_string())?;
        let failed = report.runs.iter().find_map(|run| run.words.clone());
        self.sources.state.journal.record(NewRecord {
            phase: Some(phase.into()),
            outcome: failed.map_or(Outcome::Applied, Outcome::Failed),
            ..NewRecord::new(by, ActionKind::RunNow, format!("{phase} was run"))
        });
        Ok(report)
    }

    fn ticker(&self) -> Result<&TickerHandle, String> {
        self.ticker.as_ref().ok_or_else(|| "this node has no ticker".to_owned())
    }

    /// The live connections; lists at most `limit` of them. O(slots ever used).
    pub fn peers(&self, limit: usize) -> Peers {
        let rows = self.sources.state.pool.freeze();
        let peers = self.rows(&rows, 0..rows.len().min(limit));
        Peers { total: rows.len(), peers }
    }

    pub(super) fn rows(&self, rows: &PeerRows, which: impl IntoIterator<Item = usize>) -> Vec<Peer> {
        let pool = &self.sources.state.pool;
        let now = self.sources.state.clock.coarse();
        let (seen, since) = (pool.freeze_last_seen(rows), pool.freeze_connected_at(rows));
        let (rtt, measured) = (pool.freeze_rtt(rows), pool.freeze_rtt_measured(rows));
        let traffic = pool.freeze_traffic(rows);
        let breakers = self.sources.traffic.as_ref().map(|report| report.breakers()).unwrap_or_default();
        let peers = which.into_iter().filter_map(|row| {
            let (key, word) = (rows.key(row), rows.words()[row]);
            // Omit a connection that has ended while another one has taken its slot.
            let name = pool.name(key)?;
            Some(Peer {
                id: name.id,
                address: name.address,
                direction: if word.inbound() { Direction::Inbound } else { Direction::Outbound },
                conn: key.conn,
                health: word.health(),
                idle_s: now.seconds_since(CoarseInstant(seen[row])),
                age_s: now.seconds_since(CoarseInstant(since[row])),
                rtt_us: Some(rtt[row]).filter(|rtt| *rtt != u32::MAX),
                rtt_age_s: (rtt[row] != u32::MAX).then(|| now.seconds_since(CoarseInstant(measured[row]))),
                pings_lost: word.pings_lost(),
                protected: word.protected(),
                kib_in: traffic[row].kib_in,
                kib_out: traffic[row].kib_out,
                kib_queued: traffic[row].kib_queued,
                breakers: breakers
                    .iter()
                    .filter(|breaker| breaker.peer == name.id)
                    .map(|breaker| (Arc::clone(&breaker.kind), breaker.state))
                    .collect(),
                agent: name.agent,
            })
        });
        peers.collect()
    }

    /// Whether the ticker advances. If not, a restart of the process helps.
    pub fn alive(&self) -> Health {
        let from = &self.sources;
        let overdue = from.pulse.overdue(from.started, from.state.clock.mono());
        let interval_s = from.pulse.interval().as_secs_f32();
        let late = |ago: Duration| {
            format!("no tick has ended for {} s, with an interval of {interval_s} s", ago.as_secs())
        };
        Health { ok: overdue.is_none(), why: overdue.map(late).into_iter().collect() }
    }

    /// Whether the node does its work.
    pub fn ready(&self) -> Health {
        let mut why = self.alive().why;
        if self.sources.pulse.finished() == 0 {
            why.push("the first tick has not ended".to_owned());
        }
        let NodeState { pool, book, .. } = &self.sources.state;
        if self.sources.pulse.finished() > 0 && pool.live() == 0 && book.is_empty() {
            why.push(
                "no peer is connected, and there is no address to dial; name a node in net.bootstrap"
                    .to_owned(),
            );
        }
        if self.sources.phases.stuck() >= MOST_STUCK {
            why.push(format!(
                "{MOST_STUCK} runs of native phases have not returned, so no native phase runs, built-in ones included"
            ));
        }
        for phase in self.sources.phases.read().iter().filter(|phase| &*phase.kind == "built-in") {
            if phase.state == PhaseState::Stuck {
                why.push(format!("phase {} is stuck in a run that has not returned", phase.name));
            } else if phase.skipped_in_row >= FAILURES_TOLERATED {
                let error = phase.last_error.as_deref().unwrap_or("see the journal");
                why.push(format!(
                    "phase {} did not run {} times in a row: {error}",
                    phase.name, phase.skipped_in_row
                ));
            } else if phase.failures_in_row >= FAILURES_TOLERATED {
                let error = phase.last_error.as_deref().unwrap_or("see the journal");
                why.push(format!(
                    "phase {} failed {} times in a row: {error}",
                    phase.name, phase.failures_in_row
                ));
            }
        }
        why.extend(self.sources.disk.troubles().iter().map(ToString::to_string));
        Health { ok: why.is_empty(), why }
    }
}
