//! What the outermost component imports and exports, and whether that makes it a phase of this host's contract. Reads
//! names only, so that nothing is compiled for a component that is no phase.

use groundskeeper_sdk::contract::{Interface, PACKAGE, Role};
use wasmparser::{ComponentTypeRef, Parser, Payload};
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;

use super::inspect::broken;
use super::trap::short;
use super::{LoadError, Wasm, wasi};

/// See the module.
#[derive(Default)]
pub(super) struct ModuleOutline {
    /// With whether it is an interface.
    imports: Vec<(String, bool)>,
    exports: Vec<String>,
}

/// The interfaces that a phase imports.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ModuleInterfaces {
    /// Of the contract, except those that have only types.
    pub imports: Vec<Interface>,
    /// Of WASI.
    pub stubs: Vec<String>,
}

impl ModuleOutline {
    /// Parses a component.
    ///
    /// # Errors
    /// [`LoadError::Broken`].
    pub fn of(component: &[u8]) -> Result<Self, LoadError> {
        let mut outline = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(component) {
            match payload.map_err(broken)? {
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                // Saturates, because the outermost one was not counted.
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(broken)?;
                        let is_interface = matches!(import.ty, ComponentTypeRef::Instance(_));
                        outline.imports.push((import.name.name.to_owned(), is_interface));
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        outline.exports.push(export.map_err(broken)?.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(outline)
    }

    /// The same of a component that was compiled.
    pub fn of_compiled(wasm: &Wasm, component: &Component) -> Self {
        let ty = component.component_type();
        let imports = ty
            .imports(&wasm.engine)
            .map(|(name, item)| (name.to_owned(), matches!(item.ty, ComponentItem::ComponentInstance(_))));
        let exports = ty.exports(&wasm.engine).map(|(name, _)| name.to_owned());
        Self { imports: imports.collect(), exports: exports.collect() }
    }

    /// The interfaces that it imports, if this host has all of them and it exports a phase.
    ///
    /// # Errors
    /// [`LoadError::OtherContract`], [`LoadError::UnknownImport`] or [`LoadError::NoPhase`].
    pub fn check(&self) -> Result<ModuleInterfaces, LoadError> {
        let names = self.imports.iter().map(|(name, _)| name).chain(&self.exports);
        if let Some(version) = names.map(String::as_str).find_map(other_contract) {
            let name = PACKAGE.split_once('@').map_or(PACKAGE, |(name, _)| name);
            return Err(LoadError::OtherContract {
                found: short(&format!("{name}@{version}")),
                package: PACKAGE,
                way_out: "rebuild it with an SDK of this contract, or update this host",
            });
        }
        let mut found = ModuleInterfaces { imports: Vec::new(), stubs: Vec::new() };
        for (name, is_interface) in &self.imports {
            match (interface(name), interface(name).and_then(Interface::from_name)) {
                (_, Some(known)) if known.entry().role == Role::Types => {}
                (_, Some(known)) => found.imports.push(known),
                (None, None) if wasi::is_wasi(name) => found.stubs.push(name.clone()),
                (of_contract, None) => return Err(unknown(name, of_contract.is_some(), *is_interface)),
            }
        }
        if self.exports.iter().any(|name| interface(name) == Some(LIFECYCLE)) {
            Ok(found)
        } else {
            Err(LoadError::NoPhase(PACKAGE.replacen('@', &format!("/{LIFECYCLE}@"), 1)))
        }
    }
}

/// The interface that every phase exports.
const LIFECYCLE: &str = "lifecycle";

fn unknown(name: &str, is_of_contract: bool, is_interface: bool) -> LoadError {
    let way_out = if is_of_contract {
        "rebuild it with an older SDK, or update this host"
    } else if is_interface {
        "a phase reads and asks through the contract alone"
    } else {
        "import interfaces of the contract, not functions of your own"
    };
    LoadError::UnknownImport { import: short(name), package: PACKAGE, way_out }
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
