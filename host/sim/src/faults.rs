//! The faults of a run and their times, drawn from the seed before the run begins. Applies none itself.

use std::time::Duration;

use groundskeeper_sdk::rng::Rng;

use crate::disk::Writes;
use crate::scenario::HOSTS;
use crate::weather::{Mask, bit};

/// How packets between two sides are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum How {
    /// Packets wait and arrive after the fault: the effect of TCP's retransmissions over a short cut.
    Held,
    /// They are lost. Connections that lost some stay mute after the fault: a path that has forgotten them.
    Dropped,
}

/// How a host stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    /// It says goodbye to every peer.
    Orderly,
    /// The process ends; its system closes the sockets.
    Killed,
    /// No peer gets any notice.
    PowerLoss,
}

/// One fault. `side` is one of two sides; the fault affects all links between it and the other hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Split {
        side: Mask,
        how: How,
    },
    /// No host reaches any other.
    Apart {
        how: How,
    },
    /// Nothing from `side` reaches the rest; everything else does.
    OneWay {
        side: Mask,
    },
    /// Some packets are lost: TCP stops for the time of a retransmission, and rarely gives up a connection.
    Lossy {
        side: Mask,
    },
    /// Packets take up to `latency`.
    Far {
        side: Mask,
        latency: Duration,
    },
    /// It does not read from its sockets.
    Deaf {
        host: usize,
    },
    /// All connections between the sides break at once.
    Break {
        side: Mask,
    },
    Down {
        host: usize,
        exit: Exit,
        keeps_book: bool,
    },
    /// Its wall clock jumps by this many milliseconds.
    WallStep {
        host: usize,
        by_ms: i64,
    },
    /// The wall clock of its next process is off by this many milliseconds: a week or years off, or a machine without a
    /// battery that starts in 1970.
    WallAtStart {
        host: usize,
        by_ms: i64,
    },
    /// Its boot clock has advanced by `time` and its monotonic clock has not. The others have not noticed.
    Suspend {
        host: usize,
        time: Duration,
    },
    /// What it saves fails or does not return.
    Disk {
        host: usize,
        writes: Writes,
    },
    /// It did not run for `time` by its own clock. The others have not noticed.
    Stall {
        host: usize,
        time: Duration,
    },
}

/// A fault with its begin and end, in time since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trouble {
    pub(crate) from: Duration,
    pub(crate) until: Duration,
    pub(crate) fault: Fault,
}

pub(crate) fn everybody() -> Mask {
    bit(HOSTS) - 1
}

impl Fault {
    /// Hosts that need not be connected meanwhile. Of two sides this is the smaller one, or both if it is not small.
    pub(crate) fn troubles(&self) -> Mask {
        match *self {
            Self::Split { side, .. }
            | Self::OneWay { side }
            | Self::Lossy { side }
            | Self::Far { side, .. } => {
                let rest = everybody() & !side;
                let smaller = if side.count_ones() <= rest.count_ones() { side } else { rest };
                if smaller.count_ones() < HOSTS as u32 / 3 { smaller } else { everybody() }
            }
            Self::Apart { .. } => everybody(),
            Self::Deaf { host }
            | Self::Down { host, .. }
            | Self::WallStep { host, .. }
            | Self::Suspend { host, .. }
            | Self::Stall { host, .. } => bit(host),
            Self::Break { .. } | Self::WallAtStart { .. } | Self::Disk { .. } => 0,
        }
    }
}

/// Draws the faults between `from` and `until`; all are over by `until`.
pub(crate) fn draw(random: &mut Rng, from: Duration, until: Duration) -> Vec<Trouble> {
    let count = 5 + random.below(6);
    let mut troubles: Vec<Trouble> = (0..count).map(|_| draw_one(random, from, until)).collect();
    if random.below(2) == 0 {
        // The last fault lasts until the end, and long enough that connections were given up.
        let how = if random.below(3) == 0 { How::Held } else { How::Dropped };
        let fault = match random.below(3) {
            0 => Fault::Apart { how },
            1 => Fault::Split { side: half(random), how },
            _ => Fault::Split { side: bit(random.below(HOSTS as u64) as usize), how },
        };
        let lasts = Duration::from_millis(130_000 + random.below(170_000));
        troubles.push(Trouble { from: until - lasts, until, fault });
    }
    troubles.sort_by_key(|trouble| trouble.from);
    // A host that is down cannot go down again.
    let mut down: Vec<(usize, Duration)> = Vec::new();
    troubles.retain(|trouble| {
        let Fault::Down { host, .. } = trouble.fault else { return true };
        let free = !down.iter().any(|(other, until)| *other == host && trouble.from <= *until + MARGIN);
        if free {
            down.push((host, trouble.until));
        }
        free
    });
    troubles
}

