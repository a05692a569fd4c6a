//! The range of a setting. The config check, the JSON schema and the error messages all use it.

use std::fmt;

pub use groundskeeper_sdk::span::Span;

use crate::bytes::ByteSize;

/// The lowest and the highest value of a key, both allowed.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    Time(Span, Span),
    Size(ByteSize, ByteSize),
    Count(u64, u64),
    Fraction(f64, f64),
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(least, most) => write!(f, "{least} to {most}"),
            Self::Time(least, most) => write!(f, "{least} to {most}"),
            Self::Size(least, most) => write!(f, "{least} to {most}"),
            Self::Fraction(least, most) => write!(f, "{least} to {most}"),
        }
    }
}
