//! Puts the rooms together. Owns starting and stopping, in order; decides nothing else.

mod builtins;
mod maintenance;
mod whole;

pub use builtins::{BUILTINS, builtins};
pub use maintenance::{Maintenance, Options, TableLimits, Tables};
pub use whole::{Additions, Node, ShutdownStep, StartError};
