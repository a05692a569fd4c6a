//! Round-trip times between real processes: known after one tick, seen by the phases that use them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use groundskeeper::journal::{ActionKind, Cause};
use serde_json::Value;

use super::processes::{PASSIVE, Proc, Setup, folder, loopback};

/// Half of a round trip through the proxy: more than half a second in all, which is slow for every phase.
const ONE_WAY: Duration = Duration::from_millis(300);

/// A proxy to `target` that holds everything back for [`ONE_WAY`] in each direction. Its threads end with their
/// connections, at the latest with the test binary.
fn far_away(target: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(loopback()).expect("a loopback port");
    let address = listener.local_addr().expect("a bound socket");
    thread::spawn(move || {
        for near in listener.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(target) else { continue };
            let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            late(copy(&near), copy(&far));
            late(far, near);
        }
    });
    address
}

fn late(mut from: TcpStream, mut to: TcpStream) {
    let (sender, receiver) = channel::<(Instant, Vec<u8>)>();
    thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(read) = from.read(&mut bytes) {
            let piece = (Instant::now() + ONE_WAY, bytes[..read].to_vec());
            if read == 0 || sender.send(piece).is_err() {
                return;
            }
        }
    });
    thread::spawn(move || {
        for (due, bytes) in receiver {
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                break;
            }
        }
        // Fails if the other side has closed.
        _ = to.shutdown(std::net::Shutdown::Both);
    });
}

fn peers(node: &Proc) -> Vec<Value> {
    node.ask(&["peers"]).expect("the node answers")["peers"].as_array().expect("a list").clone()
}

fn of(node: &Proc, id: &str) -> Value {
    peers(node).into_iter().find(|peer| peer["id"] == id).unwrap_or_default()
}

/// Puts an example into the node's drop-in folder, with its own manifest.
fn install(node: &Proc, name: &str, grants: &str, settings: &str) {
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    let dropped = node.folder.join("data/phases.d");
    std::fs::create_dir_all(&dropped).expect("our folder");
    std::fs::copy(ready.join(format!("{name}.wasm")), dropped.join(format!("{name}.wasm")))
        .expect("our folder");
    let manifest = format!(
        "name = {name:?}\nkind = \"wasm\"\nmodule = \"{name}.wasm\"\nmode = \"enforce\"\n[grants]\npeers = true\n{grants}\n\
         [settings]\n{settings}\n"
    );
    std::fs::write(dropped.join(format!("{name}.toml")), manifest).expect("our folder");
}

#[test]
fn slow_peers_and_topology_see_who_is_far() {
    let root = folder();
    let peer = |name: &str| Setup { extra: PASSIVE, ..Setup::new(&root.path().join(name), "30s") }.start();
    let (near, far) = (peer("near"), peer("far"));
    let (near_id, far_id) = (near.id(), far.id());
    let watched = Setup {
        bootstrap: vec![near.address(), far_away(far.address())],
        extra: "[pool]\nleast = 1\n[phases.reaper.settings]\nping_after = \"1s\"\nstale_after = \"60s\"\n",
        ..Setup::new(&root.path().join("watched"), "500ms")
    }
    .start();
    watched.until("it has both", || watched.connected() == 2);
    let tick = watched.tick();
    watched.until("a tick has passed", || watched.tick() > tick);
    for peer in peers(&watched) {
        assert!(peer["rtt_us"].is_u64() && peer["rtt_age_s"].is_u64(), "{peer}");
    }
    // A proxy acknowledges by itself, so TCP knows its round trip and the pings know the peer's.
    let is_slow = |id: &str| of(&watched, id)["rtt_us"].as_u64().is_some_and(|rtt| rtt >= 500_000);
    watched.until("the far one is known to be far", || is_slow(&far_id));
    assert!(!is_slow(&near_id), "{}", of(&watched, &near_id));

    let protect = "protect = { max_active = 1, max_duration = \"1h\" }\nmetrics = true";
    install(&watched, "topology", protect, "protected = 1");
    watched.until("topology protects", || peers(&watched).iter().any(|peer| peer["protected"] == true));
    assert_eq!(
        (&of(&watched, &near_id)["protected"], &of(&watched, &far_id)["protected"]),
        (&true.into(), &false.into())
    );
    let protected = |record: &&groundskeeper::journal::Record| record.what == ActionKind::Protect;
    let records = watched.explain(&near_id);
    let reason = &records.iter().find(protected).expect("it was just protected").reason;
    assert!(reason.starts_with("among the nearest of its network group"), "{reason}");

    let disconnect = "disconnect = { max_per_tick = 1, max_per_hour = 20, min_connections_left = 1 }";
    install(&watched, "slow-peers", disconnect, "settle = \"0s\"\nkeep = 1");
    watched.until("the far one is dropped", || watched.disconnect_of(&far_id).is_some());
    let record = watched.disconnect_of(&far_id).expect("just seen");
    assert_eq!(record.cause, Some(Cause::Phase));
    assert!(record.reason.starts_with("round trip "), "{}", record.reason);
    let rtt = record.inputs.iter().find(|(name, _)| name == "rtt-us").expect("its number").1;
    assert!((500_000..u32::MAX).contains(&rtt), "{:?}", record.inputs);
    assert!(watched.disconnect_of(&near_id).is_none());
    assert_eq!(watched.stop(), Some(0));
}

#[test]
fn the_demonstration_knows_every_round_trip_after_its_first_tick() {
    let root = folder();
    let ready = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready");
    let demonstration = "exec \"$@\" --local-peers 8 --phases \"$READY\"";
    let node = Setup {
        wrapper: ["sh", "-c", demonstration, "sh"].map(Into::into).to_vec(),
        env: vec![("READY", ready)],
        ..Setup::new(root.path(), "1s")
    }
    .start();
    node.until("it has peers", || node.connected() >= 5);
    let tick = node.tick();
    node.until("a tick has passed", || node.tick() > tick);
    for peer in peers(&node) {
        assert!(peer["rtt_us"].is_u64() && peer["rtt_age_s"].is_u64(), "{peer}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
        .args(["peers", "--data-dir"])
        .arg(root.path().join("data"))
        .output()
        .expect("the binary starts");
    let table = String::from_utf8(output.stdout).expect("UTF-8");
    let column = table.find("RTT").expect("its column");
    let rows: Vec<&str> = table.lines().skip(1).filter(|line| line.contains("127.0.0.1:")).collect();
    assert!(rows.len() >= 5, "{table}");
    for row in rows {
        let cell = row[column..].split("  ").next().expect("a cell");
        assert!(cell.ends_with("s ago)"), "{table}");
    }
    assert_eq!(node.stop(), Some(0));
}
