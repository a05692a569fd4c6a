//! Tests that need a process to themselves: what others allocate meanwhile is not theirs.

/// Runs one test of this binary, by `module_path!()` and name, in a process of its own. False in the parent, once that
/// has gone well.
pub fn alone(module: &str, test: &str) -> bool {
    const MARK: &str = "GROUNDSKEEPER_TEST_ALONE";
    if std::env::var_os(MARK).is_some() {
        return true;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &name(module, test), "--nocapture"])
        .env(MARK, "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout);
    let failed = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}{failed}");
    print!("{told}");
    false
}

/// What a test is called on the command line: its path without the crate's name.
pub fn name(module: &str, test: &str) -> String {
    let (_, path) = module.split_once("::").expect("tests are in modules of their binary");
    format!("{path}::{test}")
}

pub fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
