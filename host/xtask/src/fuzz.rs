//! Runs the fuzz targets with coverage feedback, and reduces what they find to the committed corpora. Needs a C++ compiler.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::steps::{Steps, cargo, command};
use crate::workspace::root;

const PACKAGE: &str = "groundskeeper-fuzz";

/// Ten minutes for each target.
const SECONDS: &str = "600";

/// An input that takes longer, in seconds, is a finding. A module may take a while to compile.
const SLOWEST: &str = "-timeout=30";

/// A reader that needs more memory is a finding.
const MOST_MEMORY: &str = "-rss_limit_mb=2048";

/// Inputs of a target that are committed, the smallest ones: a test runs them within seconds.
const MOST_INPUTS: usize = 200;

/// Tells the compiler to count edges and to report comparisons: what libFuzzer's feedback is made of.
const INSTRUMENTED: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the targets that `flags` name, or all, for `--seconds N` each. With `--save`, the reduced corpora replace the
/// committed ones.
///
/// # Errors
/// If a target fails: libFuzzer names the file with the input. Also for unknown flags.
pub fn run(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    let mut wanted = Vec::new();
    let (mut seconds, mut saves) = (SECONDS, false);
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        match *flag {
            "--seconds" => seconds = flags.next().context("--seconds needs a number")?,
            "--save" => saves = true,
            name if name.starts_with('-') => bail!("`fuzz {name}` is not understood"),
            name => wanted.push(name),
        }
    }
    let corpora = root().join("host/fuzz/corpus");
    let names = targets(&corpora)?;
    if let Some(name) = wanted.iter().find(|name| !names.iter().any(|known| known == *name)) {
        bail!("there is no target {name}; there are {}", names.join(", "));
    }
    let folder = PathBuf::from(std::env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".into()));
    let folder = std::path::absolute(folder.join("fuzz"))?;
    steps.run("build", build(&folder))?;
    for name in names.iter().filter(|name| wanted.is_empty() || wanted.contains(&name.as_str())) {
        let fuzzer = Fuzzer { folder: &folder, committed: &corpora.join(name), name };
        fuzzer.run(steps, seconds)?;
        if saves {
            fuzzer.save(steps)?;
        }
    }
    Ok(())
}

/// The targets, each a folder of the corpora.
fn targets(corpora: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpora).with_context(|| format!("cannot list {}", corpora.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn build(folder: &Path) -> std::process::Command {
    // With a target, build scripts and macros are not instrumented.
    let triple = triple();
    let words =
        ["build", "--profile", "fuzz", "--package", PACKAGE, "--features", "libfuzzer", "--target", &triple];
    let mut build = cargo(&words);
    build.env("RUSTFLAGS", INSTRUMENTED).env("CARGO_TARGET_DIR", folder);
    build
}

struct Fuzzer<'a> {
    folder: &'a Path,
    /// The committed corpus.
    committed: &'a Path,
    name: &'a str,
}

impl Fuzzer<'_> {
    fn command(&self, words: &[&str]) -> std::process::Command {
        let program = self.folder.join(triple()).join("fuzz").join(PACKAGE);
        let mut command = command(&program.to_string_lossy(), words);
        command.env("GROUNDSKEEPER_FUZZ", self.name);
        command
    }

    /// The corpus that grows from run to run.
    fn grown(&self) -> PathBuf {
        self.folder.join("corpus").join(self.name)
    }

    fn run(&self, steps: &mut Steps, seconds: &str) -> Result<()> {
        let (grown, found) = (self.grown(), self.folder.join("found").join(self.name));
        fs::create_dir_all(&grown)?;
        fs::create_dir_all(&found)?;
        let committed = self.committed.to_string_lossy().into_owned();
        let fuzz = self.command(&[
            &grown.to_string_lossy(),
            &committed,
            &format!("-max_total_time={seconds}"),
            &format!("-artifact_prefix={}/", found.display()),
            SLOWEST,
            MOST_MEMORY,
            "-print_final_stats=1",
            "-verbosity=1",
        ]);
        steps.run(&format!("fuzz {}", self.name), fuzz)
    }

    /// Replaces the committed corpus with the smallest of the fewest inputs that reach the same code.
    fn save(&self, steps: &mut Steps) -> Result<()> {
        let reduced = self.folder.join("reduced").join(self.name);
        if reduced.exists() {
            fs::remove_dir_all(&reduced)?;
        }
        fs::create_dir_all(&reduced)?;
        let (grown, committed) = (self.grown(), self.committed.to_string_lossy().into_owned());
        let words = ["-merge=1", SLOWEST, &reduced.to_string_lossy(), &grown.to_string_lossy(), &committed];
        steps.run(&format!("reduce {}", self.name), self.command(&words))?;
        fs::remove_dir_all(self.committed)?;
        fs::create_dir_all(self.committed)?;
        let mut inputs = Vec::new();
        for entry in fs::read_dir(&reduced)? {
            let entry = entry?;
            inputs.push((entry.metadata()?.len(), entry.path()));
        }
        inputs.sort();
        for (_, input) in inputs.iter().take(MOST_INPUTS) {
            let name = input.file_name().context("an entry of a folder has a name")?;
            fs::copy(input, self.committed.join(name))?;
        }
        Ok(())
    }
}
