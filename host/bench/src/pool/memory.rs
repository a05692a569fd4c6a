//! Bytes that a connection costs before it has sent or received anything.

use std::sync::Arc;

use groundskeeper::journal::{ActionKind, Initiator, NewRecord};
use groundskeeper::peer::PeerId;
use groundskeeper::pool::{Link, Pool, PoolLimits, Slot};
use groundskeeper_sdk::column::peer;
use tokio::runtime::Builder;

use super::GROUP;
use super::scan::{Still, thousands, view};
use crate::Effort;
use crate::alloc::held_by;
use crate::ours::{Filled, HourAhead, Quiet, Rings, attach, journal};
use crate::report::{Reach, Report, Row};
use crate::rounds::used;
use crate::seeds::{OneMap, SeedPool, ThreeMaps, dashmap};

/// The column of handles through which the pool reaches connections.
const HANDLE: f64 = size_of::<Option<Arc<dyn Link>>>() as f64;

/// A node's default. Its counters cost most when every peer is alone in its group, as here.
const PER_GROUP: u32 = 64;

pub fn run(effort: &Effort, report: &mut Report) {
    for (peers, earlier_one, earlier_three, earlier_dash) in
        [(1_000, 248.0, 301.0, 200.0), (100_000, 159.0, 193.0, 127.0), (1_000_000, 254.0, 308.0, 203.0)]
    {
        if peers == 1_000_000 && effort.choose(false, true) {
            continue;
        }
        let each = |bytes: usize| bytes as f64 / peers as f64;
        let runtime = Builder::new_current_thread().build().expect("a runtime without drivers");
        let ours = each(pool(peers, PER_GROUP));
        let uncounted = each(pool(peers, u32::MAX));
        let (one, map) = held_by(|| runtime.block_on(OneMap::filled(peers)));
        drop(map);
        let (three, maps) = held_by(|| runtime.block_on(ThreeMaps::filled(peers)));
        drop(maps);
        let (dash, map) = held_by(|| dashmap(peers));
        drop(map);
        let measure = "bytes per connection";
        let subject = format!("{} peers, pool made for as many", thousands(peers));
        let row = |subject: &str, value| Row::cost(GROUP, measure, subject, value, "B");
        report.push(
            row(&subject, ours)
                .against(OneMap::NAME, each(one))
                .earlier(earlier_one..=earlier_one)
                .reach(Reach::AtMost(80.0))
                .note(format!("{HANDLE} B of it the handle to the connection; without the journal's rings")),
        );
        report.push(row(&format!("{subject}, without the handles"), ours - HANDLE));
        report.push(row(&format!("{subject}, no limit per network group"), uncounted));
        report.push(
            row(&subject, ours).against(ThreeMaps::NAME, each(three)).earlier(earlier_three..=earlier_three),
        );
        report.push(row(&subject, ours).against("dashmap", each(dash)).earlier(earlier_dash..=earlier_dash));
        let filled = Filled::new(peers);
        let still = Still::new(&filled);
        let (bytes, frame) = held_by(|| {
            let frame = still.frame();
            let view = view(&frame);
            // The columns that the built-ins read while there are enough connections.
            used(view.column(peer::IDLE));
            (frame, view)
        });
        drop(frame);
        let subject = format!("{} peers", thousands(peers));
        report.push(
            Row::cost(GROUP, "the view's transient bytes per connection", subject, each(bytes), "B")
                .note("rows and idle times; given back at the end of the beat"),
        );
    }
    report.push(
        Row::cost(GROUP, "bytes of the owner's end", "a slot", size_of::<Slot>() as f64, "B")
            .note("in the owner's own state, not in the pool"),
    );
}

/// Bytes of a pool with `peers` connected peers, without the ends that the owners hold.
fn pool(peers: usize, per_group: u32) -> usize {
    let clock = HourAhead::new();
    let journal = journal(clock.clone(), Rings::Tiny);
    let link: Arc<dyn Link> = Arc::new(Quiet);
    let mut slots = Vec::with_capacity(peers);
    // Makes the journal's rings allocate their minimum now, so that it is not counted.
    for what in [ActionKind::Connect, ActionKind::Ban] {
        journal.record(NewRecord::new(Initiator::Host, what, "accepted"));
    }
    let (bytes, pool) = held_by(|| {
        let limits = PoolLimits { per_group, ..PoolLimits::only_capacity(peers as u32) };
        let pool = Pool::new(PeerId::from_bytes([0; 32]), limits, clock, Arc::clone(&journal));
        slots.extend((0..peers).map(|peer| attach(&pool, peer, &link)));
        pool
    });
    drop((slots, pool));
    bytes
}
