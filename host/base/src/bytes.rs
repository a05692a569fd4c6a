//! Byte sizes as people write them: "16 MiB".

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// A number of bytes, written like `512 B`, `16 KiB`, `64 MiB` or `1 GiB`, with or without the space.
///
/// Powers of 1024 only: with `MB` too, a mistaken unit would change a limit by 4.9 %.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl ByteSize {
    /// `n` times 1,024 bytes, without a check for overflow.
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    /// `n` times 1,024^2 bytes, without a check for overflow.
    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    /// `n` times 1,024^3 bytes, without a check for overflow.
    pub const fn gib(n: u64) -> Self {
        Self(n << 30)
    }
}

/// Uses the largest unit in which the number is whole.
impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, size) =
            UNITS.iter().find(|(_, size)| self.0 > 0 && self.0.is_multiple_of(*size)).unwrap_or(&("B", 1));
        write!(f, "{} {unit}", self.0 / size)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(40).collect();
            format!("size {shown:?} {why}; write it like \"512 B\", \"16 KiB\", \"64 MiB\" or \"1 GiB\"")
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = (&text[..digits], text[digits..].trim());
        if number.is_empty() {
            return Err(wrong("does not begin with a whole number"));
        }
        if unit.is_empty() {
            return Err(wrong("has no unit"));
        }
        let (_, size) = UNITS
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(unit))
            .ok_or_else(|| wrong("has an unknown unit"))?;
        let bytes = number.parse::<u64>().ok().and_then(|n| n.checked_mul(*size));
        bytes.map(Self).ok_or_else(|| wrong("is too large"))
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size with its unit, like \"16 MiB\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        from.deserialize_str(Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_is_read_back() {
        for (bytes, text) in [
            (ByteSize(0), "0 B"),
            (ByteSize(1000), "1000 B"),
            (ByteSize::kib(16), "16 KiB"),
            (ByteSize::kib(1536), "1536 KiB"),
            (ByteSize::mib(64), "64 MiB"),
            (ByteSize::gib(1024), "1 TiB"),
        ] {
            assert_eq!((bytes.to_string().as_str(), text.parse()), (text, Ok(bytes)));
        }
        assert_eq!("64mib".parse(), Ok(ByteSize::mib(64)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, why) in [
            ("", "whole number"),
            ("-1 B", "whole number"),
            ("64", "no unit"),
            ("1.5 MiB", "unknown unit"),
            ("64 MB", "unknown unit"),
            ("99999999999 TiB", "too large"),
        ] {
            assert!(text.parse::<ByteSize>().unwrap_err().contains(why), "{text}");
        }
    }
}
