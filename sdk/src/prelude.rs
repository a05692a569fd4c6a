//! What `use groundskeeper_sdk::prelude::*;` imports: enough to write a phase, nothing for hosts.

pub use crate::column::{Address, Peer, UNKNOWN, address, peer};
pub use crate::decay::decay;
pub use crate::memory::Memory;
pub use crate::phase::{Failure, Phase, Result, Tick};
pub use crate::plan::{Level, Plan};
pub use crate::settings::within;
pub use crate::span::Span;
pub use crate::view::View;
pub use serde::{Deserialize, Serialize};
