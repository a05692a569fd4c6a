//! Takes samples: interleaved rounds, medians, threads pinned to cores. Independent of the measured thing.

use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use nix::unistd::Pid;

/// One of the things measured in turn: takes one sample.
pub type Sample<'a> = Box<dyn FnMut() -> f64 + 'a>;

/// A sample during which the system preempted the thread is repeated, at most this many times.
const TRIES: usize = 8;

/// Takes `rounds` samples of each in turn and returns the median of each. The first round is not counted.
///
/// Taking turns spreads a disturbance or a slower clock of the machine evenly.
pub fn medians<const N: usize>(rounds: usize, mut samples: [Sample<'_>; N]) -> [f64; N] {
    let mut taken: [Vec<f64>; N] = std::array::from_fn(|_| Vec::with_capacity(rounds));
    for round in 0..=rounds {
        for at in 0..N {
            // Another one is first in each round: after a large one, caches are cold.
            let at = (at + round) % N;
            let value = undisturbed(&mut samples[at]);
            if round > 0 {
                taken[at].push(value);
            }
        }
    }
    taken.map(median)
}

/// The first sample without an involuntary context switch in this process, or the least disturbed of a few.
fn undisturbed(sample: &mut Sample<'_>) -> f64 {
    let mut best = (i64::MAX, f64::NAN);
    for _ in 0..TRIES {
        let before = preemptions(UsageWho::RUSAGE_SELF);
        let value = sample();
        let disturbed = preemptions(UsageWho::RUSAGE_SELF) - before;
        if disturbed < best.0 {
            best = (disturbed, value);
        }
        if disturbed == 0 {
            break;
        }
    }
    best.1
}

/// Number of preemptions by the system so far.
pub fn preemptions(whose: UsageWho) -> i64 {
    getrusage(whose).map_or(0, |usage| usage.involuntary_context_switches())
}

/// CPU time of this process so far in microseconds: all threads, and the system's work for them.
pub fn cpu_micros() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("a process may ask for its own usage");
    let micros = |time: TimeVal| time.tv_sec() as f64 * 1e6 + time.tv_usec() as f64;
    micros(usage.user_time()) + micros(usage.system_time())
}

pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Nanoseconds per operation of `ops` operations done by `work`.
pub fn per_op(ops: usize, work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    nanos(begun.elapsed()) / ops as f64
}

pub fn nanos(time: Duration) -> f64 {
    time.as_nanos() as f64
}

/// Pins the calling thread to core `core`. Returns whether that worked.
pub fn pin(core: usize) -> bool {
    let mut set = CpuSet::new();
    set.set(core).is_ok() && sched_setaffinity(Pid::from_raw(0), &set).is_ok()
}

/// Pins each thread of a runtime to another core: for `on_thread_start`.
pub fn pin_in_turn(cores: usize) -> impl Fn() + Send + Sync + 'static {
    let next = AtomicUsize::new(0);
    move || {
        pin(next.fetch_add(1, Ordering::Relaxed) % cores);
    }
}

/// Why two threads cannot be pinned to two cores; None if they can.
pub fn why_not_pinned() -> Option<&'static str> {
    let both = std::thread::scope(|scope| {
        [0, 1].map(|core| scope.spawn(move || pin(core))).map(|thread| thread.join().unwrap_or(false))
    });
    (both != [true, true]).then_some("threads not pinned: fewer than two cores for this process")
}

/// Two threads, each pinned to a core, do `ops` operations each at the same time. Returns nanoseconds of wall time per
/// operation of both together: threads that do not disturb each other need half of the time of one.
pub fn two_threads(ops: usize, work: impl Fn(usize) + Sync) -> f64 {
    let ready = AtomicUsize::new(0);
    let spans = std::thread::scope(|scope| {
        let threads = [0, 1].map(|core| {
            let (ready, work) = (&ready, &work);
            scope.spawn(move || {
                pin(core);
                ready.fetch_add(1, Ordering::SeqCst);
                // Spinning: a thread that must be woken starts late.
                while ready.load(Ordering::SeqCst) < 2 {
                    spin_loop();
                }
                let begun = Instant::now();
                work(core);
                (begun, Instant::now())
            })
        });
        threads.map(|thread| thread.join().expect("nothing in a sample panics"))
    });
    let begun = spans[0].0.min(spans[1].0);
    let ended = spans[0].1.max(spans[1].1);
    nanos(ended - begun) / (2 * ops) as f64
}

/// `count` indices below `below`, in an order that a prefetcher cannot guess.
pub fn scattered(count: usize, below: usize, seed: u64) -> Vec<u32> {
    (0..count as u64).map(|at| (mix(at ^ seed << 32) % below as u64) as u32).collect()
}

/// Scrambles a number: splitmix64's last step.
pub fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ value >> 31
}

/// Keeps the compiler from removing an unused result.
pub fn used<T>(value: T) {
    black_box(value);
}
