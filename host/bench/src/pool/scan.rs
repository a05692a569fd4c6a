//! Finding peers that were silent for too long, as the reaper does: freeze, idle times, select.

use std::sync::Arc;
use std::time::{Duration, Instant};

use groundskeeper::book::{Book, BookLimits};
use groundskeeper::broadcasts::{BroadcastLimits, Broadcasts};
use groundskeeper::cycle::{SilenceCount, Thresholds, TickSnapshot};
use groundskeeper::engine::PhaseView;
use groundskeeper::node::NodeState;
use groundskeeper_sdk::column::{Peer, peer};
use groundskeeper_sdk::host::{Frozen, View};
use groundskeeper_sdk::span::Span;
use tokio::runtime::Builder;

use super::GROUP;
use crate::Effort;
use crate::ours::{Filled, Kind, kind};
use crate::report::{Reach, Report, Row};
use crate::rounds::{Sample, medians, nanos, used};
use crate::seeds::{OneMap, SeedPool, ThreeMaps, ip};

const STALE_AFTER: Duration = Duration::from_secs(90);
/// The limit of a phase in one run.
const MOST: u32 = 4096;

/// The source of a frame: the pool, with nothing in the other tables.
pub struct Still {
    state: NodeState,
}

impl Still {
    pub fn new(ours: &Filled) -> Self {
        let Filled { pool, clock, journal, .. } = ours;
        let state = NodeState {
            pool: Arc::clone(pool),
            book: Book::new(BookLimits::default(), Arc::clone(clock), Arc::clone(journal)),
            broadcasts: Arc::new(Broadcasts::new(BroadcastLimits::default())),
            journal: Arc::clone(journal),
            clock: Arc::clone(clock),
        };
        Self { state }
    }

    pub fn frame(&self) -> Arc<TickSnapshot> {
        let thresholds =
            Thresholds { healthy_above: 30, least: 5, most: u32::MAX, stale_after: Duration::from_secs(90) };
        TickSnapshot::take(&self.state, thresholds, self.state.clock.coarse(), SilenceCount::default())
    }
}

/// The view of `frame` that a phase gets.
pub fn view(frame: &Arc<TickSnapshot>) -> View {
    let view = PhaseView::new(Arc::clone(frame), Arc::default(), None);
    View::new(Arc::new(view) as Arc<dyn Frozen>)
}

pub fn run(effort: &Effort, report: &mut Report) {
    let rounds = effort.choose(31, 9);
    let runtime = Builder::new_current_thread().build().expect("a runtime without drivers");
    for (peers, earlier_one, earlier_three) in
        [(1_000, 4.0, 4.2), (100_000, 2_063.0, 446.0), (1_000_000, 33_741.0, 12_616.0)]
    {
        if peers == 1_000_000 && effort.choose(false, true) {
            continue;
        }
        let ours = Filled::new(peers);
        ours.spread(Duration::from_secs(40), Duration::from_secs(100));
        let still = Still::new(&ours);
        let now = Instant::now();
        let (one, three) = runtime.block_on(async {
            let (one, three) = (OneMap::filled(peers).await, ThreeMaps::filled(peers).await);
            for peer in (0..peers).filter(|&peer| kind(peer) == Kind::Stale) {
                one.peer_seen(&ip(peer), now - Duration::from_secs(100)).await;
                three.peer_seen(&ip(peer), now - Duration::from_secs(100)).await;
            }
            (one, three)
        });
        let expected = (0..peers).filter(|&peer| kind(peer) == Kind::Stale).count();
        // Many calls in one sample: for a small pool the sample would otherwise measure the clock.
        let times = (100_000 / peers).max(1);
        let micros = |work: &dyn Fn()| {
            let begun = Instant::now();
            (0..times).for_each(|_| work());
            nanos(begun.elapsed()) / 1000.0 / times as f64
        };
        let (ours, still, one, three, runtime) = (&ours, &still, &one, &three, &runtime);
        let samples: [Sample<'_>; 6] = [
            Box::new(|| {
                micros(&|| {
                    let frame = still.frame();
                    let view = view(&frame);
                    let stale: Vec<Peer> =
                        view.peers().at_least(peer::IDLE, Span::secs(90)).most(peer::IDLE).take(MOST);
                    assert_eq!(stale.len(), expected.min(MOST as usize));
                })
            }),
            Box::new(|| micros(&|| used(ours.pool.freeze()))),
            Box::new(|| {
                let rows = ours.pool.freeze();
                micros(&|| used(ours.pool.freeze_last_seen(&rows)))
            }),
            Box::new(|| {
                let frame = still.frame();
                let view = view(&frame);
                used(view.column(peer::IDLE));
                micros(&|| used(view.peers().at_least(peer::IDLE, Span::secs(90)).count()))
            }),
            Box::new(move || {
                micros(&|| {
                    let (stale, _) = runtime.block_on(one.stale(STALE_AFTER, now));
                    assert_eq!(stale.len(), expected);
                })
            }),
            Box::new(move || {
                micros(&|| {
                    let (stale, _) = runtime.block_on(three.stale(STALE_AFTER, now));
                    assert_eq!(stale.len(), expected);
                })
            }),
        ];
        let [scan, freeze, copy, select, map, maps] = medians(rounds, samples);
        let subject = format!("{} peers, 0.1 % stale", thousands(peers));
        let row = Row::cost(GROUP, "scan for stale", &subject, scan, "us")
            .against(OneMap::NAME, map)
            .earlier(earlier_one..=earlier_one);
        report.push(if peers == 100_000 { row.reach(Reach::Times(60.0)) } else { row });
        report.push(
            Row::cost(GROUP, "scan for stale", &subject, scan, "us")
                .against("the last-seen map of three", maps)
                .earlier(earlier_three..=earlier_three),
        );
        report.push(Row::cost(GROUP, "scan: freeze alone", &subject, freeze, "us"));
        report.push(Row::cost(GROUP, "scan: copying the column alone", &subject, copy, "us"));
        report.push(Row::cost(GROUP, "scan: one pass over idle times", &subject, select, "us"));
    }
}

pub fn thousands(peers: usize) -> String {
    match peers {
        1_000_000 => "1,000,000".to_owned(),
        more if more >= 1000 => format!("{},{:03}", more / 1000, more % 1000),
        few => few.to_string(),
    }
}