/// Steps of the wall clock by up to ten years in either direction, and wall clocks of processes that start later. Drawn
/// apart from the other faults, which are the same with and without these.
pub(crate) fn draw_clocks(random: &mut Rng, from: Duration, until: Duration) -> Vec<Trouble> {
    let room = (until - from).as_millis() as u64;
    let draw_one = |_| {
        let at = from + Duration::from_millis(random.below(room));
        let host = random.below(HOSTS as u64) as usize;
        let years = random.below(2 * TEN_YEARS_MS) as i64 - TEN_YEARS_MS as i64;
        let fault = match random.below(4) {
            0 | 1 => Fault::WallStep { host, by_ms: years },
            2 => Fault::WallAtStart { host, by_ms: i64::MIN },
            _ => Fault::WallAtStart { host, by_ms: WEEK_MS },
        };
        Trouble { from: at, until: at, fault }
    };
    (0..CLOCK_FAULTS).map(draw_one).collect()
}

/// Disks that fail or hang. Drawn apart from the other faults, as the clocks are.
pub(crate) fn draw_disks(random: &mut Rng, from: Duration, until: Duration) -> Vec<Trouble> {
    let room = (until - from).as_millis() as u64;
    let draw_one = |_| {
        let begin = from + Duration::from_millis(random.below(room));
        let host = random.below(HOSTS as u64) as usize;
        let writes = if random.below(2) == 0 { Writes::Fail } else { Writes::Hang };
        let lasts = Duration::from_millis(DISK_MS.0 + random.below(DISK_MS.1 - DISK_MS.0));
        Trouble { from: begin, until: (begin + lasts).min(until), fault: Fault::Disk { host, writes } }
    };
    (0..DISK_FAULTS).map(draw_one).collect()
}

const DISK_FAULTS: usize = 8;
/// The shortest and the longest: less than a tick, and several.
const DISK_MS: (u64, u64) = (10_000, 200_000);

const CLOCK_FAULTS: usize = 8;
const TEN_YEARS_MS: u64 = 10 * 366 * 86_400_000;
const WEEK_MS: i64 = 7 * 86_400_000;

/// Minimum time between two outages of one host.
const MARGIN: Duration = Duration::from_secs(2);

fn draw_one(random: &mut Rng, begin: Duration, end: Duration) -> Trouble {
    let seconds = |random: &mut Rng, least: u64, most: u64| {
        Duration::from_millis(least * 1000 + random.below((most - least) * 1000))
    };
    let room = (end - begin).as_secs();
    let from = begin + seconds(random, 0, room - 30);
    let host = random.below(HOSTS as u64) as usize;
    let how = if random.below(2) == 0 { How::Held } else { How::Dropped };
    let (fault, lasts) = match random.below(16) {
        0 | 1 => (Fault::Split { side: half(random), how }, seconds(random, 5, 240)),
        2 | 3 => (Fault::Split { side: bit(host), how }, seconds(random, 5, 240)),
        4 => {
            let side = if random.below(2) == 0 { bit(host) } else { half(random) };
            (Fault::OneWay { side }, seconds(random, 5, 200))
        }
        5 => (Fault::Lossy { side: half(random) }, seconds(random, 20, 200)),
        6 => {
            let latency = seconds(random, 0, 2) + Duration::from_millis(300);
            (Fault::Far { side: half(random), latency }, seconds(random, 20, 200))
        }
        7 | 8 => (Fault::Deaf { host }, seconds(random, 5, 200)),
        9 => (
            Fault::Break { side: if random.below(2) == 0 { bit(host) } else { half(random) } },
            Duration::ZERO,
        ),
        10..=12 => {
            let exit = [Exit::Orderly, Exit::Killed, Exit::PowerLoss][random.below(3) as usize];
            (Fault::Down { host, exit, keeps_book: random.below(2) == 0 }, seconds(random, 8, 150))
        }
        13 => {
            let by_ms = random.below(7_200_000) as i64 - 3_600_000;
            (Fault::WallStep { host, by_ms }, Duration::ZERO)
        }
        14 => (Fault::Suspend { host, time: seconds(random, 2, 20_000) }, Duration::ZERO),
        _ => (Fault::Stall { host, time: seconds(random, 1, 400) }, Duration::ZERO),
    };
    Trouble { from, until: (from + lasts).min(end), fault }
}

/// A random half of the hosts.
fn half(random: &mut Rng) -> Mask {
    let mut hosts: Vec<usize> = (0..HOSTS).collect();
    random.shuffle(&mut hosts);
    hosts[..HOSTS / 2].iter().fold(0, |mask, host| mask | bit(*host))
}
