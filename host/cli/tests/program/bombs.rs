//! Small modules that take very long or very much memory to compile, written byte by byte.

/// A name and a module.
pub type Bomb = (&'static str, Vec<u8>);

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

/// Signed, of a number that is not negative.
fn signed(number: usize) -> Vec<u8> {
    let mut bytes = leb(number);
    if bytes.last().is_some_and(|last| last & 0x40 != 0) {
        *bytes.last_mut().unwrap() |= 0x80;
        bytes.push(0);
    }
    bytes
}

fn vector(items: &[Vec<u8>]) -> Vec<u8> {
    [leb(items.len()), items.concat()].concat()
}

fn sized(bytes: Vec<u8>) -> Vec<u8> {
    [leb(bytes.len()), bytes].concat()
}

fn section(number: u8, content: Vec<u8>) -> Vec<u8> {
    [vec![number], sized(content)].concat()
}

/// An operator with a number.
fn op(code: u8, number: usize) -> Vec<u8> {
    [vec![code], leb(number)].concat()
}

const BLOCK: [u8; 2] = [0x02, 0x40];
const LOOP: [u8; 2] = [0x03, 0x40];
const IF: [u8; 2] = [0x04, 0x40];
const END: u8 = 0x0b;
const DROP: u8 = 0x1a;
const ADD: u8 = 0x6a;
const GET: u8 = 0x20;
const SET: u8 = 0x21;
const BR_IF: u8 = 0x0d;
const BR_TABLE: u8 = 0x0e;

fn body(locals: usize, code: Vec<u8>) -> Vec<u8> {
    let declared = if locals == 0 { leb(0) } else { [leb(1), leb(locals), vec![0x7f]].concat() };
    sized([declared, code, vec![END]].concat())
}

/// A core module with these functions, all without parameters. It is no phase, but its functions can be part of one.
fn module(bodies: &[Vec<u8>]) -> Vec<u8> {
    module_with(bodies, 1)
}

/// The same with this many pages of memory.
fn module_with(bodies: &[Vec<u8>], pages: usize) -> Vec<u8> {
    let types = vector(&[vec![0x60, 0, 0]]);
    let functions = vector(&vec![leb(0); bodies.len()]);
    [
        b"\0asm\x01\0\0\0".to_vec(),
        section(1, types),
        section(3, functions),
        section(5, vector(&[op(0, pages)])),
        section(10, vector(bodies)),
    ]
    .concat()
}

/// `i = i + 1`
fn increment(local: usize) -> Vec<u8> {
    [op(GET, local), vec![0x41, 1, ADD], op(SET, local)].concat()
}

/// Each local needs a value at the head of each loop.
fn loops(locals: usize, depth: usize) -> Vec<u8> {
    let uses: Vec<u8> = (0..locals).flat_map(increment).collect();
    let ends: Vec<u8> = [op(GET, 0), op(BR_IF, 0), vec![END]].concat().repeat(depth);
    body(locals, [LOOP.repeat(depth), uses, ends].concat())
}

/// The same with blocks that are left from the inside.
fn blocks(locals: usize, depth: usize) -> Vec<u8> {
    let uses =
        (0..locals).flat_map(|local| [increment(local), op(GET, 0), op(BR_IF, local % depth)].concat());
    let ends = (0..depth).flat_map(|level| [increment(level % locals), vec![END]].concat());
    body(locals, [BLOCK.repeat(depth), uses.collect(), ends.collect()].concat())
}

/// Loads from memory, added up in the end.
fn live(values: usize) -> Vec<u8> {
    let loads = (0..values).flat_map(|at| [vec![0x41], signed(at * 4 % 65_000), vec![0x28, 2, 0]].concat());
    body(0, [loads.collect(), vec![ADD; values - 1], vec![DROP]].concat())
}

fn ifs(locals: usize, count: usize) -> Vec<u8> {
    let one = |at: usize| {
        [op(GET, at % locals), IF.to_vec(), vec![0x41, (at % 64) as u8], op(SET, at * 7 % locals), vec![END]]
            .concat()
    };
    let uses = (0..locals).flat_map(|local| [op(GET, local), vec![DROP]].concat());
    body(locals, (0..count).flat_map(one).chain(uses).collect())
}

fn calls(count: usize) -> Vec<u8> {
    body(0, op(0x10, 0).repeat(count))
}

/// Branch tables whose targets differ.
fn tables(targets: usize, count: usize, depth: usize) -> Vec<u8> {
    let list: Vec<u8> = (0..targets).flat_map(|at| leb(at % depth)).collect();
    let table = [BLOCK.to_vec(), op(GET, 0), vec![BR_TABLE], leb(targets), list, leb(0), vec![END]].concat();
    body(1, [BLOCK.repeat(depth), table.repeat(count), vec![END; depth]].concat())
}

/// Those that were found first, and others of the same kinds. Each is less than 2 MB.
pub fn all() -> Vec<Bomb> {
    vec![
        ("20,000 locals in 4,000 loops", module(&[loops(20_000, 4_000)])),
        ("2,000 locals in 2,000 loops, eight times", module(&vec![loops(2_000, 2_000); 8])),
        ("2,000 locals in 3,000 blocks", module(&[blocks(2_000, 3_000)])),
        ("40,000 values live at once", module(&[live(40_000)])),
        ("100,000 values live at once", module(&[live(100_000)])),
        ("20,000 ifs with 1,000 locals", module(&[ifs(1_000, 20_000)])),
        ("700,000 calls", module(&[calls(700_000)])),
        ("28,000 calls, forty times", module(&vec![calls(28_000); 40])),
        ("65,000 targets, fifty times", module(&[tables(65_000, 50, 100)])),
        ("40,000 functions", module(&vec![body(0, Vec::new()); 40_000])),
        ("30,000 nested blocks", module(&[body(0, [BLOCK.repeat(30_000), vec![END; 30_000]].concat())])),
    ]
}

/// No bomb: a module of about `size` bytes, a third of it code and the rest data, as an interpreter with its library has
/// them. Each version has another first function.
pub fn large(version: usize, size: usize) -> Vec<u8> {
    const FUNCTION: usize = 2_000;
    let add = [op(GET, 0), op(GET, 0), vec![0x28, 2, 0, ADD], op(SET, 0)].concat();
    let first = body(1, [vec![0x41], signed(version), vec![DROP]].concat());
    let other = body(1, add.repeat(FUNCTION / add.len()));
    let mut bodies = vec![other; size / 3 / FUNCTION];
    bodies.push(first);
    let data: Vec<u8> = (0..size * 2 / 3).map(|at| (at * at / 7) as u8).collect();
    let pages = data.len().div_ceil(1 << 16);
    let segment = [vec![0, 0x41], signed(0), vec![END], sized(data)].concat();
    [module_with(&bodies, pages), section(11, vector(&[segment]))].concat()
}

/// A component that holds the module, and exports nothing.
pub fn component(module: &[u8]) -> Vec<u8> {
    [b"\0asm\x0d\0\x01\0".to_vec(), section(1, module.to_vec())].concat()
}

/// A phase that holds the module and never runs it.
pub fn phase_with(module: &[u8]) -> Vec<u8> {
    let phase = crate::wat::Wat::default().component();
    // A component may hold modules that it does not instantiate; they are compiled all the same.
    [phase, section(1, module.to_vec())].concat()
}
