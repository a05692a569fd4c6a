//! Nodes whose process may open few files.

use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::process::{Resource, Rlimit, prlimit};

use super::local_api::ask_socket;
use super::processes::{PASSIVE, Proc, Setup, folder, loopback};

/// All addresses if this machine has IPv6.
fn everywhere() -> SocketAddr {
    let all: SocketAddr = "[::]:0".parse().expect("a constant address");
    TcpListener::bind(all).map_or(loopback(), |_| all)
}

fn open_files(node: &Proc) -> u64 {
    let listed = std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("our own child");
    listed.count() as u64
}

fn allow_files(node: &Proc, current: u64) {
    let limit = Rlimit { current: Some(current), maximum: Some(128) };
    prlimit(Some(node.pid()), Resource::Nofile, limit).expect("our own child");
}

/// A counter of the node.
fn count(node: &Proc, series: &str) -> u64 {
    let (_, metrics) = ask_socket(&node.socket(), "/metrics");
    let value = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("no {series} in {metrics}")).parse().expect("a number")
}

const SHORT: &str = "groundskeeper_newcomers_refused_total{reason=\"shortage\"}";

#[test]
fn with_few_descriptors_peers_are_refused_and_status_and_saving_work() {
    let folder = folder();
    let extra = format!("[pool]\nmax_connections = 4096\nmax_per_group = 4096\n{PASSIVE}");
    let one = folder.path().join("one");
    let node =
        Setup { listen: everywhere(), extra: &extra, files: Some((64, 128)), ..Setup::new(&one, "1s") }
            .start();
    // Raised to the hard limit; the rest for peers is what the log says.
    assert_eq!(node.status()["pool"]["capacity"], 48);
    let log = node.log();
    assert!(log.contains("leaves room for 48 connections") && log.contains("LimitNOFILE"), "{log}");
    let at = SocketAddr::from(([127, 0, 0, 1], node.address().port()));

    let crowd: Vec<TcpStream> = (0..200).map(|_| TcpStream::connect(at).expect("it listens")).collect();
    let limit = "groundskeeper_newcomers_refused_total{reason=\"limit\"}";
    node.until("the pool is full", || count(&node, limit) >= 150);
    assert!(open_files(&node) < 100, "the reserve is free");
    drop(crowd);

    // Others in the process take the descriptors: less is left for peers, and they are refused before the last.
    node.until("the crowd has left", || node.status()["pool"]["handshaking"] == 0);
    allow_files(&node, open_files(&node) + 40);
    let _refused = TcpStream::connect(at).expect("it listens");
    node.until("the shortage is counted", || count(&node, SHORT) > 0);
    assert!(node.log().contains("raise the limit of open files"), "{}", node.log());

    // Not one is left, for as long as `until` waits between two looks.
    let before = count(&node, SHORT);
    let mut crowd = Vec::new();
    node.until("an accept has failed, and it answers again", || {
        allow_files(&node, 128);
        if count(&node, SHORT) > before {
            return true;
        }
        allow_files(&node, open_files(&node));
        crowd.push(TcpStream::connect(at).expect("it listens"));
        false
    });
    drop(crowd);

    let other = folder.path().join("two");
    let peer = Setup { bootstrap: vec![at], ..Setup::new(&other, "1s") }.start();
    peer.until("the listener is there", || peer.connected() == 1);
    let book = one.join("data/book.gk");
    node.until("the address book is saved", || book.exists());
    assert_eq!(peer.stop(), Some(0));
    assert_eq!(node.stop(), Some(0));
}
