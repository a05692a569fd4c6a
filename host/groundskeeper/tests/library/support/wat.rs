//! Phases written by hand as WebAssembly text: what no compiler would make of honest source.
#![allow(dead_code, reason = "each test binary uses its own part")]

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

use groundskeeper_sdk::contract::WIT;

/// Every function of the contract as a core module imports it: interface, name, signature.
pub const FUNCTIONS: &[(&str, &str, &str)] = &[
    ("peers", "totals-now", "(param i32)"),
    ("peers", "select", "(param i32 i32 i32 i32 i32 i32 i32 i32)"),
    ("peers", "count", "(param i32 i32) (result i32)"),
    ("peers", "facts", "(param i32 i32 i32 i32 i32)"),
    ("peers", "column", "(param i32 i32 i32 i32)"),
    ("peers", "names", "(param i32 i32 i32)"),
    ("peers", "columns", "(param i32)"),
    ("book", "select", "(param i32 i32 i32 i32 i32 i32 i32 i32)"),
    ("book", "count", "(param i32 i32) (result i32)"),
    ("book", "facts", "(param i32 i32 i32 i32 i32)"),
    ("book", "column", "(param i32 i32 i32 i32)"),
    ("book", "names", "(param i32 i32 i32)"),
    ("book", "columns", "(param i32)"),
    ("broadcasts", "totals-now", "(param i32)"),
    ("disconnect", "ask", "(param i32 i32 i32)"),
    ("disconnect", "ask-if-silent", "(param i32 i32 i32)"),
    ("health", "adjust", "(param i32 i32 i32 i32)"),
    ("ping", "ask", "(param i32 i32)"),
    ("ping", "matching", "(param i32 i32)"),
    ("dial", "ask", "(param i32 i32 i32)"),
    ("dial", "probe", "(param i32)"),
    ("protect", "ask", "(param i32 i32 i32 i32)"),
    ("ban", "ask", "(param i32 i32 i32 i32)"),
    ("forget", "broadcasts", "(param i32)"),
    ("forget", "addresses", "(param i32)"),
    ("cadence", "again-in", "(param i32)"),
    ("memory", "load", "(param i32)"),
    ("memory", "store", "(param i32 i32 i32)"),
    ("log", "write", "(param i32 i32 i32)"),
    ("metrics", "add", "(param i32 i32 i32)"),
    ("metrics", "set", "(param i32 i32 f64)"),
];

/// A phase as core WebAssembly text. What is not set is the least that works.
pub struct Wat {
    /// Imports, types and globals, before everything else.
    pub head: String,
    /// Instructions of `run`: its parameters are `$number` .. `$settings_len`; leaves a pointer to its result, `(i32.const 8)`
    /// for "ok".
    pub run: String,
    /// Instructions of `check`.
    pub check: String,
    /// Instructions of `describe`.
    pub describe: String,
    /// Instructions before those of `cabi_realloc`, which gives the host room for what it returns.
    pub realloc: String,
    /// Further functions, a start section, data.
    pub tail: String,
    /// Pages of memory at the start.
    pub pages: u32,
    /// The contract that it says it was built for, and the world in it.
    pub wit: String,
    pub world: &'static str,
}

impl Default for Wat {
    fn default() -> Self {
        Self {
            head: String::new(),
            run: "(i32.const 8)".into(),
            check: "(i32.const 8)".into(),
            describe: "(i32.const 64)".into(),
            realloc: String::new(),
            tail: String::new(),
            pages: 1,
            wit: WIT.to_owned(),
            world: "phase",
        }
    }
}

impl Wat {
    pub fn run(instructions: &str) -> Self {
        Self { run: instructions.into(), ..Self::default() }
    }

    /// With imports of the contract: `(interface, function, "(param i32) ..")`, callable as `$interface.function`.
    pub fn importing(mut self, imports: &[(&str, &str, &str)]) -> Self {
        for (interface, function, signature) in imports {
            self.head += &format!(
                "(import \"groundskeeper:phase/{interface}@0.1.0\" \"{function}\" \
                 (func ${interface}.{function} {signature}))\n"
            );
        }
        self
    }

    /// The text of the core module. Memory from 0: results at 8 ("ok", all zero) and 64 (descriptor: three empty
    /// strings), scratch for host results at 256, constants of the test's own from 1024, the heap from 4096.
    pub fn text(&self) -> String {
        let Self { head, run, check, describe, realloc, tail, pages, .. } = self;
        format!(
            r#"(module $guest
  {head}
  (memory (export "memory") {pages})
  (global $next (mut i32) (i32.const 4096))
  (func $realloc (export "cabi_realloc") (param $old i32) (param $old_size i32) (param $align i32) (param $size i32) (result i32)
    (local $at i32)
    {realloc}
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get $size)))
    (block $fits
      (loop $grow
        (br_if $fits (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
        (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1)))
        (unreachable)))
    (local.get $at))
  (func $describe (export "groundskeeper:phase/lifecycle@0.1.0#describe") (result i32) {describe})
  (func $check (export "groundskeeper:phase/lifecycle@0.1.0#check") (param $settings i32) (param $settings_len i32) (result i32) {check})
  (func $run (export "groundskeeper:phase/lifecycle@0.1.0#run")
    (param $number i32) (param $since i32) (param $missed i32) (param $late i32) (param $unix i32)
    (param $seed0 i32) (param $seed1 i32) (param $settings i32) (param $settings_len i32) (result i32)
    {run})
  {tail})"#
        )
    }

    /// A core module as cargo would leave it: with the contract's metadata.
    pub fn core(&self) -> Vec<u8> {
        let text = self.text();
        let bytes = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        embed(bytes, &self.wit, self.world)
    }

    /// The same as a component.
    pub fn component(&self) -> Vec<u8> {
        encode(&self.core()).unwrap_or_else(|error| panic!("{error}\n{}", self.text()))
    }

    /// The same, made for another version of the contract.
    pub fn component_for(&self, version: &str) -> Vec<u8> {
        let other = |text: &str| text.replace("@0.1.0", &format!("@{version}"));
        let text = other(&self.text());
        let core = embed(parse(&text), &other(&self.wit), self.world);
        encode(&core).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

/// A core module that says it was made for this world.
pub fn embed(mut core: Vec<u8>, wit: &str, world: &str) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let package = resolve.push_str("phase.wit", wit).unwrap_or_else(|error| panic!("{error:#}"));
    let world = resolve.select_world(&[package], Some(world)).expect("it has this world");
    embed_component_metadata(&mut core, &resolve, world, StringEncoding::UTF8).expect("a core module");
    core
}

/// A component of a core module with metadata.
///
/// # Errors
/// The encoder's words.
pub fn encode(core: &[u8]) -> Result<Vec<u8>, String> {
    let encoder = ComponentEncoder::default().validate(true).module(core);
    encoder.and_then(|mut encoder| encoder.encode()).map_err(|error| format!("{error:#}"))
}

/// Any WebAssembly text as bytes.
pub fn parse(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}"))
}
