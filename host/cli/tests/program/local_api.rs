//! The admin socket of a node in a process of its own, and those who crowd it.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use super::processes::{PASSIVE, Setup, folder};

/// Status code and body of `GET path`.
pub(super) fn ask_socket(socket: &Path, path: &str) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).expect("it listens");
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").expect("it reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("it answers");
    let code = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
    (code.expect("a status"), body.to_owned())
}

#[test]
fn status_answers_among_taps_that_never_read_slow_heads_and_silent_clients() {
    let folder = folder();
    let node = Setup { extra: PASSIVE, ..Setup::new(folder.path(), "100ms") }.start();
    let clients = |request: &str, count: usize| {
        let open = |_| {
            let mut client = UnixStream::connect(node.socket()).expect("it listens");
            client.write_all(request.as_bytes()).expect("it reads");
            client
        };
        (0..count).map(open).collect::<Vec<_>>()
    };
    let taps = clients("GET /tap HTTP/1.1\r\nhost: x\r\n\r\n", 41);
    let slow = clients("GET /status HTTP/1.1\r\nho", 100);
    let silent = clients("", 300);
    for _ in 0..5 {
        let connected = node.connected();
        assert_eq!(connected, 0);
    }
    assert!(node.ask(&["healthcheck"]).is_some());
    let log = node.log();
    let lines = log.lines().filter(|line| line.contains("turned clients of the local API away")).count();
    assert!(lines <= 3, "one line for hundreds of clients: {log}");
    drop((taps, slow, silent));
    assert_eq!(node.stop(), Some(0));
}

/// Runs `status` as the user "nobody", with or without a supplementary group. The exit code.
fn status_as_nobody(binary: &Path, socket: &Path, groups: &str) -> Option<i32> {
    let status = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", groups])
        .arg(binary)
        .args(["status", "--socket"])
        .arg(socket)
        .output()
        .expect("setpriv runs");
    status.status.code()
}

#[test]
fn a_member_of_the_sockets_group_by_supplementary_group_is_let_in_and_a_stranger_is_not() {
    let can_become = |user: &str| Command::new("setpriv").args(["--reuid", user, "true"]).status();
    if !can_become("65534").is_ok_and(|status| status.success()) {
        // Only root can be somebody else.
        return;
    }
    let folder = folder();
    let node = Setup { extra: PASSIVE, ..Setup::new(folder.path(), "1s") }.start();
    let open = std::fs::Permissions::from_mode(0o755);
    for path in [folder.path().to_owned(), node.folder.join("data")] {
        std::fs::set_permissions(path, open.clone()).expect("our folder");
    }
    std::os::unix::fs::chown(node.socket(), None, Some(4242)).expect("we are root");
    // Where that user can run it.
    let binary = folder.path().join("groundskeeper");
    std::fs::copy(env!("CARGO_BIN_EXE_groundskeeper"), &binary).expect("our folder");
    assert_eq!(status_as_nobody(&binary, &node.socket(), "--clear-groups"), Some(77));
    assert_eq!(status_as_nobody(&binary, &node.socket(), "--groups=4242"), Some(0));
    assert_eq!(node.stop(), Some(0));
}
