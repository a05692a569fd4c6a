//! A name server that never answers. Each node runs in a mount namespace with its own resolv.conf.

use std::net::UdpSocket;
use std::process::Command;

use super::processes::{PASSIVE, Setup, folder};

#[test]
fn a_dead_name_server_stops_neither_ticks_nor_answers_nor_the_end() {
    let root = folder();
    // Takes every question and answers none.
    let Ok(_dead) = UdpSocket::bind("127.0.0.9:53") else {
        eprintln!("SKIPPED: only root can be a name server; run this test as root too");
        return;
    };
    let conf = root.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 127.0.0.9\noptions timeout:30 attempts:5\n").expect("our folder");
    let hosts = root.path().join("nsswitch.conf");
    std::fs::write(&hosts, "hosts: files dns\n").expect("our folder");
    let wrapper = root.path().join("with-dead-names");
    let script = "mount --bind \"$CONF\" /etc/resolv.conf || exit 99\n\
                  if [ -e /etc/nsswitch.conf ]; then mount --bind \"$HOSTS\" /etc/nsswitch.conf || exit 99; fi\n\
                  exec \"$@\"\n";
    std::fs::write(&wrapper, script).expect("our folder");
    let mut unshare = Command::new("unshare");
    unshare.args(["-rm", "sh"]).arg(&wrapper).arg("true").env("CONF", &conf).env("HOSTS", &hosts);
    match unshare.output() {
        Ok(output) if output.status.success() => {}
        other => {
            eprintln!("SKIPPED: no mount namespace here: {other:?}");
            return;
        }
    }

    let peer = Setup { extra: PASSIVE, ..Setup::new(&root.path().join("peer"), "30s") }.start();
    let names: Vec<String> = (0..40).map(|n| format!("seed-{n}.example.com:7420")).collect();
    let node = Setup {
        bootstrap: vec![peer.address()],
        names,
        wrapper: vec!["unshare".into(), "-rm".into(), "sh".into(), wrapper.into()],
        env: vec![("CONF", conf), ("HOSTS", hosts)],
        extra: "[shutdown]\ndeadline = \"3s\"\n",
        ..Setup::new(&root.path().join("node"), "200ms")
    }
    .start();
    node.until("its numeric address is connected", || node.connected() == 1);
    node.until("it says that names hang", || node.log().contains("not resolved within"));
    let tick = node.tick();
    node.until("it ticks on", || node.tick() > tick + 5);
    let status = node.status();
    let threads = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("it runs");
    let threads = threads.lines().find_map(|line| line.strip_prefix("Threads:")).expect("its threads");
    assert!(threads.trim().parse::<u32>().expect("a number") < 40, "{threads} threads, {status}");
    assert_eq!(node.stop(), Some(0));
}
