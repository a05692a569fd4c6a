//! Inspects a module's bytes before they are compiled: size, kind, counts. Refuses modules that would cost too much.

use std::borrow::Cow;

use groundskeeper_sdk::contract::{PACKAGE, WIT};
use groundskeeper_sdk::host::{NativeExit, guard};
use wasmparser::{ComponentImport, ComponentTypeDeclaration, ComponentTypeRef, Parser, Payload, TypeRef};

use super::trap::short;
use super::{LoadError, types};

/// More than any known guest: a guest in Python has 18 MB.
pub const MOST_BYTES: usize = 32 << 20;

/// Compiling takes about 160 us per function, even an empty one; the interpreter of a language has 20,000 functions.
/// Functions that a component lifts or lowers count too, because each is compiled.
pub const MOST_FUNCTIONS: u32 = 40_000;

/// Locals of one function. Compilers are slow on functions with very many locals.
pub const MOST_LOCALS: u64 = 20_000;

/// Nesting of components, and of component types. Tools nest two or three levels. Reading nested components takes
/// quadratic time, and each level of nested types takes a stack frame of the reader.
pub const MOST_DEPTH: u32 = 32;

/// The custom section in which wit-bindgen stores the types of a core module's imports and exports.
const METADATA: &str = "component-type";

/// Returns a component unchanged, and converts a core module with the contract's metadata to a component.
///
/// # Errors
/// [`LoadError`] if the bytes are not WebAssembly, too large, or not a phase.
pub fn component_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    few_bytes(bytes)?;
    let is_core = Parser::is_core_wasm(bytes);
    if !is_core && !Parser::is_component(bytes) {
        return Err(LoadError::NotWasm(kind_of_other_file(bytes)));
    }
    let mut metadata = Vec::new();
    look(bytes, &mut |section| {
        if let Payload::CustomSection(section) = section
            && section.name().starts_with(METADATA)
        {
            metadata.push(section.data());
        }
        Ok(())
    })?;
    if !is_core {
        return Ok(Cow::Borrowed(bytes));
    }
    if metadata.is_empty() {
        return Err(LoadError::CoreWithoutMetadata);
    }
    // A linked module has one such section for each object that names a world.
    metadata.into_iter().try_for_each(simple)?;
    let encode = || {
        let encoder = wit_component::ComponentEncoder::default().validate(true).module(bytes);
        encoder.and_then(|mut encoder| encoder.encode())
    };
    let encoded = unpanicked(encode)?;
    let encoded = encoded.map_err(|error| LoadError::NotAComponent(short(&format!("{error:#}"))))?;
    Ok(Cow::Owned(encoded))
}

/// Calls `work` and turns a panic into an error: a bad file must not end the node.
///
/// # Errors
/// [`LoadError::Panicked`].
pub(super) fn unpanicked<R>(work: impl FnOnce() -> R) -> Result<R, LoadError> {
    guard(work).map_err(|unwound| match unwound {
        NativeExit::Rule(rule) => LoadError::Panicked(rule.to_string()),
        NativeExit::Panic(text) => LoadError::Panicked(short(&text)),
    })
}

/// Refuses metadata that could make its reader recurse forever. wit-parser follows packages that depend on each other
/// until the stack overflows and the process ends. If all interfaces are in one package, there is no such cycle.
fn simple(metadata: &[u8]) -> Result<(), LoadError> {
    let refused = |why: String| LoadError::NotAComponent(format!("its metadata {why}"));
    if !Parser::is_component(metadata) {
        return Err(refused("is of an old kind; build it with wit-bindgen 0.40 or newer".to_owned()));
    }
    let mut contract: Option<String> = None;
    let mut known = |name: &str| {
        let package = name.rsplit_once('/').zip(name.rsplit_once('@'));
        let package = package.map(|((before, _), (_, version))| format!("{before}@{version}"));
        match (&contract, package) {
            // An interface without a package belongs to the world.
            _ if !name.contains(':') => Ok(()),
            (None, package @ Some(_)) if super::outline::interface(name).is_some() => {
                contract = package;
                Ok(())
            }
            (Some(contract), Some(package)) if *contract == package => Ok(()),
            _ => Err(refused(format!(
                "names {:?} beside {}; make a component of it with wasm-tools",
                short(name),
                contract.as_deref().unwrap_or(PACKAGE)
            ))),
        }
    };
    look(metadata, &mut |section| {
        let types = match section {
            Payload::ComponentTypeSection(types) => types,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                return Err(refused("contains more than types".to_owned()));
            }
            _ => return Ok(()),
        };
        let range = types.range();
        types::walk(&metadata[range.clone()], range.start, &mut |declaration| match declaration {
            ComponentTypeDeclaration::Import(ComponentImport { name, ty: ComponentTypeRef::Instance(_) })
            | ComponentTypeDeclaration::Export { name, ty: ComponentTypeRef::Instance(_) } => {
                known(name.name)
            }
            _ => Ok(()),
        })
    })
}

