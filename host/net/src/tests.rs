//! Tests of the network against itself and against hostile peers, over loopback TCP. Every wait is bounded; none is a
//! sleep.

mod duplicates;
mod endings;
mod exchange;
mod harness;
mod key;
mod load;
mod receiving;
mod rounds;
mod slow;
mod strangers;
mod talking;
mod transport;
