//! A node whose machine has no memory for its phases for a while.

use std::fs;
use std::path::Path;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;

use crate::processes::{Proc, Setup, folder};

const PHASES: [&str; 5] = ["feeler", "group-diversity", "health-decay", "stats", "topology"];

/// What a node may map more than it has: enough for everything but the memory of a guest, which reserves 4 GiB.
const HEADROOM: u64 = 512 << 20;

/// Puts a phase of the repository that runs at each tick into the drop-in folder.
fn install(name: &str, dropped: &Path) {
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    let manifest = fs::read_to_string(ready.join(format!("{name}.toml"))).unwrap();
    let lines = manifest.lines().map(|line| match line.split_once(" = ") {
        Some(("every_n_ticks", _)) => "every_n_ticks = 1",
        _ => line,
    });
    fs::copy(ready.join(format!("{name}.wasm")), dropped.join(format!("{name}.wasm"))).unwrap();
    fs::write(dropped.join(format!("{name}.toml")), lines.collect::<Vec<_>>().join("\n")).unwrap();
}

fn phase(node: &Proc, name: &str) -> Option<Value> {
    let phases = node.ask(&["phases"])?;
    phases["phases"].as_array()?.iter().find(|phase| phase["name"] == name).cloned()
}

fn count(node: &Proc, name: &str, key: &str) -> u64 {
    phase(node, name).and_then(|phase| phase[key].as_u64()).unwrap_or(0)
}

/// Limits what the node may map to what it maps now and `more`; `None` lifts the limit.
fn limit_memory(node: &Proc, more: Option<u64>) {
    let pid = node.child.id();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mapped = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
    let mapped: u64 = mapped.trim().trim_end_matches(" kB").parse().unwrap();
    let maximum = getrlimit(Resource::As).maximum;
    let current = more.map_or(maximum, |more| Some((mapped << 10) + more));
    let pid = Pid::from_raw(pid.cast_signed()).unwrap();
    prlimit(Some(pid), Resource::As, Rlimit { current, maximum }).expect("our own child");
}

#[test]
fn a_shortage_of_memory_quarantines_no_phase_and_rejects_none() {
    let root = folder();
    let home = root.path().join("node");
    let dropped = home.join("data/phases.d");
    fs::create_dir_all(&dropped).unwrap();
    PHASES.iter().for_each(|name| install(name, &dropped));
    let node = Setup::new(&home, "300ms").start();
    node.until("each phase runs", || PHASES.iter().all(|name| count(&node, name, "runs") > 0));

    limit_memory(&node, Some(HEADROOM));
    node.until("each phase is skipped", || PHASES.iter().all(|name| count(&node, name, "skipped") > 1));
    install("partition-watch", &dropped);
    node.until("the newcomer waits", || {
        phase(&node, "partition-watch").is_some_and(|phase| phase["state"] == "pending")
    });

    limit_memory(&node, None);
    let before: Vec<u64> = PHASES.iter().map(|name| count(&node, name, "runs")).collect();
    node.until("each phase runs again", || {
        PHASES.iter().zip(&before).all(|(name, before)| count(&node, name, "runs") > *before)
    });
    node.until("the newcomer runs", || count(&node, "partition-watch", "runs") > 0);
    for name in PHASES {
        let phase = phase(&node, name).expect("registered");
        assert_eq!(phase["failures"], 0, "{phase}");
        let state = phase["state"].as_str().unwrap();
        assert!(matches!(state, "active" | "probation"), "{phase}");
    }
    assert_eq!(node.stop(), Some(0));
}
