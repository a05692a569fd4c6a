//! The network against itself and against strangers, over loopback TCP. Every wait is bounded; none is a sleep.

mod harness;
mod talking;
