//! Compares a phase compiled natively with its component over the same views, to find a different decision before a
//! node does.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use groundskeeper::engine::PhaseProgram;
use groundskeeper::engine::native::Native;
use groundskeeper::engine::wasm::Wasm;
use groundskeeper::record::Fixture;
use groundskeeper_sdk::host::Saved;
use serde::Serialize;
use serde_json::Value;

use super::beside::told;
use super::build::{build, build_native};
use super::c;
use super::dry::DryRun;
use super::inspect::InspectedModule;
use super::scratch::ScratchFolder;
use super::views;

/// Number of random views in a test.
const RANDOM_VIEWS: u64 = 500;

/// The result of a test.
#[derive(Default, Debug, Serialize)]
pub struct TrialReport {
    /// The component that was built and compared.
    #[serde(serialize_with = "groundskeeper::base::paths::lossy")]
    pub module: PathBuf,
    /// Views read from the phase's `views/*.json`.
    pub fixtures: usize,
    /// Generated views, one per seed.
    pub random_views: u64,
    /// Views that led to at least one ask.
    pub with_asks: u64,
    /// Asks of the component over all views.
    pub asks: u64,
    /// Fuel of one run: minimum, median, maximum.
    pub fuel: [u64; 3],
    /// Whether there is also a native library. If not, as for C written for the component's bindings, the component is
    /// compared with itself.
    pub native: bool,
    /// The views with different results, each with both plans.
    pub different: Vec<String>,
    /// Runs that ended without a plan.
    pub failed: Vec<String>,
}

/// Runs the tests of the phase in `folder`, builds it both ways, and compares both over `views/*.json` and over random
/// views with seeds from `seed` on.
///
/// # Errors
/// If a test fails, the build fails, or the manifest has problems. Differences are a result, not an error.
pub fn trial(folder: &Path, seed: u64, wasm: &Wasm, note: &mut dyn FnMut(&str)) -> Result<TrialReport> {
    let is_rust = folder.join("Cargo.toml").is_file();
    if is_rust {
        note("cargo test");
        let status = Command::new("cargo").arg("test").current_dir(folder).status();
        if !status.context("cargo could not be run; install Rust with rustup")?.success() {
            bail!("the phase's own tests fail");
        }
    }
    let module = build(folder, None, note)?.file;
    let subject = InspectedModule::load(&module, wasm)?;
    let setup = subject.setup();
    let settings: Value = serde_json::from_str(&setup.settings)?;
    let component = subject.guest()?;
    let scratch = ScratchFolder::new()?;
    let native = if is_rust || c::is_native(folder)? {
        let built = build_native(folder, Some(scratch.path()), note)?;
        Some(Native::load(&built.file, built.digest.0, setup.settings, scratch.path())?)
    } else {
        None
    };
    let fixtures = read_fixtures(&folder.join("views"))?;
    let mut trial = TrialReport {
        module,
        fixtures: fixtures.len(),
        random_views: RANDOM_VIEWS,
        native: native.is_some(),
        ..TrialReport::default()
    };
    let mut fuel = Vec::new();
    let mut memory = None;
    let random = (seed..seed + RANDOM_VIEWS).map(|seed| {
        let name = format!("random view {seed}");
        let fixture = Fixture::parse(&views::random(seed, &settings).to_string(), &name);
        (name, fixture)
    });
    let written = fixtures.into_iter().map(|(name, fixture)| (name, Ok(fixture)));
    for (name, fixture) in written.chain(random) {
        let mut fixture = fixture.map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
        // The next run finds what a run remembers, unless the view sets a memory.
        fixture.memory = fixture.memory.or_else(|| memory.clone());
        let run = |body: &dyn PhaseProgram| DryRun::of(body, fixture.tick, fixture.view());
        let one = run(&component);
        let other = native.as_ref().map_or_else(|| run(&component), |native| run(native));
        trial.note(&name, &one, &other);
        fuel.extend(one.fuel);
        memory = one.memory.or(memory).filter(|saved: &Saved| !saved.bytes.is_empty());
    }
    fuel.sort_unstable();
    if let (Some(least), Some(most)) = (fuel.first(), fuel.last()) {
        trial.fuel = [*least, fuel[fuel.len() / 2], *most];
    }
    Ok(trial)
}

impl TrialReport {
    fn note(&mut self, name: &str, component: &DryRun, native: &DryRun) {
        self.asks += component.asks.len() as u64;
        self.with_asks += u64::from(!component.asks.is_empty());
        if !component.is_same_as(native) {
            self.different.push(format!(
                "{name}:\n as a component\n{}\n{}natively\n{}\n{}",
                component.ended,
                component.shown(),
                native.ended,
                native.shown()
            ));
        } else if !component.ok {
            self.failed.push(format!("{name}: {}", component.ended));
        }
    }
}

/// The views of a folder, by file name; none if the folder does not exist.
///
/// # Errors
/// Every problem in the first view that is wrong.
pub fn read_fixtures(folder: &Path) -> Result<Vec<(String, Fixture)>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    paths.into_iter().map(|path| Ok((path.display().to_string(), read_fixture(&path)?))).collect()
}

/// Reads a view from a file.
///
/// # Errors
/// Every problem in the file, with its place.
pub fn read_fixture(path: &Path) -> Result<Fixture> {
    Fixture::read(path).map_err(|problems| anyhow::Error::msg(told(&problems, "\n")))
}
