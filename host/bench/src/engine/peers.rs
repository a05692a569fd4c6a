//! Two phases over many peers, as components and compiled in: one asks the host, one reads columns itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use groundskeeper::engine::native::Native;
use groundskeeper::engine::policy::Instance;
use groundskeeper::engine::wasm::{GuestSetup, Wasm, sha256};
use groundskeeper::engine::{BuiltIn, PhaseProgram};
use groundskeeper_sdk::host::AnyPhase;

use super::{GROUP, SLOW_PEERS, asks, guest, job, setup};
use crate::Effort;
use crate::pool::scan::thousands;
use crate::report::{Reach, Report, Row};
use crate::rounds::{medians, per_op};

const PARTITION_WATCH: &[u8] = include_bytes!("../../../../examples/ready/partition-watch.wasm");

/// Times of a run, in microseconds.
struct Taken {
    built_in: f64,
    fresh: f64,
    persistent: f64,
    library: Option<f64>,
}

pub fn run(effort: &Effort, report: &mut Report) {
    let wasm = Wasm::new(None).expect("this machine runs guests");
    let library = library();
    if let Err(why) = &library {
        eprintln!("the shared library is not measured: {why}");
    }
    for peers in [1_000, 100_000, 1_000_000] {
        let taken = measure(
            effort,
            &wasm,
            SLOW_PEERS,
            slow_peers::SlowPeers::default(),
            library.as_ref().ok().map(PathBuf::as_path),
            peers,
        );
        let reach = peers == 100_000;
        tell(report, "slow-peers", peers, &taken, reach);
    }
    let taken =
        measure(effort, &wasm, PARTITION_WATCH, partition_watch::PartitionWatch::default(), None, 100_000);
    tell(report, "partition-watch: two whole columns", 100_000, &taken, false);
}

fn tell(report: &mut Report, phase: &str, peers: usize, taken: &Taken, reach: bool) {
    let subject = format!("{phase}, {} peers", thousands(peers));
    let built_in = taken.built_in;
    let row = |how: &'static str, value: f64| {
        Row::cost(GROUP, how, subject.as_str(), value, "us").against("built in", built_in)
    };
    let times = |row: Row, most: f64| if reach { row.reach(Reach::Times(1.0 / most)) } else { row };
    let fresh = row("component, fresh store", taken.fresh);
    // The overhead of a run is constant in the number of peers: the bound is the built-in's time plus 50 us.
    report.push(if reach { fresh.reach(Reach::AtMost(built_in + 50.0)) } else { fresh });
    report.push(times(row("component, persistent", taken.persistent), 1.3));
    if let Some(library) = taken.library {
        report.push(times(row("shared library", library), 1.1));
    }
}

fn measure(
    effort: &Effort,
    wasm: &Wasm,
    module: &[u8],
    phase: impl AnyPhase + 'static,
    library: Option<&Path>,
    peers: usize,
) -> Taken {
    let rounds = effort.choose(31, 9);
    let runs = (2_000_000 / peers).clamp(3, 500);
    let job = job(peers);
    let with = |instance| GuestSetup { settings: "{}".into(), ..setup(instance) };
    let fresh = guest(wasm, module, with(Instance::Fresh));
    let persistent = guest(wasm, module, with(Instance::Persistent { max_runs: u32::MAX }));
    let built_in = BuiltIn::new(std::sync::Arc::new(phase));
    let native = library.map(|path| {
        let bytes = std::fs::read(path).expect("cargo has just built it");
        let scratch = path.parent().expect("a file in a folder");
        Native::load(path, sha256(&bytes).0, "{}".to_owned(), scratch)
            .unwrap_or_else(|error| panic!("{error}"))
    });
    let expected = asks(built_in.run(&job));
    let sample = |body: &dyn PhaseProgram| {
        per_op(runs, || (0..runs).for_each(|_| assert_eq!(asks(body.run(&job)), expected))) / 1000.0
    };
    let last: &dyn PhaseProgram = native.as_ref().map_or(&built_in, |native| native);
    let [built_in, fresh, persistent, library] = medians(
        rounds,
        [
            Box::new(|| sample(&built_in)),
            Box::new(|| sample(&fresh)),
            Box::new(|| sample(&persistent)),
            Box::new(|| sample(last)),
        ],
    );
    Taken { built_in, fresh, persistent, library: native.is_some().then_some(library) }
}

/// Builds slow-peers as a shared library, in a separate target folder: the feature changes the SDK's build.
fn library() -> Result<PathBuf, String> {
    let release = std::env::current_exe().map_err(|error| error.to_string())?;
    let target = release.parent().and_then(Path::parent).ok_or("the bench is not in a target folder")?;
    let apart = target.join("bench-native");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let status = Command::new("cargo")
        .args(["build", "--quiet", "--release", "--package", "slow-peers", "--lib"])
        .args(["--features", "groundskeeper-sdk/dylib", "--target-dir"])
        .arg(&apart)
        .current_dir(root)
        .status()
        .map_err(|error| format!("cargo: {error}"))?;
    let path = apart.join("release/libslow_peers.so");
    if status.success() && path.is_file() { Ok(path) } else { Err(format!("cargo ended with {status}")) }
}
