//! Puts the rooms together. Owns starting and stopping, in order; decides nothing else.

mod builtins;
mod maintenance;
#[cfg(feature = "net")]
mod reconfigure;
#[cfg(feature = "net")]
mod tuning;
#[cfg(feature = "net")]
mod whole;

pub use builtins::{BUILTINS, builtins};
pub use maintenance::{Maintenance, Options, TableLimits, Tables};
#[cfg(feature = "net")]
pub use reconfigure::{ReadConfig, Reconfigurer, compare};
#[cfg(feature = "net")]
pub use whole::{Additions, Node, ShutdownStep, StartError};
