//! How much memory a compile may use where this process has limits.

use std::fs;
use std::path::Path;

use rustix::process::{Resource, getrlimit};

/// Three compiles run at once, one of them of a small module; the last quarter stays with the node.
const PARTS: u64 = 4;

/// Less does not compile the smallest phase.
const LEAST: u64 = 64 << 20;

/// `most` bytes, or a quarter of what the memory limits of this process's control groups (version 2) leave. At most half of
/// the limit of address space: the child inherits it, and its program needs some.
pub(super) fn of(most: u64) -> u64 {
    let group = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let inherited = getrlimit(Resource::As).current.map_or(most, |limit| limit / 2);
    within(most, Path::new("/sys/fs/cgroup"), &group).min(inherited)
}

fn within(most: u64, root: &Path, groups: &str) -> u64 {
    let Some(path) = groups.lines().find_map(|line| line.strip_prefix("0::/")) else { return most };
    let folder = root.join(path);
    let left = folder.ancestors().take_while(|at| at.starts_with(root)).filter_map(left_in).min();
    left.map_or(most, |left| most.min((left / PARTS).max(LEAST)))
}

/// What the limit of one group leaves. Its file cache does not count as used, because the system takes it back.
fn left_in(group: &Path) -> Option<u64> {
    let number = |name: &str| fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let most = number("memory.max")?;
    let stat = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file ")?.parse::<u64>().ok());
    let used = number("memory.current").unwrap_or(0).saturating_sub(cache.unwrap_or(0));
    Some(most.saturating_sub(used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_compile_takes_a_quarter_of_what_the_tightest_group_leaves() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, files: &[(&str, String)]| {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
        };
        let bytes = |mib: u64| (mib * MIB).to_string() + "\n";
        group("system/node", &[("memory.max", "max\n".into()), ("memory.current", bytes(900))]);
        let of = |groups: &str| within(768 * MIB, root.path(), groups) / MIB;
        assert_eq!(of("0::/system/node\n"), 768, "no limit");
        assert_eq!(of("5:memory:/system/node\n"), 768, "no group of version 2");

        let stat = format!("anon 5\ninactive_file {}", bytes(200));
        group(
            "system",
            &[("memory.max", bytes(1000)), ("memory.current", bytes(600)), ("memory.stat", stat)],
        );
        assert_eq!(of("0::/system/node\n"), 150, "a quarter of 1000 - (600 - 200)");
        group("system/node", &[("memory.max", bytes(910))]);
        assert_eq!(of("0::/system/node\n"), 64, "the least");
    }
}
