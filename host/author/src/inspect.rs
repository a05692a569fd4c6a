//! Reports what a module is and whether its manifest allows it to work. Runs `describe` and `check`, never `run`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use groundskeeper::config::{GuestManifest as Declaration, Manifest, ManifestBody, ManifestFile, Runtime};
use groundskeeper::engine::PhaseProgram;
use groundskeeper::engine::policy::{Grants, Instance, Limits};
use groundskeeper::engine::schedule::Schedule;
use groundskeeper::engine::wasm::{
    Code, Guest, GuestSetup, InspectedBytes, LoadError, PhaseDescription, Sizes, Wasm,
};
use serde::Serialize;

use super::beside::{manifest_of, read, runtime_of, stem, told, wrong_kind};
use super::progress::CompileProgress;

/// What a component is, in addition to its manifest.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// The component, also if its manifest was given.
    #[serde(serialize_with = "groundskeeper::base::paths::lossy")]
    pub file: PathBuf,
    /// Digest of the component: 64 lowercase hex digits.
    pub sha256: String,
    /// Bytes of the component by use.
    pub sizes: Sizes,
    /// What the phase says it does; empty if it cannot be started.
    pub summary: String,
    /// The phase's own version; empty if it cannot be started.
    pub version: String,
    /// What the phase was built with, such as `groundskeeper-sdk 0.1.0`; empty if it cannot be started.
    pub toolkit: String,
    /// The version of the contract that it uses.
    pub contract: &'static str,
    /// None if no manifest in its folder names it.
    #[serde(serialize_with = "groundskeeper::base::paths::lossy_option")]
    pub manifest: Option<PathBuf>,
    /// The contract's interfaces that it imports.
    pub imports: Vec<Import>,
    /// WASI interfaces that it imports. They do nothing here.
    pub stubs: Vec<String>,
    /// Limits of one run, from the manifest; the defaults without a manifest that can be read.
    pub limits: Limits,
    /// Why a node would not load it, each with the fix.
    pub problems: Vec<String>,
}

/// One interface that a component imports.
#[derive(Debug, Serialize)]
pub struct Import {
    /// Its name in the contract.
    pub interface: String,
    /// None without a manifest.
    pub granted: Option<bool>,
    /// The manifest line that would grant it; None if it needs no grant.
    pub line: Option<String>,
}

/// A module that loads, and its manifest if there is one.
pub struct InspectedModule {
    /// Where the module is.
    pub file: PathBuf,
    /// Bytes of the module by use.
    pub sizes: Sizes,
    /// The engine that compiled `code` and runs it.
    pub wasm: Wasm,
    /// The compiled module.
    pub code: Arc<Code>,
    /// None if no manifest in its folder is about the module. It may have problems.
    pub manifest: Option<ManifestFile>,
}

impl InspectedModule {
    /// Loads the component `file`, or the one that the manifest `file` names, and looks for the manifest next to it.
    ///
    /// # Errors
    /// If the file cannot be read or is no phase.
    pub fn load(file: &Path, wasm: &Wasm) -> Result<Self> {
        if file.extension().is_none_or(|end| end != "toml") {
            return Self::of(file.to_owned(), manifest_of(file, Runtime::Wasm), wasm);
        }
        let manifest = ManifestFile::read(file.to_owned());
        let module = match &manifest.manifest {
            Ok(Manifest { body: ManifestBody::Guest(guest), .. }) => file.with_file_name(&guest.module),
            Ok(_) => bail!("{} is about a built-in phase", file.display()),
            Err(problems) => bail!(told(problems, "\n")),
        };
        Self::of(module, Some(manifest), wasm).with_context(|| format!("{} is about it", file.display()))
    }

    fn of(file: PathBuf, manifest: Option<ManifestFile>, wasm: &Wasm) -> Result<Self> {
        let bytes = read(&file)?;
        if runtime_of(&bytes) == Runtime::Native {
            bail!(
                "{} is a shared library; this is for components, which `groundskeeper build` makes",
                file.display()
            );
        }
        let code =
            compiled(&bytes, &file, wasm).with_context(|| format!("{} is no phase", file.display()))?;
        let sizes = Sizes::of(&bytes)?;
        Ok(Self { file, sizes, wasm: wasm.clone(), code, manifest })
    }

    /// The manifest's declaration, if it can be read and is for a component.
    pub fn declared(&self) -> Option<&Declaration> {
        match &self.manifest.as_ref()?.manifest {
            Ok(Manifest { body: ManifestBody::Guest(guest), .. }) => Some(guest),
            _ => None,
        }
    }

