//! Tests that start the program, or use what only the program has: authors' tools and the command line. One binary.

mod bombs;
mod cli;
mod compiling;
mod newcomer;
mod older;
mod processes;
mod ready;
mod replay;
#[path = "../../../groundskeeper/tests/library/support/mod.rs"]
mod support;
mod three_ways;
#[path = "../../../groundskeeper/tests/library/support/wat.rs"]
mod wat;
