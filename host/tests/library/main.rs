//! Tests of the library through its public interface, in one binary: each binary links the whole host.

#[cfg(feature = "wasm")]
mod guests;
#[cfg(feature = "net")]
mod node;
#[cfg(feature = "wasm")]
mod smith;
#[cfg(feature = "net")]
mod stress;

mod fence;
mod grants;
mod greedy;
mod heartbeat;
#[cfg(feature = "wasm")]
mod hostile;
mod policy;
mod record;
mod reload;
mod support;
