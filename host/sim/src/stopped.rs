//! One peer of many stops reading: measures to the millisecond when the others get broadcasts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::SimulatedDisk;
use crate::host::{self, Machine, Tallies};
use crate::scenario::HOSTS;
use crate::weather::{Weather, bit, ip_of};

/// Fine enough to distinguish milliseconds.
const STEP: Duration = Duration::from_millis(1);
/// The same latency for every packet: turmoil draws latencies for all hosts from one source, so one packet less from
/// the stopped peer would shift those of all others.
const LATENCY: Duration = Duration::from_millis(20);
/// By then every host is connected to every other.
const MESHED: Duration = Duration::from_secs(25);
const END: Duration = Duration::from_secs(40);
/// The host that sends. The last host is the one that stops.
const SENDER: usize = 0;

/// What the last host does once the others begin to get broadcasts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Reads,
    /// It reads nothing: the queues to it fill up on all its peers.
    Stopped,
    /// It never existed.
    Absent,
}

/// When each other host got which broadcast, in milliseconds since the start, and how many queues were full.
pub fn deliveries(seed: u64, last: Kind) -> (BTreeMap<(usize, u32), u128>, u32) {
    let weather = Arc::new(Weather::new(HOSTS));
    let (ids, complaints) = (Arc::new(host::ids(seed)), Arc::new(Mutex::default()));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .simulation_duration(END * 2)
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .build();
    let machines: Vec<_> = (0..HOSTS - usize::from(last == Kind::Absent))
        .map(|host| {
            Arc::new(Machine {
                host,
                seed,
                ids: Arc::clone(&ids),
                weather: Arc::clone(&weather),
                interval: Duration::from_secs(5),
                roomy: true,
                chatty: false,
                heard: Mutex::default(),
                tallies: Arc::new(Tallies::default()),
                lives: Mutex::default(),
                disk: SimulatedDisk::new().expect("a temporary folder"),
                good: Mutex::default(),
                saved: Mutex::default(),
                wall_ms: AtomicI64::new(0),
                complaints: Arc::clone(&complaints),
            })
        })
        .collect();
    for machine in &machines {
        let machine = Arc::clone(machine);
        sim.host(ip_of(machine.host), move || host::run(Arc::clone(&machine)));
    }
    let mut begun = false;
    while sim.elapsed() < END {
        sim.step().expect("no host ends by itself");
        if sim.elapsed() >= MESHED && !begun {
            begun = true;
            let live = machines.iter().map(|machine| machine.life().expect("it runs").state.pool.live());
            let all = machines.len() as u32 - 1;
            assert!(
                live.clone().all(|live| live == all),
                "not everybody is connected: {:?}",
                live.collect::<Vec<_>>()
            );
            if last == Kind::Stopped {
                weather.set_deaf(bit(HOSTS - 1));
            }
            machines[SENDER].life().expect("it runs").say_much();
        }
    }
    assert!(complaints.lock().is_empty(), "{:?}", complaints.lock());
    let others = machines.iter().take(HOSTS - 1).filter(|machine| machine.host != SENDER);
    let heard = others.flat_map(|machine| {
        let heard = std::mem::take(&mut *machine.heard.lock());
        heard.into_iter().map(|(number, at)| ((machine.host, number), at.as_millis()))
    });
    let full = machines[SENDER].tallies.queue_full.load(std::sync::atomic::Ordering::Relaxed);
    (heard.collect(), full as u32)
}
