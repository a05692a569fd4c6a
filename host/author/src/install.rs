//! Puts a module and its manifest into a drop-in folder, so that a node never loads half of the pair.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use groundskeeper::base::write::make_folder;
use groundskeeper::config::{Manifest, ManifestFile, Runtime};
use groundskeeper::data::write_whole;
use groundskeeper::engine::wasm::{Wasm, sha256};
use toml::Value;

use super::beside::{manifest_of, read, runtime_of, stem, told, wrong_kind};
use super::inspect::{InspectedModule, Inspection, inspect};

/// The result of an install.
pub struct InstalledFiles {
    /// Where the module is now: `<phase>.wasm` or `<phase>.so` in the drop-in folder.
    pub module: PathBuf,
    /// Where the manifest is now: `<phase>.toml` in the drop-in folder. Pins the module's digest.
    pub manifest: PathBuf,
    /// Whether a phase of this name existed.
    pub replaced: bool,
    /// Whether the manifest was generated, because none named the module.
    pub made_up: bool,
    /// What the phase lacks when it has no settings, as in a generated manifest.
    pub misses: Option<String>,
}

/// Checks `file` and puts it into `folder` together with its manifest. The manifest then pins the module's digest.
///
/// The compiled code is left in the store of `wasm`. If there is no manifest, it generates one in shadow mode that grants what the module imports with the usual
/// ceilings. So nothing happens before the operator has read it.
///
/// # Errors
/// If the module is no phase, its manifest has problems, or the folder cannot be written. The folder is unchanged then.
pub fn install(file: &Path, folder: &Path, wasm: &Wasm) -> Result<InstalledFiles> {
    let bytes = read(file)?;
    let runtime = runtime_of(&bytes);
    let is_native = runtime == Runtime::Native;
    let beside = manifest_of(file, runtime);
    if let Some(problem) = beside.as_ref().and_then(|manifest| wrong_kind(manifest, file, runtime)) {
        bail!("{} is not installed:\n  {problem}", file.display());
    }
    let inspected = if is_native { None } else { Some(inspect(file, wasm)?) };
    if let Some(Inspection { problems, .. }) = &inspected
        && !problems.is_empty()
    {
        bail!("{} is not installed:\n  {}", file.display(), problems.join("\n  "));
    }
    let digest = sha256(&bytes).to_string();
    let stem = stem(file);
    let (name, text) = match &beside {
        Some(ManifestFile { path, text, .. }) => (name_in(text, path)?, text.clone()),
        None if is_native => bail!("{} has no manifest beside it; write {stem}.toml first", file.display()),
        None => (stem.clone(), made_up(&stem, inspected.as_ref())),
    };
    let module = format!("{name}.{}", runtime.extension());
    let text = with_keys(&text, &[("module", &module), ("sha256", &digest)]);
    let shown = format!("{name}.toml");
    if let Err(problems) = Manifest::parse(&text, &shown) {
        bail!("{} is not installed:\n  {}", file.display(), told(&problems, "\n  "));
    }
    // A node refuses folders that others can write to, whatever the umask allows.
    make_folder(folder, 0o750).with_context(|| format!("cannot make {}", folder.display()))?;
    let (module, manifest) = (folder.join(module), folder.join(shown));
    let replaced = manifest.exists();
    // The manifest pins the module: between the two renames a node sees a module that does not match, and waits.
    let mode = if is_native { 0o700 } else { 0o644 };
    write_whole(&module, &bytes, mode).with_context(|| format!("cannot write {}", module.display()))?;
    write_whole(&manifest, text.as_bytes(), 0o644)
        .with_context(|| format!("cannot write {}", manifest.display()))?;
    let misses = match &beside {
        Some(_) => None,
        None => InspectedModule::load(&module, wasm)?.guest().err().map(|error| format!("{error:#}")),
    };
    Ok(InstalledFiles { module, manifest, replaced, made_up: beside.is_none(), misses })
}

fn name_in(text: &str, path: &Path) -> Result<String> {
    let table: toml::Table = toml::from_str(text).with_context(|| path.display().to_string())?;
    match table.get("name") {
        Some(Value::String(name)) => Ok(name.clone()),
        _ => bail!("{}: name is missing", path.display()),
    }
}

/// A generated manifest for a module that has none.
fn made_up(name: &str, inspected: Option<&Inspection>) -> String {
    let imports = inspected.iter().flat_map(|inspected| &inspected.imports);
    let lines: Vec<&str> = imports.filter_map(|import| import.line.as_deref()).collect();
    format!(
        "name = \"{name}\"\nkind = \"wasm\"\n# Journals what it would do. \"enforce\" lets it act.\nmode = \"shadow\"\n\n\
         [schedule]\nevery_n_ticks = 1\n\n# What it imports, with the usual ceilings.\n[grants]\n{}\n",
        lines.join("\n")
    )
}

/// The text with top-level keys set to strings. Everything else stays, comments included.
pub(super) fn with_keys(text: &str, keys: &[(&str, &str)]) -> String {
    let is_key =
        |line: &str, key: &str| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='));
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for (key, value) in keys.iter().rev() {
        // Changes with each line that is added.
        let top_ends = lines.iter().position(|line| line.trim_start().starts_with('[')).unwrap_or(usize::MAX);
        let line = format!("{key} = \"{value}\"");
        let found = lines.iter().take(top_ends).position(|line| is_key(line, key));
        match found {
            Some(at) => lines[at] = line,
            // After the kind, which every manifest has.
            None => {
                let at =
                    lines.iter().take(top_ends).position(|line| is_key(line, "kind")).map_or(0, |at| at + 1);
                lines.insert(at, line);
            }
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_the_last_line_before_a_table_is_not_added_twice() {
        let set = with_keys(
            "kind = \"wasm\"\nmodule = \"a.wasm\"\n[settings]\n",
            &[("module", "b.wasm"), ("sha256", "1")],
        );
        assert_eq!(set, "kind = \"wasm\"\nsha256 = \"1\"\nmodule = \"b.wasm\"\n[settings]\n");
    }

    #[test]
    fn keys_are_set_where_they_are_and_added_where_they_are_not() {
        let text =
            "# mine\nname = \"a\"\nkind = \"wasm\"\nsha256 = \"old\"\n\n[settings]\nmodule = \"kept\"\n";
        let set = with_keys(text, &[("module", "a.wasm"), ("sha256", "new")]);
        assert_eq!(
            set,
            "# mine\nname = \"a\"\nkind = \"wasm\"\nmodule = \"a.wasm\"\nsha256 = \"new\"\n\n[settings]\nmodule = \"kept\"\n"
        );
    }
}
