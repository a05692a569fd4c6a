//! Tests that start the program, or use what only the program has: authors' tools and the command line. One binary.

mod bombs;
mod cli;
mod compiling;
mod descriptors;
mod explained;
mod generations;
mod local_api;
mod name_servers;
mod newcomer;
mod older;
mod one_key;
mod processes;
mod ready;
mod replay;
mod round_trips;
mod shortage;
#[path = "../../../groundskeeper/tests/library/support/mod.rs"]
mod support;
mod surroundings;
mod systemd;
mod three_ways;
#[path = "../../../groundskeeper/tests/library/support/wat.rs"]
mod wat;
