//! Walks the types of components, which nest, with a stack of its own. Refuses what would end the readers that recurse,
//! and with them the process: wasmparser's take a frame a level, and a level is three bytes of a file.

use wasmparser::{BinaryReader, ComponentType, ComponentTypeDeclaration};

use super::inspect::{MOST_DEPTH, at_most};
use super::{LoadError, inspect};

/// Opens a component type, and an instance type.
const NESTING: [u8; 2] = [0x41, 0x42];
/// The declaration that is a type.
const TYPE: u8 = 0x01;

/// Calls `each` with every declaration within the types of one section, outermost first; types are not among them.
///
/// `section` is what the section holds, `offset` is where in the file, for messages. O(bytes), no recursion.
///
/// # Errors
/// [`LoadError::TooLarge`] past [`MOST_DEPTH`], [`LoadError::Broken`], or what `each` says.
pub(super) fn walk<'a>(
    section: &'a [u8],
    offset: usize,
    each: &mut dyn FnMut(ComponentTypeDeclaration<'a>) -> Result<(), LoadError>,
) -> Result<(), LoadError> {
    let mut reader = BinaryReader::new(section, offset);
    // How many are still to come at each level; those of the first are types and not declarations.
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

/// The next byte, which stays where it is.
fn next(reader: &BinaryReader<'_>) -> Result<u8, LoadError> {
    reader.clone().read_u8().map_err(inspect::broken)
}