pub(super) fn few_bytes(bytes: &[u8]) -> Result<(), LoadError> {
    at_most("bytes", bytes.len() as u64, MOST_BYTES as u64)
}

pub(super) fn at_most(what: &'static str, count: u64, most: u64) -> Result<(), LoadError> {
    if count > most { Err(LoadError::TooLarge { what, count, most }) } else { Ok(()) }
}

pub(super) fn broken(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Broken(short(&error.to_string()))
}

/// Walks the sections of all nested modules and components, without recursion and without storing them. Calls `each`
/// with the sections of the outermost module or component.
fn look<'a>(
    bytes: &'a [u8],
    each: &mut dyn FnMut(&Payload<'a>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut functions: u32 = 0;
    let mut depth: u32 = 0;
    // Of the modules that are open, outermost first. A component has none.
    let mut memories: Vec<u64> = vec![0];
    for payload in Parser::new(0).parse_all(bytes) {
        let payload = payload.map_err(broken)?;
        let own = depth == 0;
        match &payload {
            Payload::FunctionSection(section) => functions = functions.saturating_add(section.count()),
            Payload::ComponentCanonicalSection(section) => {
                functions = functions.saturating_add(section.count())
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                at_most("components within components", depth.into(), MOST_DEPTH.into())?;
                memories.push(0);
            }
            Payload::End(_) => {
                // Saturates, because the outermost one was not counted.
                depth = depth.saturating_sub(1);
                memories.pop();
            }
            Payload::ImportSection(section) => {
                for import in section.clone().into_imports() {
                    let is_memory = matches!(import.map_err(broken)?.ty, TypeRef::Memory(_));
                    few_memories(&mut memories, u64::from(is_memory))?;
                }
            }
            Payload::MemorySection(section) => few_memories(&mut memories, section.count().into())?,
            Payload::ComponentTypeSection(section) => {
                let range = section.range();
                types::walk(&bytes[range.clone()], range.start, &mut |_| Ok(()))?;
            }
            Payload::CodeSectionEntry(body) => {
                let mut locals: u64 = 0;
                for group in body.get_locals_reader().map_err(broken)? {
                    locals = locals.saturating_add(group.map_err(broken)?.0.into());
                }
                at_most("locals in one function", locals, MOST_LOCALS)?;
            }
            _ => {}
        }
        at_most("functions", functions.into(), MOST_FUNCTIONS.into())?;
        if own {
            each(&payload)?;
        }
    }
    Ok(())
}

/// Notes memories of the innermost module. The compiler would take several, but a phase has one.
fn few_memories(memories: &mut [u64], more: u64) -> Result<(), LoadError> {
    let Some(count) = memories.last_mut() else { return Ok(()) };
    *count = count.saturating_add(more);
    at_most("memories in one module", *count, 1)
}

/// Adds the contract's metadata to a core module with the contract's imports and exports.
///
/// # Errors
/// [`LoadError::NotAComponent`] if it is not a core module.
pub fn with_contract(core: &[u8]) -> Result<Vec<u8>, LoadError> {
    let refused = |error: &dyn std::fmt::Display| LoadError::NotAComponent(format!("{error:#}"));
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_str("phase.wit", WIT).map_err(|error| refused(&error))?;
    let world = resolve.select_world(&[package], Some("phase")).map_err(|error| refused(&error))?;
    let mut module = core.to_vec();
    let encoding = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, encoding)
        .map_err(|error| refused(&error))?;
    Ok(module)
}

/// How many bytes of a module are used for what.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Sizes {
    pub whole: usize,
    pub code: usize,
    pub data: usize,
    /// Names of functions, for backtraces.
    pub names: usize,
}

impl Sizes {
    /// # Errors
    /// [`LoadError::Broken`] if the bytes cannot be parsed to the end.
    pub fn of(bytes: &[u8]) -> Result<Self, LoadError> {
        let mut sizes = Self { whole: bytes.len(), ..Self::default() };
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| LoadError::Broken(error.to_string()))? {
                Payload::CodeSectionStart { range, .. } => sizes.code += range.len(),
                Payload::DataSection(section) => sizes.data += section.range().len(),
                Payload::CustomSection(section) if section.name() == "name" => {
                    sizes.names += section.range().len()
                }
                _ => {}
            }
        }
        Ok(sizes)
    }
}

fn kind_of_other_file(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x7f, b'E', b'L', b'F', ..] => {
            "an ELF file, as shared libraries are; say kind = \"native\" in the manifest"
        }
        [b'(', ..] | [b';', b';', ..] => "WebAssembly text; assemble it first",
        [0, b'a', b's', b'm', ..] => "WebAssembly of a version this host does not know",
        [0, b'a', ..] | [0] => "the beginning of a WebAssembly file; was it written whole?",
        _ => "no WebAssembly at all",
    }
}
