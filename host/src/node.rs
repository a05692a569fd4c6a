//! Puts the rooms together. Owns starting and stopping, in order; decides nothing else.

mod maintenance;

pub use maintenance::{Maintenance, Options, TableLimits, Tables};
