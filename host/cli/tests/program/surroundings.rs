//! The program among odd paths, terminals, pipes, owners, modes and networks.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, geteuid, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

const BINARY: &str = env!("CARGO_BIN_EXE_groundskeeper");

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user that owns nothing here.
const STRANGER: u32 = 54321;

/// A node without peers.
const ALONE: &str = "[node]\ninterval = \"100ms\"\n[net]\nlisten = [\"127.0.0.1:0\"]\n";

/// The program in `home`, without any of the caller's environment.
fn groundskeeper(home: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.env_clear().env("HOME", home).current_dir(home);
    command
}

fn run(home: &Path, args: &[&str]) -> Output {
    groundskeeper(home).args(args).output().expect("the binary starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().expect("a temporary folder");
    fs::write(home.path().join("node.toml"), ALONE).expect("our folder");
    home
}

/// Tests with files of another user need root, who alone can give files away.
fn is_root() -> bool {
    let is_root = geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: only root can give files to another user; run this test as root too");
    }
    is_root
}

/// A node that is stopped when dropped.
struct Running(Child);

impl Running {
    /// Starts the node of `node.toml` and waits until it answers on its socket.
    fn start(command: &mut Command, home: &Path, data: &OsStr) -> Self {
        let log = File::create(home.join("log")).expect("our folder");
        command.args(["run", "--config", "node.toml", "--data-dir"]).arg(data);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        let mut running = Self(child);
        let deadline = Instant::now() + PATIENCE;
        while !status(home, data).status.success() {
            let log = || fs::read_to_string(home.join("log")).unwrap_or_default();
            let ended = running.0.try_wait().expect("our own child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "{ended:?}: no answer; its log:\n{}",
                log()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        running
    }

    /// SIGTERM, and the exit code.
    fn stop(mut self) -> Option<i32> {
        let pid = Pid::from_raw(self.0.id().cast_signed()).expect("a process id");
        kill_process(pid, Signal::TERM).expect("our own child");
        self.0.wait().expect("our own child").code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Gone already in most tests.
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn status(home: &Path, data: &OsStr) -> Output {
    groundskeeper(home).args(["status", "--data-dir"]).arg(data).output().expect("the binary starts")
}

fn log(home: &Path) -> String {
    fs::read_to_string(home.join("log")).expect("our folder")
}

// Paths.

#[test]
fn any_bytes_in_a_path_are_a_path() {
    let home = home();
    let odd = OsString::from_vec(b"x\xff\n\x1b[31m".to_vec());
    fs::create_dir_all(home.path().join(&odd).join("phases.d")).unwrap();
    fs::set_permissions(home.path().join(&odd), Permissions::from_mode(0o750)).unwrap();
    let node = Running::start(&mut groundskeeper(home.path()), home.path(), &odd);
    for verb in ["status", "phases", "peers", "healthcheck", "reload"] {
        for json in [false, true] {
            let mut command = groundskeeper(home.path());
            if json {
                command.arg("--json");
            }
            let output = command.arg(verb).arg("--data-dir").arg(&odd).output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{verb}: {}", text(&output.stderr));
            assert!(!output.stdout.contains(&0x1b), "{verb}: {}", text(&output.stdout));
        }
    }
    assert_eq!(node.stop(), Some(0), "{}", log(home.path()));
    // Without a node, and as every flag that takes a path. 101 would be a panic.
    let cases: [&[&str]; 16] = [
        &["status", "--data-dir"],
        &["status", "--socket"],
        &["phases", "--config"],
        &["healthcheck", "--data-dir"],
        &["check"],
        &["check", "--config"],
        &["check", "--phases"],
        &["check", "--data-dir"],
        &["try", "--from-node", "--data-dir", "none"],
        &["try", "x.wasm", "--view"],
        &["try", "x.wasm", "--recording"],
        &["install", "x.wasm", "--phases"],
        &["replay"],
        &["replay", "none", "--phase"],
        &["build"],
        &["run", "--config"],
    ];
    for args in cases {
        let output = groundskeeper(home.path()).args(args).arg(home.path().join(&odd)).output().unwrap();
        let code = output.status.code().expect("an exit code");
        assert!(code != 101 && code != 2, "{args:?}: {code} {}", text(&output.stderr));
        for stream in [&output.stdout, &output.stderr] {
            assert!(!stream.contains(&0x1b), "{args:?}: {}", text(stream));
        }
    }
}

#[test]
fn what_is_no_regular_file_is_refused_by_name_in_every_verb() {
    let home = home();
    let at = |name: &str| home.path().join(name);
    for name in ["pipe.toml", "pipe.wasm"] {
        mknodat(CWD, at(name), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    }
    fs::create_dir(at("folder.toml")).unwrap();
    for name in ["large.toml", "large.wasm"] {
        File::create(at(name)).unwrap().set_len(4 << 30).unwrap();
    }
    let cases: [(&[&str], &str, i32); 12] = [
        (&["check", "pipe.toml"], "it is a named pipe, not a regular file", 78),
        (&["check", "pipe.wasm"], "it is a named pipe, not a regular file", 78),
        (&["check", "/dev/zero"], "it is a device, not a regular file", 78),
        (&["check", "folder.toml"], "it is a folder, not a regular file", 78),
        (&["check", "large.toml"], "it is too large: 4 GiB", 78),
        (&["check", "large.wasm"], "it is too large: 4 GiB", 78),
        (&["run", "--config", "pipe.toml"], "it is a named pipe, not a regular file", 78),
        (&["status", "--config", "/dev/zero"], "it is a device, not a regular file", 78),
        (&["try", "x.wasm", "--view", "pipe.toml"], "it is a named pipe, not a regular file", 1),
        (&["install", "large.wasm", "--phases", "p"], "it is too large: 4 GiB", 1),
        (&["replay", "pipe.wasm"], "it is a named pipe, not a regular file", 1),
        (&["replay", "/dev/zero"], "it is a device, not a regular file", 1),
    ];
    for (args, why, code) in cases {
        let output = run(home.path(), args);
        let said = text(&output.stdout) + &text(&output.stderr);
        assert_eq!((output.status.code(), said.matches(why).count()), (Some(code), 1), "{args:?}: {said}");
    }
}

/// Everything that `check` says about a file has one exit code, and the reason is said once.
#[test]
fn check_of_a_file_that_is_wrong_exits_78_whatever_it_is() {
    let home = home();
    fs::write(home.path().join("bad.wasm"), "no module").unwrap();
    fs::write(home.path().join("bad.toml"), "name = 1\nkind = \"wasm\"\n").unwrap();
    fs::write(home.path().join("alone.toml"), "name = \"alone\"\nkind = \"wasm\"\n").unwrap();
    fs::write(home.path().join("config.toml"), "[nod]\n").unwrap();
    for file in ["bad.wasm", "bad.toml", "alone.toml", "config.toml", "missing.wasm", "missing.toml"] {
        let output = run(home.path(), &["check", file]);
        assert_eq!(output.status.code(), Some(78), "{file}: {}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(said.ends_with(": 1 problem\n") && said.matches("No such file").count() < 2, "{said}");
        let output = run(home.path(), &["--json", "check", file]);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((report["ok"].as_bool(), output.status.code()), (Some(false), Some(78)), "{file}");
    }
}

#[test]
fn check_and_run_refuse_the_same_configs_with_the_same_problems() {
    let home = home();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/invalid");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path().canonicalize().unwrap();
        let check = groundskeeper(home.path()).arg("check").arg(&path).output().unwrap();
        let run = groundskeeper(home.path()).args(["run", "--config"]).arg(&path).output().unwrap();
        assert_eq!((check.status.code(), run.status.code()), (Some(78), Some(78)), "{}", path.display());
        let problems = |bytes: &[u8]| -> Vec<String> {
            let lines = text(bytes);
            let kept = lines.lines().filter(|line| line.starts_with(&*path.to_string_lossy()));
            kept.filter(|line| !line.ends_with(" problems") && !line.ends_with(" problem"))
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(problems(&check.stdout), problems(&run.stderr), "{}", path.display());
    }
    for flags in [&["--interval", "2m"][..], &["--phases", "nowhere"]] {
        let check = run(home.path(), &[&["check", "node.toml"], flags].concat());
        let run = run(home.path(), &[&["run", "--config", "node.toml"], flags].concat());
        assert_eq!((check.status.code(), run.status.code()), (Some(78), Some(78)), "{flags:?}");
        let said = text(&check.stdout);
        assert_eq!(said.lines().next(), text(&run.stderr).lines().next(), "{flags:?}");
    }
}

#[test]
fn without_a_home_the_folder_is_asked_for_with_73() {
    let home = home();
    for environment in
        [&[][..], &[("HOME", ""), ("XDG_STATE_HOME", "")], &[("HOME", "rel"), ("XDG_STATE_HOME", "state")]]
    {
        for args in [&["run"][..], &["status"], &["phases"], &["install", "x.wasm"], &["healthcheck"]] {
            let mut command = Command::new(BINARY);
            let command = command.args(args).env_clear().envs(environment.iter().copied());
            let output = command.current_dir(home.path()).output().unwrap();
            assert_eq!(output.status.code(), Some(73), "{args:?} {environment:?}: {}", text(&output.stderr));
            assert!(text(&output.stderr).contains("name one with --"), "{}", text(&output.stderr));
        }
    }
    assert!(!home.path().join("rel").exists() && !home.path().join("state").exists());
    let output = run(home.path(), &["check"]);
    assert_eq!(output.status.code(), Some(0), "a config needs no folder");
}

#[test]
fn a_data_folder_with_a_long_path_has_a_socket_too() {
    let home = home();
    let data: PathBuf = ["d".repeat(100), "e".repeat(100)].iter().collect();
    let node = Running::start(&mut groundskeeper(home.path()), home.path(), data.as_os_str());
    assert!(home.path().join(&data).join("admin.sock").exists());
    assert_eq!(node.stop(), Some(0), "{}", log(home.path()));
}

/// A save that empties the file first: with all defaults the next tick would come after 30 s.
#[test]
fn a_config_that_is_empty_for_a_moment_changes_nothing_unless_it_is_ordered() {
    let home = home();
    let mut command = groundskeeper(home.path());
    command.args(["--json", "run", "--config", "node.toml", "--data-dir", "data"]);
    let log_file = File::create(home.path().join("log")).unwrap();
    let mut child = command.stdout(Stdio::piped()).stderr(log_file).spawn().unwrap();
    let mut beats = BufReader::new(child.stdout.take().unwrap()).lines();
    let node = Running(child);
    let mut ticks =
        |count: usize| assert_eq!(beats.by_ref().take(count).filter(Result::is_ok).count(), count);
    ticks(2);
    for empty in ["", "# Every key of Groundskeeper with its default\n"] {
        fs::write(home.path().join("node.toml"), empty).unwrap();
        // Two seconds, and a file is read when it has been at rest for 300 ms.
        ticks(20);
        fs::write(home.path().join("node.toml"), ALONE).unwrap();
        ticks(5);
    }
    assert!(log(home.path()).contains("the config file has no key"), "{}", log(home.path()));
    fs::write(home.path().join("node.toml"), "").unwrap();
    let output = run(home.path(), &["reload", "--data-dir", "data"]);
    assert!(text(&output.stdout).contains("node.interval"), "{}", text(&output.stdout));
    assert_eq!(node.stop(), Some(0), "{}", log(home.path()));
}

// Terminals and pipes.

#[test]
fn a_command_ends_quietly_when_nobody_reads_it() {
    let home = home();
    let data = OsStr::new("data");
    let node = Running::start(&mut groundskeeper(home.path()), home.path(), data);
    for verb in ["status", "phases", "peers", "tap"] {
        let mut command = groundskeeper(home.path());
        let mut child = command
            .args([verb, "--data-dir", "data"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        if verb == "tap" {
            out.read_line(&mut String::new()).unwrap();
        }
        drop(out);
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()), "{verb}");
    }
    assert_eq!(node.stop(), Some(0));
    let mut child = groundskeeper(home.path()).arg("schema").stdout(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

/// A tap of a node in which nothing happens.
#[test]
fn a_tap_ends_when_its_reader_has_left_though_nothing_happens() {
    let home = home();
    fs::write(home.path().join("node.toml"), "[net]\nlisten = []\n[phases.reconnect]\nenabled = false\n")
        .unwrap();
    let node = Running::start(&mut groundskeeper(home.path()), home.path(), OsStr::new("data"));
    let mut tap = groundskeeper(home.path());
    let mut tap = tap.args(["tap", "--data-dir", "data"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(tap.stdout.take());
    assert_eq!(tap.wait().unwrap().code(), Some(0));
    assert_eq!(node.stop(), Some(0));
}

/// Neither a panic nor an end of the node.
#[test]
fn a_node_goes_on_when_nobody_reads_its_log() {
    let home = home();
    let mut command = groundskeeper(home.path());
    command.args(["--json", "run", "--config", "node.toml", "--data-dir", "data"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    let beats = BufReader::new(child.stdout.take().unwrap()).lines();
    let node = Running(child);
    for beat in beats.take(5) {
        assert!(beat.unwrap().contains("\"tick\""));
    }
    assert_eq!(node.stop(), Some(0));
}

/// The log of a node on a terminal that has these variables.
fn log_on_a_terminal(environment: &[(&str, &str)]) -> Vec<u8> {
    let home = home();
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let name = PathBuf::from(OsString::from_vec(ptsname(&terminal, Vec::new()).unwrap().into_bytes()));
    let open = || File::options().read(true).write(true).open(&name).unwrap();
    let mut command = groundskeeper(home.path());
    command.args(["run", "--config", "node.toml", "--data-dir", "data", "--ticks", "1"]);
    let mut child = command.envs(environment.iter().copied()).stdout(open()).stderr(open()).spawn().unwrap();
    // The other end is closed when the child has ended: reading then ends with an error.
    drop(command);
    let mut written = Vec::new();
    let mut reader = File::from(terminal);
    let mut part = [0; 4096];
    while let Ok(count @ 1..) = reader.read(&mut part) {
        written.extend_from_slice(&part[..count]);
    }
    assert!(child.wait().unwrap().success(), "{}", text(&written));
    assert!(text(&written).contains("node started"), "{}", text(&written));
    written
}

#[test]
fn colours_are_for_terminals_that_take_them() {
    assert!(log_on_a_terminal(&[("TERM", "xterm")]).contains(&0x1b));
    for environment in [&[("TERM", "dumb")][..], &[("TERM", "xterm"), ("NO_COLOR", "1")], &[]] {
        let written = log_on_a_terminal(environment);
        assert!(!written.contains(&0x1b), "{environment:?}: {}", text(&written));
    }
}

#[test]
fn no_name_of_a_file_reaches_a_terminal_raw() {
    let home = home();
    let phases = home.path().join("phases.d");
    fs::create_dir(&phases).unwrap();
    let odd = "a\x1b]0;owned\x07\u{9b}2J\u{202e}\r.toml";
    fs::write(phases.join(odd), "name = \"b\x1b\"\n").unwrap();
    fs::write(phases.join(odd.replace("toml", "wasm")), "").unwrap();
    for args in [&["check", "--phases", "phases.d"][..], &["--json", "check", "--phases", "phases.d"]] {
        let output = run(home.path(), args);
        assert_eq!(output.status.code(), Some(78));
        let said = text(&output.stdout) + &text(&output.stderr);
        assert!(said.contains("owned"), "{said}");
        let is_raw = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
        assert!(!said.chars().any(is_raw), "{said:?}");
    }
    let output = groundskeeper(home.path())
        .arg("try")
        .arg(phases.join(odd))
        .args(["--view", "none"])
        .output()
        .unwrap();
    assert!(!text(&output.stderr).chars().any(|c| c.is_control() && c != '\n'), "{:?}", text(&output.stderr));
}

// Owners and modes.

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn files_have_their_modes_whatever_the_umask() {
    for umask in ["000", "022", "077", "0777"] {
        let home = home();
        fs::write(home.path().join("node.toml"), format!("{ALONE}[journal]\nfile = \"journal.jsonl\"\n"))
            .unwrap();
        let mut command = Command::new("sh");
        let script = format!("umask {umask}; exec \"$0\" \"$@\"");
        command.args(["-c", &script, BINARY]).env_clear().env("HOME", home.path()).current_dir(home.path());
        let node = Running::start(&mut command, home.path(), OsStr::new("a/data"));
        assert_eq!(node.stop(), Some(0), "{}", log(home.path()));
        let data = home.path().join("a/data");
        for (name, expected) in
            [("", 0o750), ("lock", 0o640), ("node.key", 0o600), ("book.gk", 0o640), ("journal.jsonl", 0o600)]
        {
            assert_eq!(mode(&data.join(name)), expected, "{name} under {umask}");
        }
    }
}

#[test]
fn a_phase_that_is_installed_under_any_umask_can_be_run() {
    for umask in ["000", "022", "077", "0111"] {
        let home = home();
        drop_in(home.path(), "slow-peers");
        let script = format!("umask {umask}; exec \"$0\" install \"$1\" --data-dir data");
        let mut command = Command::new("sh");
        command.args(["-c", &script, BINARY]).arg("slow-peers.wasm").env_clear().env("HOME", home.path());
        let installed = command.current_dir(home.path()).output().unwrap();
        assert!(installed.status.success(), "{umask}: {}", text(&installed.stderr));
        for folder in ["data", "data/phases.d"] {
            assert_eq!(mode(&home.path().join(folder)), 0o750, "{folder} under {umask}");
        }
        assert_eq!(mode(&home.path().join("data/phases.d/slow-peers.toml")), 0o644, "under {umask}");
    }
}

/// Its default action is to end the process.
#[test]
fn a_limit_of_file_sizes_ends_no_node() {
    let home = home();
    let script = "ulimit -f 1; exec \"$0\" \"$@\"";
    let args = ["run", "--data-dir", "data", "--local-peers", "2", "--interval", "100ms", "--ticks", "30"];
    let mut command = Command::new("sh");
    command.args(["-c", script, BINARY]).args(args).env_clear().env("HOME", home.path());
    let ran = command.current_dir(home.path()).output().unwrap();
    let said = text(&ran.stderr);
    assert!(ran.status.code().is_some(), "{:?}: {said}", ran.status);
    assert!(said.contains("shutdown step"), "{said}");
}

/// What the system gives is too little from the start.
#[test]
fn a_node_without_enough_threads_says_so_and_ends() {
    if !is_root() {
        eprintln!("not run: only root can start a program as a user without processes");
        return;
    }
    let home = home();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    chown(home.path(), Some(STRANGER), Some(STRANGER)).unwrap();
    // The folder of the build may be closed to that user.
    let program = home.path().join("groundskeeper");
    fs::copy(BINARY, &program).unwrap();
    let script = "ulimit -p 4; exec \"$0\" run --data-dir data --ticks 1";
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&program).env_clear().env("HOME", home.path());
    command.uid(STRANGER).gid(STRANGER);
    let ran = command.current_dir(home.path()).output().unwrap();
    let said = text(&ran.stderr);
    assert_eq!(ran.status.code(), Some(1), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn planted_links_are_not_followed() {
    for name in ["lock", "node.key", "journal.jsonl"] {
        let home = home();
        fs::write(home.path().join("node.toml"), format!("{ALONE}[journal]\nfile = \"journal.jsonl\"\n"))
            .unwrap();
        let data = home.path().join("data");
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, Permissions::from_mode(0o750)).unwrap();
        fs::write(home.path().join("victim"), "precious").unwrap();
        fs::set_permissions(home.path().join("victim"), Permissions::from_mode(0o600)).unwrap();
        symlink(home.path().join("victim"), data.join(name)).unwrap();
        let output =
            run(home.path(), &["run", "--config", "node.toml", "--data-dir", "data", "--ticks", "1"]);
        assert_ne!(output.status.code(), Some(0), "{name}");
        let said = text(&output.stderr);
        assert_eq!(said.matches("is a link").count(), 1, "{said}");
        assert_eq!(fs::read(home.path().join("victim")).unwrap(), b"precious", "{name}");
    }
}

#[test]
fn a_folder_that_everybody_can_write_to_is_no_data_folder() {
    let home = home();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    for open in [0o777, 0o1777, 0o757] {
        fs::set_permissions(&data, Permissions::from_mode(open)).unwrap();
        let output =
            run(home.path(), &["run", "--config", "node.toml", "--data-dir", "data", "--ticks", "1"]);
        assert_eq!(output.status.code(), Some(73));
        let said = text(&output.stderr);
        assert!(said.contains("can be written to by any user") && said.contains("chmod o-w"), "{said}");
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }
    fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let output = run(home.path(), &["run", "--config", "node.toml", "--data-dir", "data", "--ticks", "1"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn a_folder_of_another_user_is_no_data_folder() {
    if !is_root() {
        return;
    }
    let home = home();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    chown(&data, Some(STRANGER), None).unwrap();
    let output = run(home.path(), &["run", "--config", "node.toml", "--data-dir", "data", "--ticks", "1"]);
    assert_eq!(output.status.code(), Some(73));
    assert!(text(&output.stderr).contains("belongs to user 54321"), "{}", text(&output.stderr));
}

/// One of the committed components with its manifest, in `folder`.
fn drop_in(folder: &Path, name: &str) {
    for end in ["toml", "wasm"] {
        let file = format!("{name}.{end}");
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/ready").join(&file);
        fs::write(folder.join(&file), fs::read(from).unwrap()).unwrap();
        fs::set_permissions(folder.join(&file), Permissions::from_mode(0o644)).unwrap();
    }
}

/// The state of the phase `stats` in a node with this drop-in folder, and why.
fn state_of_stats(home: &Path) -> (String, String) {
    let node = Running::start(groundskeeper(home).args(["--json"]), home, OsStr::new("data"));
    let output = run(home, &["--json", "phases", "--data-dir", "data"]);
    let phases: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phase = phases["phases"].as_array().unwrap().iter().find(|phase| phase["name"] == "stats");
    let phase = phase.unwrap_or_else(|| panic!("{phases}")).clone();
    assert_eq!(node.stop(), Some(0));
    let text = |key: &str| phase[key].as_str().unwrap_or_default().to_owned();
    (text("state"), text("last_error"))
}

/// A home with the phase `stats` in its drop-in folder.
fn home_with_stats() -> (tempfile::TempDir, PathBuf) {
    let home = home();
    let phases = home.path().join("data/phases.d");
    fs::create_dir_all(&phases).unwrap();
    fs::set_permissions(home.path().join("data"), Permissions::from_mode(0o750)).unwrap();
    drop_in(&phases, "stats");
    (home, phases)
}

#[test]
fn a_phase_that_others_can_write_to_is_not_loaded() {
    let (home, phases) = home_with_stats();
    let set =
        |name: &str, mode| fs::set_permissions(phases.join(name), Permissions::from_mode(mode)).unwrap();
    for (name, open, usual) in
        [("", 0o777, 0o755), ("stats.toml", 0o666, 0o644), ("stats.wasm", 0o666, 0o644)]
    {
        set(name, open);
        let (state, why) = state_of_stats(home.path());
        assert_eq!(state, "rejected", "{name}: {why}");
        assert!(why.contains("can be written to by any user") && why.contains("chmod o-w"), "{name}: {why}");
        let output = run(home.path(), &["check", "--phases", "data/phases.d"]);
        assert_eq!(output.status.code(), Some(78));
        assert!(text(&output.stdout).contains("can be written to by any user"), "{}", text(&output.stdout));
        set(name, usual);
    }
    assert_ne!(state_of_stats(home.path()).0, "rejected");
}

#[test]
fn a_phase_of_another_user_is_not_loaded() {
    if !is_root() {
        return;
    }
    for part in ["stats.toml", "stats.wasm", ""] {
        let (home, phases) = home_with_stats();
        chown(phases.join(part), Some(STRANGER), None).unwrap();
        let (state, why) = state_of_stats(home.path());
        assert!(state == "rejected" && why.contains("belongs to user 54321"), "{part}: {state}: {why}");
    }
    // Nor by a link of that user to files that are trusted where they are.
    let (home, phases) = home_with_stats();
    fs::rename(phases.join("stats.toml"), home.path().join("stats.toml")).unwrap();
    symlink(home.path().join("stats.toml"), phases.join("stats.toml")).unwrap();
    lchown(phases.join("stats.toml"), Some(STRANGER), None).unwrap();
    let (state, why) = state_of_stats(home.path());
    assert!(state == "rejected" && why.contains("belongs to user 54321"), "{state}: {why}");
}

/// What Kubernetes does to a volume with an `fsGroup`: files g+rw, folders g+rwxs, all of the process's group.
#[test]
fn a_volume_with_an_fs_group_works() {
    if !is_root() {
        return;
    }
    const GROUP: u32 = 54322;
    let home = home();
    fs::set_permissions(home.path(), Permissions::from_mode(0o755)).unwrap();
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    chown(&volume, Some(0), Some(GROUP)).unwrap();
    let as_pod = || {
        let mut command = groundskeeper(home.path());
        command.uid(STRANGER).gid(GROUP);
        command
    };
    let binary = Command::new(BINARY).arg("--version").uid(STRANGER).gid(GROUP).output();
    if binary.is_err() {
        eprintln!("SKIPPED: another user cannot run {BINARY}");
        return;
    }
    for volume_mode in [0o2775, 0o2777] {
        // As at each mount.
        fs::set_permissions(&volume, Permissions::from_mode(volume_mode)).unwrap();
        for entry in walk(&volume) {
            let meta = fs::symlink_metadata(&entry).unwrap();
            chown(&entry, None, Some(GROUP)).unwrap();
            let more = if meta.is_dir() { 0o2070 } else { 0o060 };
            fs::set_permissions(&entry, Permissions::from_mode(meta.mode() & 0o7777 | more)).unwrap();
        }
        let node = Running::start(&mut as_pod(), home.path(), volume.as_os_str());
        assert_eq!(node.stop(), Some(0), "{}", log(home.path()));
    }
    assert_eq!(mode(&volume.join("node.key")), 0o660);
    assert!(log(home.path()).contains("fsGroup"), "{}", log(home.path()));
    // Never to the world.
    fs::set_permissions(volume.join("node.key"), Permissions::from_mode(0o664)).unwrap();
    let output =
        as_pod().args(["run", "--config", "node.toml", "--ticks", "1", "--data-dir"]).arg(&volume).output();
    assert_eq!(output.unwrap().status.code(), Some(73));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        }
        if !entry.file_type().unwrap().is_symlink() && entry.file_name() != "admin.sock" {
            found.push(entry.path());
        }
    }
    found
}

#[test]
fn the_key_may_be_a_credential() {
    let home = home();
    let node = Running::start(&mut groundskeeper(home.path()), home.path(), OsStr::new("first"));
    let id = |data: &str| {
        let output = run(home.path(), &["--json", "status", "--data-dir", data]);
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["node"].clone()
    };
    let first = id("first");
    assert_eq!(node.stop(), Some(0));
    let secrets = home.path().join("secrets");
    fs::create_dir(&secrets).unwrap();
    fs::copy(home.path().join("first/node.key"), secrets.join("node.key")).unwrap();
    // As a mounted secret: a link, readable by a group.
    fs::rename(secrets.join("node.key"), secrets.join("..data")).unwrap();
    symlink("..data", secrets.join("node.key")).unwrap();
    fs::set_permissions(secrets.join("..data"), Permissions::from_mode(0o440)).unwrap();
    let mut command = groundskeeper(home.path());
    let node =
        Running::start(command.env("CREDENTIALS_DIRECTORY", &secrets), home.path(), OsStr::new("second"));
    assert_eq!(id("second"), first);
    assert_eq!(node.stop(), Some(0));
    assert!(!home.path().join("second/node.key").exists());
    fs::set_permissions(secrets.join("..data"), Permissions::from_mode(0o444)).unwrap();
    let mut command = groundskeeper(home.path());
    command.env("CREDENTIALS_DIRECTORY", &secrets).args(["run", "--data-dir", "second", "--ticks", "1"]);
    assert_eq!(command.output().unwrap().status.code(), Some(73));
}

// Networks.

/// Runs `script` in a network of its own, in which `lo` is up.
fn in_a_network(home: &Path, script: &str) -> Option<Output> {
    let set_up = format!("ip link set lo up || exit 99; {script}");
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", &set_up, BINARY]).env("HOME", home).current_dir(home);
    let output = command.output().ok()?;
    let works = output.status.code() != Some(99) && !text(&output.stderr).starts_with("unshare:");
    if !works {
        eprintln!("SKIPPED: no network namespace here: {}", text(&output.stderr));
    }
    works.then_some(output)
}

#[test]
fn a_machine_without_ipv6_runs_the_usual_config() {
    let home = home();
    let off = "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 2>/dev/null";
    let script = format!("{off}; exec \"$0\" run --interval 100ms --data-dir data --ticks 1");
    let Some(output) = in_a_network(home.path(), &script) else { return };
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    // An address that the operator named is an error, said once.
    fs::write(home.path().join("node.toml"), "[net]\nlisten = [\"[::1]:0\"]\n").unwrap();
    let script = format!("{off}; exec \"$0\" run --config node.toml --data-dir data --ticks 1");
    let Some(output) = in_a_network(home.path(), &script) else { return };
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.matches("cannot listen on").count()), (Some(1), 1), "{said}");
    assert!(said.contains("net.listen"), "{said}");
}
