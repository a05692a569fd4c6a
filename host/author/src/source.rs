//! Lists the files of a phase with their size and time. Reads none of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use groundskeeper::data::FileStamp;

/// Deeper folders are not searched for sources.
const MOST_DEPTH: usize = 8;

/// The files of a phase in its folder: manifests, C files, the build script, and everything below `src` and `views`.
/// Build output is left out.
pub fn sources(folder: &Path) -> BTreeMap<PathBuf, FileStamp> {
    let mut found = BTreeMap::new();
    collect(
        folder,
        0,
        &|path| path.extension().is_some_and(|end| end == "toml" || end == "c" || end == "h" || end == "rs"),
        &mut found,
    );
    for below in ["src", "views"] {
        collect(&folder.join(below), MOST_DEPTH, &|_| true, &mut found);
    }
    found
}

fn collect(
    folder: &Path,
    depth: usize,
    wanted: &dyn Fn(&Path) -> bool,
    found: &mut BTreeMap<PathBuf, FileStamp>,
) {
    // A folder that disappears meanwhile has no sources.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(meta) = fs::metadata(&path) else { continue };
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if meta.is_dir() && depth > 0 {
            collect(&path, depth - 1, wanted, found);
        } else if meta.is_file() && !is_hidden && wanted(&path) {
            found.insert(path, meta.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_build_leaves_is_no_source() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("src/deep")).unwrap();
        fs::create_dir_all(at("target/debug")).unwrap();
        for name in ["Cargo.toml", "calm.toml", "src/lib.rs", "src/deep/a.rs", "calm.c"] {
            fs::write(at(name), "1").unwrap();
        }
        let before = sources(folder.path());
        assert_eq!(before.len(), 5, "{before:?}");
        for name in ["calm.wasm", "calm.wasm.tmp", "Cargo.lock", "target/debug/a.rs", "src/.lib.rs.swp"] {
            fs::write(at(name), "2").unwrap();
        }
        assert_eq!(sources(folder.path()), before);
        fs::write(at("src/deep/a.rs"), "12").unwrap();
        assert_ne!(sources(folder.path()), before);
    }
}
