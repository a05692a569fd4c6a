//! Adapters for serde's `with`: durations and sizes are written as text such as "1h", and read into plain types.

use std::time::Duration;

use groundskeeper_sdk::span::Span;

/// Converts a duration to a [`Span`], in whole milliseconds; saturates.
pub fn span(time: Duration) -> Span {
    Span::millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

/// A `Duration`, written like "1h".
pub mod as_span {
    use std::time::Duration;

    use groundskeeper_sdk::span::Span;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        super::span(*time).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Span::deserialize(from).map(Duration::from)
    }
}

/// A `Duration` that may be missing.
pub mod as_optional_span {
    use std::time::Duration;

    use groundskeeper_sdk::span::Span;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        time.map(super::span).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<Span>::deserialize(from)?.map(Duration::from))
    }
}

/// A number of bytes, written like "64 KiB".
pub mod as_bytes {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::bytes::ByteSize;

    pub fn serialize<S, N>(bytes: &N, to: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
        N: Copy + TryInto<u64>,
    {
        ByteSize((*bytes).try_into().unwrap_or(u64::MAX)).serialize(to)
    }

    pub fn deserialize<'de, D, N>(from: D) -> Result<N, D::Error>
    where
        D: Deserializer<'de>,
        N: TryFrom<u64>,
    {
        let bytes = ByteSize::deserialize(from)?;
        N::try_from(bytes.0).map_err(|_| D::Error::custom(format!("{bytes} is too much")))
    }
}
