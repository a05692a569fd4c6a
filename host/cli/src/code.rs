//! The engine of commands that load phases. It compiles in a child process, and stores the code: for the node if this
//! user may write to its data folder, otherwise in the user's cache.

use std::path::{Path, PathBuf};

use groundskeeper::data::DataFolder;
use groundskeeper::engine::Compiler;
use groundskeeper::engine::wasm::Wasm;

use super::{load_config, without_manifests};

/// The engine for phases of the node that the flags select.
///
/// # Errors
/// If this machine cannot run WebAssembly.
pub(super) fn engine(
    compiler: &Compiler,
    config: Option<&Path>,
    data_dir: Option<&Path>,
) -> anyhow::Result<Wasm> {
    let config = load_config(config, &without_manifests(data_dir.map(Path::to_owned)));
    // The command itself reports a wrong config.
    let data_dir = config.ok().and_then(|config| config.node.data_dir);
    let store = data_dir.and_then(|path| DataFolder::own_artifacts(&path)).or_else(cache);
    Ok(Wasm::new(store)?.compiled_by(compiler.clone()))
}

/// The user's folder for compiled code; `None` if the environment names no home.
fn cache() -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join("groundskeeper/artifacts"))
}
