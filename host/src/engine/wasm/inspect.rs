//! Looks at a module's bytes before the compiler does: size, kind, numbers. Refuses what would cost too much.

use std::borrow::Cow;

use groundskeeper_sdk::contract::WIT;
use wasmparser::{Parser, Payload};

use super::LoadError;
use super::trap::short;

/// Larger than any guest we know: Python's is 18 MB.
pub const MOST_BYTES: usize = 32 << 20;

/// Compiling costs about 160 us a function even if it is empty; an interpreter of a whole language has 20,000. What a
/// component lifts and lowers counts too: each becomes a function.
pub const MOST_FUNCTIONS: u32 = 40_000;

/// Of one function. Compilers are slow on functions with very many.
pub const MOST_LOCALS: u64 = 20_000;

/// Components within components. Tools nest two or three; reading them costs the square of it.
pub const MOST_DEPTH: u32 = 32;

/// Where wit-bindgen keeps the types of a core module's imports and exports.
const METADATA: &str = "component-type";

/// The bytes as a component: as they are, or made of a core module that carries the contract's metadata.
///
/// # Errors
/// [`LoadError`] for what is no WebAssembly, too large, or no phase.
pub fn component_of(bytes: &[u8]) -> Result<Cow<'_, [u8]>, LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Empty);
    }
    if bytes.len() > MOST_BYTES {
        return Err(LoadError::TooLarge {
            what: "bytes",
            count: bytes.len() as u64,
            most: MOST_BYTES as u64,
        });
    }
    let is_core = Parser::is_core_wasm(bytes);
    if !is_core && !Parser::is_component(bytes) {
        return Err(LoadError::NotWasm(kind_of_other_file(bytes)));
    }
    let seen = look(bytes)?;
    if !is_core {
        return Ok(Cow::Borrowed(bytes));
    }
    if !seen.has_metadata {
        return Err(LoadError::CoreWithoutMetadata);
    }
    let encoded = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(bytes)
        .and_then(|mut encoder| encoder.encode())
        .map_err(|error| LoadError::NotAComponent(short(&format!("{error:#}"))))?;
    Ok(Cow::Owned(encoded))
}

#[derive(Default)]
struct Seen {
    has_metadata: bool,
}

/// Walks all sections of all modules inside, without recursing and without keeping any of it.
fn look(bytes: &[u8]) -> Result<Seen, LoadError> {
    let broken = |error: wasmparser::BinaryReaderError| LoadError::Broken(short(&error.to_string()));
    let mut seen = Seen::default();
    let mut functions: u32 = 0;
    let mut depth: u32 = 0;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(broken)? {
            Payload::FunctionSection(section) => functions = few(functions, section.count())?,
            Payload::ComponentCanonicalSection(section) => functions = few(functions, section.count())?,
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => {
                depth += 1;
                if depth > MOST_DEPTH {
                    let (count, most) = (depth.into(), MOST_DEPTH.into());
                    return Err(LoadError::TooLarge { what: "components within components", count, most });
                }
            }
            // The outermost one has not been counted.
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::CodeSectionEntry(body) => {
                let mut locals: u64 = 0;
                for group in body.get_locals_reader().map_err(broken)? {
                    locals = locals.saturating_add(group.map_err(broken)?.0.into());
                }
                if locals > MOST_LOCALS {
                    return Err(LoadError::TooLarge {
                        what: "locals in one function",
                        count: locals,
                        most: MOST_LOCALS,
                    });
                }
            }
            Payload::CustomSection(section) if section.name().starts_with(METADATA) => {
                seen.has_metadata = true;
            }
            _ => {}
        }
    }
    Ok(seen)
}

/// A core module whose imports and exports follow the contract by name, with the metadata that says so.
///
/// # Errors
/// [`LoadError::NotAComponent`] if it is no core module.
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

/// What a module's bytes are for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct Sizes {
    pub whole: usize,
    pub code: usize,
    pub data: usize,
    /// Of functions, for backtraces.
    pub names: usize,
}

impl Sizes {
    /// # Errors
    /// [`LoadError::Broken`] if the bytes cannot be read to their end.
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

/// Functions with so many more.
fn few(functions: u32, more: u32) -> Result<u32, LoadError> {
    let functions = functions.saturating_add(more);
    if functions > MOST_FUNCTIONS {
        let (count, most) = (functions.into(), MOST_FUNCTIONS.into());
        return Err(LoadError::TooLarge { what: "functions", count, most });
    }
    Ok(functions)
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
