//! Hands a beat to the recorder: what was frozen, who ran on what, what became of it. Everything that the cycle knows of
//! recordings is here; nothing of it changes what a phase sees or what is applied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::Frozen;
use groundskeeper_sdk::phase::Tick;

use super::World;
use super::run::BeatRun;
use super::snapshot::TickSnapshot;
use crate::engine::{NameOf, PhaseView, Run, Snapshot};
use crate::pool::Naming;
use crate::record::{Came, Moment, Recordable, RecordedRun, Recorder, RunInfo, Taking};
use crate::registry::Registered;

impl Recordable for TickSnapshot {
    fn peers(&self, column: PeerColumn) -> &[u32] {
        self.peer_column(column)
    }

    fn book(&self, column: AddressColumn) -> &[u32] {
        self.address_column(column)
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.book().addresses
    }

    fn naming(&self, row: usize) -> Option<Naming> {
        TickSnapshot::naming(self, row)
    }
}

/// The names that a phase is to see, if the beat is recorded: those of the beat's beginning, as every column is. The
/// first call of a beat freezes every column.
pub(super) fn names(
    recorder: Option<&mut Recorder>,
    world: &World,
    interval: Duration,
    run: &mut BeatRun,
) -> Option<Arc<NameOf>> {
    let recorder = recorder?;
    if run.taking.is_none() {
        let snapshot = Arc::clone(&run.snapshot) as Arc<dyn Recordable>;
        run.taking = recorder.begin(snapshot, moment(world, interval, run));
    }
    run.taking.as_ref().map(Taking::names)
}

fn moment(world: &World, interval: Duration, run: &BeatRun) -> Moment {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let thresholds = run.snapshot.thresholds();
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
        dialing: run.snapshot.dialing(),
        healthy_above: thresholds.healthy_above.into(),
        least: thresholds.least,
        most: thresholds.most,
        broadcasts: run.snapshot.broadcasts(),
    }
}

/// Notes a run before its plan is applied.
pub(super) fn ran(
    recorder: Option<&mut Recorder>,
    run: &mut BeatRun,
    (at, phase): (usize, &Registered),
    tick: Tick,
    view: &PhaseView<TickSnapshot>,
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
        before: Arc::clone(&run.changes),
        took_us: u64::try_from(ran.took.as_micros()).unwrap_or(u64::MAX),
        fuel: ran.done.cost.fuel,
        came: Came::of(&ran.done.ended),
    });
}

/// Ends the beat's record.
pub(super) fn ended(recorder: Option<&mut Recorder>, run: BeatRun) {
    if let (Some(recorder), Some(taking)) = (recorder, run.taking) {
        recorder.commit(taking, run.changes);
    }
}
