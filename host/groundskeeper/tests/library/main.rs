//! Tests of the library through its public interface, in one binary: each binary links the whole host.

#[cfg(feature = "node")]
mod accepted;
#[cfg(feature = "wasm")]
mod guests;
#[cfg(feature = "node")]
mod node;
#[cfg(feature = "wasm")]
mod smith;
#[cfg(feature = "node")]
mod stress;

mod fence;
mod grants;
mod greedy;
mod heartbeat;
#[cfg(feature = "wasm")]
mod hostile;
#[cfg(feature = "telemetry")]
mod own_connections;
mod policy;
mod record;
mod reload;
mod support;
#[cfg(feature = "wasm")]
#[path = "support/wat.rs"]
mod wat;
