//! Cuts one host off from all packets for a while, and measures how long it takes to find the others again.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use parking_lot::Mutex;

use crate::disk::SimulatedDisk;
use crate::host::{self, Machine, Tallies};
use crate::weather::{Weather, bit, ip_of};

const STEP: Duration = Duration::from_millis(50);
const LATENCY: Duration = Duration::from_millis(50);
/// By then every host is connected to every other.
const MESHED: Duration = Duration::from_secs(100);
/// Length of the cut: longer than a mute connection is kept, plus some rounds of dials without an answer.
const CUT: Duration = Duration::from_secs(160);
/// Upper limit: a host that recovers at all takes less.
const GIVE_UP: Duration = Duration::from_secs(60);

/// Time until a cut host has a live connection again. The cut ends after 160 s plus `later`. The host knows `others`
/// other hosts, 1 to 9.
pub fn recovery(seed: u64, others: usize, later: Duration) -> Duration {
    let loner = others;
    let weather = Arc::new(Weather::new(others + 1));
    let (ids, complaints) = (Arc::new(host::ids(seed)), Arc::new(Mutex::default()));
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(STEP)
        .simulation_duration(Duration::MAX)
        .min_message_latency(LATENCY)
        .max_message_latency(LATENCY)
        .build();
    let machines: Vec<_> = (0..=others)
        .map(|host| {
            Arc::new(Machine {
                host,
                seed,
                ids: Arc::clone(&ids),
                weather: Arc::clone(&weather),
                interval: Duration::from_secs(30),
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
    let live = || machines[loner].life().map_or(0, |life| life.state.pool.live());
    let far: Vec<_> = (0..others).map(ip_of).collect();
    let set = |cut: bool| {
        (0..others).for_each(|other| weather.set_unheard(other, if cut { bit(loner) } else { 0 }));
        weather.set_unheard(loner, if cut { bit(others) - 1 } else { 0 });
    };
    let step = |sim: &mut turmoil::Sim<'static>| _ = sim.step().expect("no host ends by itself");
    while sim.elapsed() < MESHED {
        step(&mut sim);
    }
    assert_eq!(live(), others as u32, "it has not met everybody");
    set(true);
    far.iter().for_each(|other| sim.partition(*other, ip_of(loner)));
    while sim.elapsed() < MESHED + CUT + later {
        step(&mut sim);
    }
    assert_eq!(live(), 0, "it still thinks that it is connected");
    set(false);
    far.iter().for_each(|other| sim.repair(*other, ip_of(loner)));
    let healed = sim.elapsed();
    while live() == 0 && sim.elapsed() < healed + GIVE_UP {
        step(&mut sim);
    }
    assert!(complaints.lock().is_empty(), "{:?}", complaints.lock());
    sim.elapsed() - healed
}
