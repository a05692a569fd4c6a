//! Creates a new phase: source with a test, a manifest, a view to try it on. Overwrites nothing.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use groundskeeper::engine::policy::is_phase_name;

/// The language of a new phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Lang {
    /// A Cargo package that uses the SDK.
    #[default]
    Rust,
    /// C files that need no C library, as in `examples/slow-peers-c`.
    C,
}

const RUST: [(&str, &str); 5] = [
    ("Cargo.toml", include_str!("template/rust/Cargo.toml.in")),
    ("src/lib.rs", include_str!("template/rust/lib.rs.in")),
    ("{name}.toml", include_str!("template/rust/manifest.toml.in")),
    ("README.md", include_str!("template/rust/README.md.in")),
    ("views/busy.json", include_str!("template/rust/busy.json.in")),
];

/// The source of the C example, with its own manifest and view.
const C: [(&str, &str); 9] = [
    ("slow.c", include_str!("template/c/slow.c")),
    ("mini.c", include_str!("template/c/mini.c")),
    ("stdlib.h", include_str!("template/c/stdlib.h")),
    ("string.h", include_str!("template/c/string.h")),
    ("phase.c", include_str!("template/c/phase.c")),
    ("phase.h", include_str!("template/c/phase.h")),
    ("{name}.toml", include_str!("template/c/manifest.toml.in")),
    ("README.md", include_str!("template/c/README.md.in")),
    ("views/busy.json", include_str!("template/c/busy.json.in")),
];

/// Creates the folder `name` below `parent`. `sdk` is a checkout of the SDK to use instead of the published one.
///
/// # Errors
/// If the name is not valid for a phase, the folder exists, or it cannot be written.
pub fn create(parent: &Path, name: &str, lang: Lang, sdk: Option<&Path>) -> Result<PathBuf> {
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !is_phase_name(name) {
        bail!(
            "{name:?} is no name for a phase: it begins with a to z, then up to 39 more of a-z, 0-9 and \"-\""
        );
    }
    let folder = parent.join(name);
    if folder.exists() {
        bail!("{} is there already; choose another name, or remove it", folder.display());
    }
    let sdk = match sdk {
        Some(path) => {
            let path = fs::canonicalize(path).with_context(|| format!("no SDK at {}", path.display()))?;
            format!("{{ path = {:?} }}", path.display().to_string())
        }
        None => format!("{SDK_VERSION:?}"),
    };
    let filled =
        |text: &str| text.replace("{name}", name).replace("{type}", &type_name(name)).replace("{sdk}", &sdk);
    let files: &[(&str, &str)] = match lang {
        Lang::Rust => &RUST,
        Lang::C => &C,
    };
    for (path, text) in files {
        let path = folder.join(filled(path));
        let above = path.parent().expect("below the folder");
        fs::create_dir_all(above).with_context(|| format!("cannot make {}", above.display()))?;
        fs::write(&path, filled(text)).with_context(|| format!("cannot write {}", path.display()))?;
    }
    fs::write(folder.join(".gitignore"), "/target\n*.wasm\n*.so\n")?;
    Ok(folder)
}

/// The SDK version that a new phase requires, without the patch level.
const SDK_VERSION: &str = concat!(env!("CARGO_PKG_VERSION_MAJOR"), ".", env!("CARGO_PKG_VERSION_MINOR"));

/// Converts `slow-peers` to `SlowPeers`.
fn type_name(name: &str) -> String {
    name.split('-')
        .filter_map(|part| {
            let mut letters = part.chars();
            Some(letters.next()?.to_ascii_uppercase().to_string() + letters.as_str())
        })
        .collect()
}

/// The SDK in the checkout that contains this binary or this folder, if there is one.
pub fn sdk_nearby() -> Option<PathBuf> {
    let is_sdk = |folder: &Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).ok()?;
        manifest.contains("name = \"groundskeeper-sdk\"").then(|| folder.to_path_buf())
    };
    let binary = std::env::current_exe().ok();
    let here = std::env::current_dir().ok();
    let above = [binary, here].into_iter().flatten();
    let mut candidates = above.flat_map(|path| path.ancestors().map(|up| up.join("sdk")).collect::<Vec<_>>());
    candidates
        .find_map(|folder| is_sdk(&folder))
        .or_else(|| is_sdk(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk"))))
}
