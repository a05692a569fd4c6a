#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]
// Integers only: floating point differs between native code and wasm in its last bits.
#![warn(clippy::float_arithmetic)]

mod broadcast_cleanup;
mod exchange_cleanup;
mod reaper;
mod reconnect;

pub use broadcast_cleanup::BroadcastCleanup;
pub use exchange_cleanup::ExchangeCleanup;
#[doc(hidden)]
pub use exchange_cleanup::LAST_GOOD;
pub use reaper::Reaper;
pub use reconnect::Reconnect;
