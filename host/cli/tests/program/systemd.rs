//! What a node says to systemd.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use crate::processes::{Setup, folder};

/// Hears what the node sends to the service manager.
struct Manager(UnixDatagram);

impl Manager {
    fn listen(at: &Path) -> Self {
        let socket = UnixDatagram::bind(at).expect("our folder");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        Self(socket)
    }

    fn next(&self) -> String {
        let mut bytes = [0; 300];
        let length = self.0.recv(&mut bytes).expect("the node says something");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    }

    fn until(&self, what: &str) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            let message = self.next();
            if message.contains(what) {
                return heard;
            }
            heard.push(message);
        }
    }
}

#[test]
fn a_node_with_long_intervals_is_ready_once_it_has_started_and_feeds_the_watchdog() {
    let home = folder();
    let at = home.path().join("notify");
    let manager = Manager::listen(&at);
    let env = vec![("NOTIFY_SOCKET", at), ("WATCHDOG_USEC", "400000".into())];
    let extra = "[phases.reaper.settings]\nstale_after = \"1h\"\n";
    let node = Setup { extra, env, ..Setup::new(home.path(), "10m") }.start();
    // The node answered before this test reads: it was ready without a tick.
    assert_eq!(manager.until("READY=1"), [] as [String; 0]);
    for _ in 0..4 {
        assert_eq!(manager.next(), "WATCHDOG=1\n");
    }
    assert_eq!(node.tick(), 0);
    assert_eq!(node.stop(), Some(0));
    manager.until("STOPPING=1");
}
