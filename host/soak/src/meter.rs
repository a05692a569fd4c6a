//! What this process holds, and whether that grows.

use std::fmt;
use std::fs;

use anyhow::{Context, Result, bail};

/// What the process holds at one moment.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sample {
    /// The tick at which it was taken.
    pub tick: u32,
    /// Resident memory in KiB.
    pub memory: u64,
    /// Mappings of the address space.
    pub maps: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    pub threads: u64,
}

impl Sample {
    /// Measures this process. Linux only; O(mappings).
    ///
    /// # Errors
    /// If `/proc` cannot be read.
    pub fn take(tick: u32) -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        Ok(Self {
            tick,
            memory: number_of(&status, "VmRSS:")?,
            maps: fs::read_to_string("/proc/self/maps")?.lines().count() as u64,
            descriptors: fs::read_dir("/proc/self/fd")?.count() as u64,
            threads: number_of(&status, "Threads:")?,
        })
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tick, memory, maps, descriptors, threads } = self;
        write!(
            f,
            "{tick:>7} {memory:>9} KiB {maps:>5} maps {descriptors:>4} descriptors {threads:>3} threads"
        )
    }
}

fn number_of(status: &str, key: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next());
    number.with_context(|| format!("/proc/self/status has no {key}"))?.parse().context("not a number")
}

/// Something that must not grow.
struct Gauge {
    name: &'static str,
    of: fn(&Sample) -> u64,
    /// What may come and go: pages of the allocator, blocking threads of the runtime, connections in their handshake.
    slack: u64,
}

const GAUGES: [Gauge; 4] = [
    Gauge { name: "KiB of memory", of: |sample| sample.memory, slack: 4096 },
    Gauge { name: "mappings", of: |sample| sample.maps, slack: 24 },
    Gauge { name: "descriptors", of: |sample| sample.descriptors, slack: 16 },
    Gauge { name: "threads", of: |sample| sample.threads, slack: 8 },
];

/// Growth from the second fifth to the last one that counts as none, in percent, beside the slack. Caches fill during
/// the first fifth.
const FLAT_PERCENT: u64 = 5;

fn median(samples: &[Sample], of: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<u64> = samples.iter().map(of).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// Compares the second fifth of `samples` with the last one.
///
/// # Errors
/// Names what has grown, and by how much. Also if there are fewer than ten samples: they say nothing.
pub fn assert_flat(samples: &[Sample]) -> Result<()> {
    if samples.len() < 10 {
        bail!("{} samples say nothing: ten are needed", samples.len());
    }
    let fifth = samples.len() / 5;
    let (early, late) = (&samples[fifth..2 * fifth], &samples[samples.len() - fifth..]);
    let mut grown = Vec::new();
    for Gauge { name, of, slack } in GAUGES {
        let (before, after) = (median(early, of), median(late, of));
        if after > before + before * FLAT_PERCENT / 100 + slack {
            grown.push(format!("{before} to {after} {name}"));
        }
    }
    if !grown.is_empty() {
        bail!("grown from the second fifth to the last: {}", grown.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(step: Sample) -> Vec<Sample> {
        let at = |n: u64| Sample {
            tick: n as u32,
            memory: 50_000 + n * step.memory,
            maps: 300 + n * step.maps,
            descriptors: 40 + n * step.descriptors,
            threads: 10 + n * step.threads,
        };
        (0..50).map(at).collect()
    }

    #[test]
    fn a_leak_of_any_kind_is_found_and_named() {
        assert_flat(&samples(Sample::default())).unwrap();
        let leaks = [
            ("KiB of memory", Sample { memory: 300, ..Sample::default() }),
            ("mappings", Sample { maps: 2, ..Sample::default() }),
            ("descriptors", Sample { descriptors: 1, ..Sample::default() }),
            ("threads", Sample { threads: 1, ..Sample::default() }),
        ];
        for (name, leak) in leaks {
            let error = assert_flat(&samples(leak)).unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
        assert!(assert_flat(&samples(Sample::default())[..9]).is_err());
    }

    #[test]
    fn an_open_file_is_a_descriptor() {
        let before = Sample::take(0).unwrap();
        let files: Vec<_> = (0..100).map(|_| fs::File::open("/proc/self/status").unwrap()).collect();
        let after = Sample::take(0).unwrap();
        drop(files);
        // Tests in other threads open and close files too.
        assert!(after.descriptors >= before.descriptors + 90, "{before} {after}");
        assert!(before.memory > 0 && before.maps > 0 && before.threads > 0);
    }
}
