//! Passes a beat to the recorder: the snapshot, each run with its input, and the outcome. The cycle's only code about
//! recordings. It changes neither what a phase sees nor what is applied.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use groundskeeper_sdk::column::{AddressColumn, PeerColumn};
use groundskeeper_sdk::host::Frozen;
use groundskeeper_sdk::phase::Tick;

use super::BeatContext;
use super::run::{BeatRun, PhaseRunner};
use super::snapshot::TickSnapshot;
use crate::engine::beat::{BeatHeader, Recordable, RecordedOutcome, RecordedRun, RunInfo};
use crate::engine::{FinishedRun, PhaseView, Snapshot};
use crate::peer::PeerLabel;
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

    fn naming(&self, row: usize) -> Option<PeerLabel> {
        TickSnapshot::naming(self, row)
    }
}

impl PhaseRunner {
    /// Begins the beat's record before its first run. Phases then see names, like columns, as of the start of the beat.
    pub(super) fn begin_record(&mut self, run: &mut BeatRun) {
        if let Some(recorder) = &mut self.recorder
            && run.names.is_none()
        {
            let snapshot = Arc::clone(&run.snapshot) as Arc<dyn Recordable>;
            run.names = recorder.begin(snapshot, moment(&self.world, self.interval, run));
        }
    }

    /// Records a run before its plan is applied.
    pub(super) fn record_run(
        &mut self,
        run: &BeatRun,
        (at, phase): (usize, &Registered),
        tick: Tick,
        view: &PhaseView<TickSnapshot>,
        ran: &FinishedRun,
    ) {
        let Some(recorder) = self.recorder.as_mut().filter(|_| run.is_recorded()) else { return };
        let place = at as u32;
        let info = recorder.phase(&phase.name, place, &phase.spec.body, &|| RunInfo {
            name: phase.name.to_string(),
            version: phase.version.to_string(),
            kind: phase.spec.kind.to_owned(),
            place,
            digest: phase.spec.body.digest(),
            settings: phase.spec.body.settings(),
        });
        recorder.ran(RecordedRun {
            phase: info,
            tick,
            memory: view.memory(),
            before: Arc::clone(&run.changes),
            took_us: u64::try_from(ran.took.as_micros()).unwrap_or(u64::MAX),
            fuel: ran.done.cost.fuel,
            outcome: RecordedOutcome::of(&ran.done.ended),
        });
    }
}

fn moment(world: &BeatContext, interval: Duration, run: &BeatRun) -> BeatHeader {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    BeatHeader {
        tick: run.beat.tick,
        urgent: run.beat.urgent,
        late: run.late,
        skipped: run.beat.skipped,
        slept_ms: ms(run.beat.slept),
        lateness_ms: ms(run.beat.lateness),
        mono_ms: ms(world.state.clock.mono()),
        unix_ms: ms(world.state.clock.unix()),
        interval_ms: ms(interval),
        dialing: run.snapshot.dialing(),
        healthy_above: world.thresholds.healthy_above.into(),
        least: world.thresholds.least,
        most: world.thresholds.most,
        broadcasts: run.snapshot.broadcasts(),
    }
}
