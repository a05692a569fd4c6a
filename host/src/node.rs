//! Puts the rooms together. Owns starting and stopping, in order; decides nothing else.

mod builtins;
mod maintenance;

pub use builtins::{BUILTINS, builtins};
pub use maintenance::{Maintenance, Options, TableLimits, Tables};
