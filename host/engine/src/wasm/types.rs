//! Walks nested component types without recursion. Refuses types that are nested too deeply: wasmparser uses a stack
//! frame per level, and a level takes three bytes of a file, so a small file could overflow the stack of the process.

use wasmparser::{BinaryReader, ComponentType, ComponentTypeDeclaration};

use super::inspect::{MOST_DEPTH, at_most};
use super::{LoadError, inspect};

/// The first byte of a component type, and of an instance type.
const NESTING: [u8; 2] = [0x41, 0x42];
/// The first byte of a declaration that is a type.
const TYPE: u8 = 0x01;

/// Calls `each` with every declaration in the types of one section, outermost first, except declarations of types.
///
/// `section` is the content of the section. `offset` is its place in the file, for messages. O(bytes), no recursion.
///
/// # Errors
/// [`LoadError::TooLarge`] beyond [`MOST_DEPTH`], [`LoadError::Broken`], or the error of `each`.
pub(super) fn walk<'a>(
    section: &'a [u8],
    offset: usize,
    each: &mut dyn FnMut(ComponentTypeDeclaration<'a>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut reader = BinaryReader::new(section, offset);
    // How many items are left at each level. Items of the first level are types, those of the others declarations.
    let mut open = vec![reader.read_var_u32().map_err(inspect::broken)?];
    while let Some(left) = open.last_mut() {
        if *left == 0 {
            open.pop();
            continue;
        }
        *left -= 1;
        if open.len() > 1 && next(&reader)? != TYPE {
            each(reader.read().map_err(inspect::broken)?)?;
            continue;
        }
        if open.len() > 1 {
            _ = reader.read_u8();
        }
        if NESTING.contains(&next(&reader)?) {
            _ = reader.read_u8();
            open.push(reader.read_var_u32().map_err(inspect::broken)?);
            at_most("component types within component types", open.len() as u64, MOST_DEPTH.into())?;
        } else {
            reader.read::<ComponentType<'a>>().map_err(inspect::broken)?;
        }
    }
    Ok(())
}

/// The next byte. Does not advance the reader.
fn next(reader: &BinaryReader<'_>) -> Result<u8, LoadError> {
    reader.clone().read_u8().map_err(inspect::broken)
}
