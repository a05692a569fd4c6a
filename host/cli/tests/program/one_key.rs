//! Two nodes with one key, as after a copied disk image: both say so, and neither takes the other's peers without end.

use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use groundskeeper::journal::{ActionKind, Cause};
use rustix::process::Signal;

use super::processes::{PASSIVE, Proc, Setup, folder};

const WARNING: &str = "another process runs with this node's key";

/// Two peers that do not dial.
fn peers(root: &Path) -> (Vec<Proc>, Vec<SocketAddr>) {
    let start = |n| Setup { extra: PASSIVE, ..Setup::new(&root.join(format!("peer-{n}")), "30s") }.start();
    let peers: Vec<Proc> = (0..2).map(start).collect();
    let addresses = peers.iter().map(Proc::address).collect();
    (peers, addresses)
}

fn has_conflict(node: &Proc) -> bool {
    node.status()["traffic"]["key_conflict"]["signs"].as_u64().is_some_and(|signs| signs > 0)
}

fn conflicts(node: &Proc) -> usize {
    let page = node.ask(&["journal", "--what", "key-conflict"]).expect("the node answers");
    page["records"].as_array().expect("a list").len()
}

#[test]
fn two_nodes_with_one_key_warn_once_and_do_not_flap() {
    let root = folder();
    let (peers, bootstrap) = peers(root.path());
    let first =
        Setup { bootstrap: bootstrap.clone(), ..Setup::new(&root.path().join("first"), "100ms") }.start();
    first.until("it has both peers", || first.connected() == 2);
    let copy = root.path().join("second/data");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&copy).expect("our folder");
    std::fs::copy(root.path().join("first/data/node.key"), copy.join("node.key")).expect("our folder");
    let begun = Instant::now();
    let second = Setup { bootstrap, ..Setup::new(&root.path().join("second"), "100ms") }.start();
    let id = first.id();
    assert_eq!(second.id(), id);
    for node in [&first, &second] {
        node.until("it notices", || has_conflict(node));
        let shown = Command::new(env!("CARGO_BIN_EXE_groundskeeper"))
            .args(["status", "--data-dir"])
            .arg(node.folder.join("data"))
            .output()
            .expect("the binary starts");
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        assert!(shown.contains(WARNING) && shown.contains("the peer came back: 127.0.0.1:"), "{shown}");
    }
    let tick = first.tick();
    first.until("200 ticks have passed", || first.tick() >= tick + 200);
    // Each of the two returns to a peer after at least 2.5 s, then 5, 10, 20 s: half of the ordinary bounds.
    let returns = (begun.elapsed().as_secs_f64() / 2.5 + 1.0).log2().ceil() as usize;
    for peer in &peers {
        let records = peer.explain(&id);
        let replaced: Vec<_> =
            records.iter().filter(|record| record.cause == Some(Cause::Replaced)).collect();
        assert!(!replaced.is_empty() && replaced.len() <= 2 * returns + 1, "{replaced:?}");
        // From which address to which.
        let old = replaced[0].address.expect("of a connection");
        assert!(replaced[0].reason.ends_with(&format!(" replaces {old}")), "{replaced:?}");
        assert!(!has_conflict(peer));
    }
    for node in [&first, &second] {
        assert_eq!((node.log().matches(WARNING).count(), conflicts(node)), (1, 1), "{}", node.log());
    }
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)));
}

#[test]
fn a_killed_node_that_starts_again_is_no_second_one() {
    let root = folder();
    let (peers, bootstrap) = peers(root.path());
    let node_folder = root.path().join("node");
    let setup = Setup { bootstrap, ..Setup::new(&node_folder, "100ms") };
    let mut node = setup.start();
    for round in 0..4 {
        node.until("it has both peers", || node.connected() == 2);
        // In every other round the peers find the loss and the return at the same time.
        let stopped = if round % 2 == 0 { &peers[..] } else { &[] };
        stopped.iter().for_each(|peer| peer.signal(Signal::STOP));
        node.kill();
        node = setup.start();
        stopped.iter().for_each(|peer| peer.signal(Signal::CONT));
    }
    node.until("it has both peers", || node.connected() == 2);
    assert!(!has_conflict(&node) && conflicts(&node) == 0 && !node.log().contains(WARNING), "{}", node.log());
    for peer in &peers {
        let connects =
            peer.explain(&node.id()).iter().filter(|record| record.what == ActionKind::Connect).count();
        assert!(connects >= 5 && !has_conflict(peer), "{connects}");
    }
}
