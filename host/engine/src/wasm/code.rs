//! Compiled code of one module: checks its imports, and that it is a phase. Does not run it.

use std::fmt;

use groundskeeper_sdk::contract::{Interface, PACKAGE, Role};
use sha2::{Digest as _, Sha256};
use wasmtime::component::types::ComponentItem;
use wasmtime::component::{Component, InstancePre};

use super::run::{LifecycleExports, StoreState};
use super::trap::{self, short};
use super::{Wasm, wasi};

/// SHA-256 of a module's bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ModuleDigest(pub [u8; 32]);

impl fmt::Display for ModuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ModuleDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest for a manifest's `sha256`.
pub fn sha256(bytes: &[u8]) -> ModuleDigest {
    ModuleDigest(Sha256::digest(bytes).into())
}

/// Why a module cannot be loaded.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error("the file is empty")]
    Empty,
    #[error("it has {count} {what}; this host takes {most}")]
    TooLarge { what: &'static str, count: u64, most: u64 },
    #[error("it is {0}")]
    NotWasm(&'static str),
    #[error("it is damaged or incomplete: {0}")]
    Broken(String),
    #[error(
        "it is a core module without the contract's metadata; build it with groundskeeper-sdk and `export!`, or make a \
         component of it"
    )]
    CoreWithoutMetadata,
    #[error("it cannot be made a component: {0}")]
    NotAComponent(String),
    #[error("it does not compile: {0}")]
    Compile(String),
    #[error("the compiler panicked on it; please report this with the module: {0}")]
    Panicked(String),
    #[error("it imports {import}, which this host does not have: it speaks {package}; {way_out}")]
    UnknownImport { import: String, package: &'static str, way_out: &'static str },
    #[error("it was built for {found}, and this host speaks {package}; {way_out}")]
    OtherContract { found: String, package: &'static str, way_out: &'static str },
    #[error("it does not fit {package}: {why}; rebuild it with an SDK of this contract")]
    NoFit { package: &'static str, why: String },
    #[error("it is a component, but no phase: it does not export {0}")]
    NoPhase(String),
    #[error("folder {folder} for compiled code: {why}")]
    Artifacts { folder: String, why: String },
    #[error("this machine cannot run WebAssembly: {0}")]
    Machine(String),
    #[error("the machine is short of memory, threads or descriptors: {0}")]
    Shortage(String),
}

impl LoadError {
    pub(super) fn compile(error: &wasmtime::Error) -> Self {
        let words = short(&format!("{error:#}"));
        if trap::is_shortage(error) { Self::Shortage(words) } else { Self::Compile(words) }
    }
}

/// The `name` in `namespace:package/name@version`, if the package is the contract's. Ignores the version.
pub(super) fn interface(import: &str) -> Option<&str> {
    let (package, rest) = import.split_once('/')?;
    let ours = PACKAGE.split_once('@').map_or(PACKAGE, |(name, _)| name);
    (package == ours).then(|| rest.split_once('@').map_or(rest, |(name, _)| name))
}

/// The contract version that `import` names, if this host cannot link it. A host of 0.1 links `0.1.9`, but not `0.2.0`.
fn other_contract(import: &str) -> Option<&str> {
    interface(import)?;
    let version = |text: &str| -> Option<[u64; 3]> {
        let numbers: Vec<u64> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
        numbers.try_into().ok()
    };
    let (_, found) = import.split_once('@')?;
    let (_, ours) = PACKAGE.split_once('@')?;
    let links = match (version(found), version(ours)) {
        (Some([0, 0, patch]), Some(ours)) => ours == [0, 0, patch],
        (Some([0, minor, _]), Some(ours)) => ours[..2] == [0, minor],
        (Some([major, ..]), Some(ours)) => ours[0] == major,
        _ => false,
    };
    (!links).then_some(found)
}

/// A compiled module. It can be used with several manifests.
pub struct Code {
    pub(super) pre: InstancePre<StoreState>,
    pub(super) exports: LifecycleExports,
    imports: Vec<Interface>,
    stubs: Vec<String>,
    digest: ModuleDigest,
}

impl Code {
    pub(super) fn new(wasm: &Wasm, component: Component, digest: ModuleDigest) -> Result<Self, LoadError> {
        let mut imports = Vec::new();
        let mut stubs = Vec::new();
        let ty = component.component_type();
        let imported = ty.imports(&wasm.engine).map(|(name, _)| name);
        let exported = ty.exports(&wasm.engine).map(|(name, _)| name);
        if let Some(version) = imported.chain(exported).find_map(other_contract) {
            let name = PACKAGE.split_once('@').map_or(PACKAGE, |(name, _)| name);
            return Err(LoadError::OtherContract {
                found: short(&format!("{name}@{version}")),
                package: PACKAGE,
                way_out: "rebuild it with an SDK of this contract, or update this host",
            });
        }
        for (name, item) in ty.imports(&wasm.engine) {
            if let Some(known) = interface(name).and_then(Interface::from_name) {
                if known.entry().role != Role::Types {
                    imports.push(known);
                }
                continue;
            }
            match interface(name) {
                None if wasi::is_wasi(name) => stubs.push(name.to_owned()),
                _ => {
                    let way_out = match (interface(name), &item.ty) {
                        (Some(_), _) => "rebuild it with an older SDK, or update this host",
                        (None, ComponentItem::ComponentInstance(_)) => {
                            "a phase reads and asks through the contract alone"
                        }
                        (None, _) => "import interfaces of the contract, not functions of your own",
                    };
                    let import = short(name);
                    return Err(LoadError::UnknownImport { import, package: PACKAGE, way_out });
                }
            }
        }
        let exports = LifecycleExports::of(&component)?;
        let no_fit = |error: wasmtime::Error| {
            let why = short(&format!("{error:#}"));
            if trap::is_shortage(&error) {
                LoadError::Shortage(why)
            } else {
                LoadError::NoFit { package: PACKAGE, why }
            }
        };
        let pre = if stubs.is_empty() {
            wasm.linker.instantiate_pre(&component)
        } else {
            let mut linker = (*wasm.linker).clone();
            wasi::link(&mut linker, &component).map_err(no_fit)?;
            linker.instantiate_pre(&component)
        };
        let pre = pre.map_err(no_fit)?;
        Ok(Self { pre, exports, imports, stubs, digest })
    }

    /// The contract's interfaces that it imports. They need grants.
    pub fn imports(&self) -> &[Interface] {
        &self.imports
    }

    /// The WASI interfaces that it imports. They do nothing on this host.
    pub fn stubs(&self) -> &[String] {
        &self.stubs
    }

    pub fn digest(&self) -> ModuleDigest {
        self.digest
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("digest", &self.digest).field("imports", &self.imports).finish()
    }
}