    /// The phase with the setup from its manifest.
    ///
    /// # Errors
    /// If the manifest has problems, does not grant what is imported, or has settings that the phase refuses.
    pub fn guest(&self) -> Result<Guest> {
        if let Some(ManifestFile { manifest: Err(problems), .. }) = &self.manifest {
            bail!(told(problems, "\n"));
        }
        let guest = Guest::new(&self.wasm, Arc::clone(&self.code), self.setup())?;
        guest.check().map_err(|problem| anyhow::anyhow!("[settings]: {problem}"))?;
        Ok(guest)
    }

    /// The name and schedule from the manifest, or those of a phase that runs at every tick.
    pub fn named(&self, file: &Path) -> (String, Schedule) {
        match &self.manifest {
            Some(ManifestFile { manifest: Ok(manifest), .. }) => {
                (manifest.name.clone(), manifest.schedule.clone())
            }
            _ => (stem(file), Schedule::every(1)),
        }
    }

    /// The setup from the manifest. Without one: every grant, and no settings.
    pub fn setup(&self) -> GuestSetup {
        match self.declared() {
            Some(guest) => GuestSetup {
                settings: guest.settings.clone(),
                limits: guest.limits,
                grants: guest.grants.clone(),
                instance: guest.instance,
            },
            None => GuestSetup {
                settings: "{}".to_owned(),
                limits: Limits::default(),
                grants: Grants::everything(),
                instance: Instance::Fresh,
            },
        }
    }
}

/// Compiles the module `file` unless the engine's store has its code. Shows that on a terminal.
fn compiled(bytes: &[u8], file: &Path, wasm: &Wasm) -> Result<Arc<Code>, LoadError> {
    match wasm.inspect(bytes)? {
        InspectedBytes::Compiled(code) => Ok(code),
        InspectedBytes::Uncompiled(module) => {
            let progress = CompileProgress::of(file);
            wasm.compile(&module, &|| {
                progress.show();
                true
            })
        }
    }
}

/// Inspects the component `file`, or the one that the manifest `file` names, together with its manifest.
///
/// # Errors
/// If the file cannot be read or is no phase. What only keeps a node from loading it is a problem in the result.
pub fn inspect(file: &Path, wasm: &Wasm) -> Result<Inspection> {
    let subject = InspectedModule::load(file, wasm)?;
    let InspectedModule { file, sizes, wasm, code, manifest } = &subject;
    let mut problems = Vec::new();
    if let Some(manifest) = manifest {
        problems.extend(wrong_kind(manifest, file, Runtime::Wasm));
        if let Err(found) = &manifest.manifest {
            problems.extend(found.iter().map(ToString::to_string));
        }
    }
    let declared = subject.declared();
    if declared.and_then(|guest| guest.sha256).is_some_and(|pinned| pinned != code.digest().0) {
        problems.push(format!("the manifest pins another module: write sha256 = \"{}\"", code.digest()));
    }
    let imports: Vec<Import> = code
        .imports()
        .iter()
        .map(|interface| Import {
            interface: interface.name().to_owned(),
            granted: declared.map(|guest| guest.grants.allows(*interface)),
            line: Grants::line(*interface),
        })
        .collect();
    for Import { interface, granted, line } in &imports {
        if let (Some(false), Some(line)) = (granted, line) {
            problems.push(format!("it wants {interface:?}, which is not granted; add to [grants]: {line}"));
        }
    }
    let setup = subject.setup();
    let limits = setup.limits;
    // Grants are reported above; this checks only the phase itself.
    let guest = Guest::new(wasm, Arc::clone(code), GuestSetup { grants: Grants::everything(), ..setup });
    let PhaseDescription { summary, version, toolkit } = match &guest {
        Ok(guest) => guest.described().clone(),
        Err(error) => {
            problems.push(error.to_string());
            PhaseDescription::default()
        }
    };
    if let (Ok(guest), Some(_)) = (&guest, declared)
        && let Err(problem) = guest.check()
    {
        problems.push(format!("[settings]: {problem}"));
    }
    Ok(Inspection {
        file: file.to_owned(),
        sha256: code.digest().to_string(),
        sizes: *sizes,
        summary,
        version,
        toolkit,
        contract: groundskeeper_sdk::contract::PACKAGE,
        manifest: manifest.as_ref().map(|manifest| manifest.path.clone()),
        imports,
        stubs: code.stubs().to_vec(),
        limits,
        problems,
    })
}
