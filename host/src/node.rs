//! Puts the rooms together. Owns starting and stopping, in order; decides nothing else.

#[cfg(feature = "net")]
mod builder;
mod builtins;
mod maintenance;
#[cfg(feature = "net")]
mod reconfigure;
#[cfg(feature = "net")]
mod tuning;
#[cfg(feature = "net")]
mod whole;

#[cfg(feature = "net")]
pub use builder::NodeBuilder;
pub use builtins::{BUILTINS, builtins};
pub use maintenance::{Maintenance, Options, TableLimits, Tables};
#[cfg(feature = "net")]
pub use reconfigure::{ReadConfig, Reconfigurer, compare};
#[cfg(feature = "net")]
pub use whole::{Node, ShutdownStep, StartError};
