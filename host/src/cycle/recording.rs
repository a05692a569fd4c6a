//! Hands a beat to the recorder: what was frozen, who ran on what, what became of it. Everything that the cycle knows of
//! recordings is here; nothing of it changes what a phase sees or what is applied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::host::Frozen;
use groundskeeper_sdk::phase::Tick;

use super::frame::Frame;
use super::view::{Overlay, PhaseView};
use super::{BeatRun, Tally, World};
use crate::engine::Run;
use crate::pool::Naming;
use crate::record::{Came, Changes, Fate, Moment, RecordedRun, Recorder, RunInfo, Snapshot};
use crate::registry::Registered;

impl Snapshot for Frame {
    fn peers(&self, place: usize) -> &[u32] {
        self.peer_column(place)
    }

    fn book(&self, place: usize) -> &[u32] {
        self.book_column(place)
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.book().addresses
    }

    fn naming(&self, row: usize) -> Option<Naming> {
        Frame::naming(self, row)
    }
}

impl From<&Overlay> for Changes {
    fn from(overlay: &Overlay) -> Self {
        Self {
            closed: overlay.closed.iter().copied().collect(),
            health: overlay.health.iter().map(|(&row, &health)| (row, health)).collect(),
            protected: overlay.protected.iter().copied().collect(),
            dialed: overlay.dialed.iter().copied().collect(),
        }
    }
}

/// The view that a phase gets. With a recorder, the first one of a beat freezes every column.
pub(super) fn watched(
    recorder: Option<&mut Recorder>,
    world: &World,
    interval: Duration,
    run: &mut BeatRun,
    view: &Arc<PhaseView>,
) -> Arc<dyn Frozen> {
    let view = Arc::clone(view) as Arc<dyn Frozen>;
    let Some(recorder) = recorder else { return view };
    if run.taking.is_none() {
        let frame = Arc::clone(&run.frame) as Arc<dyn Snapshot>;
        run.taking = recorder.begin(frame, moment(world, interval, run));
    }
    match &run.taking {
        Some(taking) => taking.watch(view),
        None => view,
    }
}

fn moment(world: &World, interval: Duration, run: &BeatRun) -> Moment {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let thresholds = run.frame.thresholds();
    Moment {
        tick: run.beat.tick,
        urgent: run.beat.urgent,
        late: run.late,
        skipped: run.beat.skipped,
        slept_ms: ms(run.beat.slept),
        lateness_ms: ms(run.beat.lateness),
        mono_ms: ms(world.clock.mono()),
        unix_ms: ms(world.clock.unix()),
        interval_ms: ms(interval),
        dialing: run.frame.dialing(),
        healthy_above: thresholds.healthy_above.into(),
        least: thresholds.least,
        most: thresholds.most,
        broadcasts: run.frame.broadcasts(),
    }
}

/// Notes a run before its plan is applied.
pub(super) fn ran(
    recorder: Option<&mut Recorder>,
    run: &mut BeatRun,
    (at, phase): (usize, &Registered),
    tick: Tick,
    view: &PhaseView,
    ran: &Run,
) {
    let (Some(recorder), Some(taking)) = (recorder, &mut run.taking) else { return };
    let place = at as u32;
    let info = recorder.phase(&phase.name, place, &phase.body, || RunInfo {
        name: phase.name.to_string(),
        version: phase.version.to_string(),
        kind: phase.kind.to_owned(),
        place,
        digest: phase.body.digest(),
        settings: phase.body.settings(),
    });
    taking.ran(RecordedRun {
        phase: info,
        tick,
        memory: view.memory(),
        before: Arc::new(Changes::from(&*run.overlay)),
        took_us: u64::try_from(ran.took.as_micros()).unwrap_or(u64::MAX),
        fuel: ran.done.cost.fuel,
        came: Came::of(&ran.done.ended),
    });
}

/// Ends the beat's record.
pub(super) fn ended(recorder: Option<&mut Recorder>, run: BeatRun) {
    if let (Some(recorder), Some(taking)) = (recorder, run.taking) {
        recorder.commit(taking, Arc::new(Changes::from(&*run.overlay)));
    }
}

/// What became of one ask, by what was counted when it was applied.
pub(super) fn fate(before: &Tally, after: &Tally) -> Fate {
    if after.void > before.void {
        Fate::Void
    } else if after.refused > before.refused {
        Fate::Refused
    } else if after.shadow > before.shadow {
        Fate::Shadow
    } else {
        Fate::Applied
    }
}
