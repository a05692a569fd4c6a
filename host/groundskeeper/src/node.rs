//! Combines the parts. Responsible for the order of starting and stopping; decides nothing else.

#[cfg(feature = "node")]
mod builder;
mod builtins;
#[cfg(feature = "node")]
mod config_files;
#[cfg(feature = "dropin")]
mod drop_in;
#[cfg(feature = "node")]
mod empty_config;
#[cfg(feature = "node")]
mod limits;
mod maintenance;
#[cfg(feature = "node")]
mod reconfigure;
#[cfg(feature = "dropin")]
mod saver;
mod start_error;
#[cfg(feature = "node")]
mod supply;
#[cfg(feature = "node")]
mod whole;

#[cfg(feature = "telemetry")]
pub use crate::admin::{AdminError, AdminSettings};
#[cfg(feature = "node")]
pub use builder::NodeBuilder;
#[doc(hidden)]
pub use builtins::BUILTINS;
pub use builtins::builtins;
#[cfg(feature = "dropin")]
pub use drop_in::DropIn;
pub use groundskeeper_pool::{NodeLimits, NodeState};
#[cfg(feature = "dropin")]
pub use maintenance::DataOptions;
pub use maintenance::{Maintenance, Options};
#[cfg(feature = "node")]
pub use reconfigure::ConfigSource;
#[cfg(feature = "node")]
#[doc(hidden)]
pub use reconfigure::{Reconfigurer, compare};
pub use start_error::StartError;
#[cfg(feature = "node")]
pub use whole::{Node, ShutdownStep};
