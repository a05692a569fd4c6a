//! The drop-in folder of the watched node: good phases, and changes to it of every kind.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use groundskeeper::loader::Loader;

/// Components with their manifests.
const READY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/ready");

/// The phase that changes: its settings decide whether peers are dropped.
const CHANGED: &str = "slow-peers";

/// A drop-in folder.
pub(crate) struct Phases {
    dir: PathBuf,
    manifest: String,
    changes: u32,
}

impl Phases {
    /// Fills `dir` with the example phases.
    pub(crate) fn fill(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir)?;
        for entry in fs::read_dir(READY).context("examples/ready")? {
            let from = entry?.path();
            let name = from.file_name().context("a file has a name")?;
            if name != "toolchains.txt" {
                fs::copy(&from, dir.join(name))?;
            }
        }
        let manifest = fs::read_to_string(dir.join(CHANGED).with_extension("toml"))?;
        Ok(Self { dir, manifest, changes: 0 })
    }

    /// Compiles the phases into `store`, the folder of compiled code of the data folder: a run then measures the node, and
    /// not the compiler.
    pub(crate) fn compile(&self, store: PathBuf) -> Result<()> {
        let loader = Loader::new(store, false).map_err(anyhow::Error::msg)?;
        let refused = loader.folder(&self.dir).refused;
        ensure!(refused.is_empty(), "{refused:?}");
        Ok(())
    }

    /// Replaces a file as a whole.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let hidden = self.dir.join(format!(".{name}"));
        fs::write(&hidden, bytes)?;
        Ok(fs::rename(hidden, self.dir.join(name))?)
    }

    /// The next change: a new generation, a phase that fails on trial, its removal, a module that is none, and so on.
    pub(crate) fn change(&mut self) -> Result<()> {
        self.changes += 1;
        let generation = format!("# Generation {}.\n{}", self.changes, self.manifest);
        match self.changes % 5 {
            1 | 3 => self.put(&format!("{CHANGED}.toml"), generation.as_bytes()),
            2 => {
                self.put("bad.wasm", format!("(not a module {})", self.changes).as_bytes())?;
                self.put("bad.toml", b"name = \"bad\"\nkind = \"wasm\"\n")
            }
            4 => remove(&self.dir.join("bad.toml")),
            _ => {
                // A generation that fails, and the next change brings a good one.
                let broken = format!("{generation}\n[settings]\nno-such-setting = {}\n", self.changes);
                self.put(&format!("{CHANGED}.toml"), broken.as_bytes())
            }
        }
    }
}

fn remove(file: &Path) -> Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
