//! One node on a paused clock: ticks of 30 s as fast as the machine computes them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use groundskeeper::clock::TokioClock;
use groundskeeper::data::DataFolder;
use groundskeeper::engine::{BuiltInPhases, Executor};
use groundskeeper::journal::JournalFile;
use groundskeeper::node::{DataOptions, DropIn, Maintenance, NodeLimits, NodeState, Options, builtins};
use groundskeeper::peer::PeerId;
use groundskeeper::reload::PhaseChange;
use tokio::sync::broadcast::error::RecvError;

use crate::crowd::{Crowd, Dials};
use crate::folder::Phases;
use crate::meter::Sample;

const INTERVAL: Duration = Duration::from_secs(30);

/// Connections of the node at once.
const CONNECTIONS: u32 = 64;

/// Samples in a run.
const SAMPLES: u32 = 100;

/// Changes of the drop-in folder in a run: a thousand in 200,000 ticks.
const TICKS_PER_CHANGE: u32 = 200;

/// Steps of the wall clock, in ticks: some ten years either way.
const TICKS_PER_WALL_STEP: u32 = 5_000;
const WALL_STEP_MS: i64 = 10 * 365 * 86_400_000;

/// A journal file that is rotated many times.
const JOURNAL_MAX: u64 = 1 << 20;

/// A run's samples, and counts that show that something happened.
#[derive(Debug)]
pub struct Soaked {
    pub samples: Vec<Sample>,
    /// Connections that ended.
    pub ended: u64,
    /// Changes of the drop-in folder that were applied.
    pub reloads: u64,
}

/// Runs about `ticks` ticks in `folder`, with churn, reloads, dials that fail and steps of the wall clock. The same `seed`
/// gives the same churn.
///
/// # Errors
/// If the node does not start, or the ticker ends early.
pub fn run(ticks: u32, folder: &Path, seed: u64) -> Result<Soaked> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build()?;
    runtime.block_on(soak(ticks, folder, seed))
}

async fn soak(ticks: u32, folder: &Path, seed: u64) -> Result<Soaked> {
    let clock = TokioClock::starting_at(Duration::from_secs(1_800_000_000));
    let journal = JournalFile::open(&folder.join("journal.jsonl"), JOURNAL_MAX)?;
    let limits = NodeLimits::for_connections(CONNECTIONS);
    let state = NodeState::new(PeerId::from_bytes([7; 32]), limits, Arc::clone(&clock) as _, Some(journal));
    let mut phases = Phases::fill(folder.join("phases.d"))?;
    let dials = Arc::new(Dials::default());
    let data = Arc::new(DataFolder::open(&folder.join("data"))?);
    phases.compile(data.artifacts())?;
    let options = Options {
        interval: INTERVAL,
        dialer: Some(Arc::clone(&dials) as _),
        executor: Executor::Inline,
        secret: seed,
        data: Some(DataOptions { folder: data, drop_in: Some(DropIn::at(folder.join("phases.d"))) }),
        ..Options::default()
    };
    let maintenance = Maintenance::start(&state, builtins(&BuiltInPhases::default()), options)?;
    let reload = maintenance.reload().context("there is a drop-in folder")?.clone();
    let mut crowd = Crowd::new(state, dials, seed);
    let mut beats = maintenance.handle().reports();
    let mut samples = Vec::new();
    let (mut next_change, mut next_step, mut next_sample) = (TICKS_PER_CHANGE, TICKS_PER_WALL_STEP, 0);
    let mut is_ahead = false;
    loop {
        let tick = match beats.recv().await {
            Ok(beat) => beat.tick,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => bail!("the ticker has ended"),
        };
        crowd.step();
        if tick >= next_sample {
            samples.push(Sample::take(tick)?);
            next_sample = tick + (ticks / SAMPLES).max(1);
        }
        if tick >= next_step {
            clock.step_wall(if is_ahead { -WALL_STEP_MS } else { WALL_STEP_MS });
            is_ahead = !is_ahead;
            next_step = tick + TICKS_PER_WALL_STEP;
        }
        if tick >= next_change {
            phases.change()?;
            reload.reload().await.context("the reloader has ended")?;
            next_change = tick + TICKS_PER_CHANGE;
        }
        if tick >= ticks {
            break;
        }
    }
    let reloads = reload.counts().of(PhaseChange::Applied);
    drop(beats);
    maintenance.stop().await.context("the ticker has ended")?;
    Ok(Soaked { samples, ended: crowd.ended, reloads })
}
