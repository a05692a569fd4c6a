//! Static limits for modules that are compiled in this process, where nothing else bounds time and memory.
//!
//! Measured with hostile modules, on one core at 3 GHz: within these limits the worst takes 17 s and 350 MiB. Phases in
//! Rust and C stay below a tenth of each limit. Interpreters of other languages exceed them.

use wasmparser::{FunctionBody, Operator, Parser, Payload};

use super::super::LoadError;
use super::super::inspect::broken;

/// Bytes of code in all functions together. A call takes two bytes, and 8 us to compile.
pub const MOST_CODE_IN_PROCESS: u64 = 1 << 20;

/// Bytes of one function. Memory grows with the largest function: 64 KiB of calls take 150 MiB.
const MOST_BODY: u64 = 64 << 10;

/// Functions. An empty one takes 80 us, one with 64 parameters 140 us.
const MOST_FUNCTIONS: u64 = 10_000;

/// Locals of one function.
const MOST_LOCALS: u64 = 1_000;

/// Nesting of blocks in one function. Time grows faster than the nesting: 300 levels take 2.5 s, 1,000 take minutes.
const MOST_NESTING: u64 = 256;

/// Locals times nesting, summed over all functions: a local may need a value at each level, in 8 us.
const MOST_LEVELS: u64 = 1_000_000;

/// Locals times blocks, summed over all functions: a local may need a value at each join, in 0.5 us.
const MOST_JOINS: u64 = 10_000_000;

/// Targets of all branch tables of one function.
const MOST_TARGETS: u64 = 8_192;

/// Parameters, and results, of a function or block.
const MOST_PARAMETERS: u64 = 64;
const MOST_RESULTS: u64 = 16;

/// Entries of all element and data segments.
const MOST_SEGMENTS: u64 = 100_000;

/// Sums over a module.
#[derive(Default)]
struct ModuleCost {
    code: u64,
    functions: u64,
    levels: u64,
    joins: u64,
    segments: u64,
}

/// Refuses a component that could take long to compile. O(bytes).
///
/// # Errors
/// [`LoadError::NeedsChild`] names the limit.
pub(super) fn check(component: &[u8]) -> Result<(), LoadError> {
    let mut cost = ModuleCost::default();
    for payload in Parser::new(0).parse_all(component) {
        match payload.map_err(broken)? {
            Payload::TypeSection(types) => {
                for group in types {
                    for ty in group.map_err(broken)?.types() {
                        if let wasmparser::CompositeInnerType::Func(ty) = &ty.composite_type.inner {
                            at_most("parameters of one function", ty.params().len() as u64, MOST_PARAMETERS)?;
                            at_most("results of one function", ty.results().len() as u64, MOST_RESULTS)?;
                        }
                    }
                }
            }
            Payload::FunctionSection(section) => cost.functions += u64::from(section.count()),
            Payload::ComponentCanonicalSection(section) => cost.functions += u64::from(section.count()),
            Payload::DataSection(section) => cost.segments += u64::from(section.count()),
            Payload::ElementSection(section) => {
                // An entry takes a byte or more.
                cost.segments += section.range().len() as u64;
            }
            Payload::CodeSectionEntry(body) => cost.add(&body)?,
            _ => {}
        }
        cost.check()?;
    }
    Ok(())
}

impl ModuleCost {
    fn add(&mut self, body: &FunctionBody<'_>) -> Result<(), LoadError> {
        let bytes = body.range().len() as u64;
        at_most("bytes of code in one function", bytes, MOST_BODY)?;
        let mut locals: u64 = 0;
        for group in body.get_locals_reader().map_err(broken)? {
            locals = locals.saturating_add(group.map_err(broken)?.0.into());
        }
        at_most("locals in one function", locals, MOST_LOCALS)?;
        // Parameters are locals too.
        locals += MOST_PARAMETERS / 8;
        let (mut depth, mut deepest, mut blocks, mut targets) = (0_u64, 0, 0, 0);
        let mut operators = body.get_operators_reader().map_err(broken)?;
        while !operators.eof() {
            match operators.read().map_err(broken)? {
                Operator::Block { .. }
                | Operator::Loop { .. }
                | Operator::If { .. }
                | Operator::TryTable { .. } => {
                    blocks += 1;
                    depth += 1;
                    deepest = depth.max(deepest);
                }
                Operator::End => depth = depth.saturating_sub(1),
                Operator::BrTable { targets: table } => targets += u64::from(table.len()),
                _ => {}
            }
        }
        at_most("nested blocks in one function", deepest, MOST_NESTING)?;
        at_most("branch targets in one function", targets, MOST_TARGETS)?;
        self.code += bytes;
        self.levels += locals * deepest;
        self.joins += locals * blocks;
        Ok(())
    }

    fn check(&self) -> Result<(), LoadError> {
        at_most("bytes of code", self.code, MOST_CODE_IN_PROCESS)?;
        at_most("functions", self.functions, MOST_FUNCTIONS)?;
        at_most("locals times nested blocks", self.levels, MOST_LEVELS)?;
        at_most("locals times blocks", self.joins, MOST_JOINS)?;
        at_most("segments", self.segments, MOST_SEGMENTS)
    }
}

fn at_most(what: &'static str, count: u64, most: u64) -> Result<(), LoadError> {
    if count > most { Err(LoadError::NeedsChild { what, count, most }) } else { Ok(()) }
}
