//! Paths in JSON and in state files. A path is bytes: serde's own form fails for one that is not UTF-8.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};

/// For people: bytes that are not UTF-8 are replaced.
///
/// # Errors
/// Those of the serializer.
pub fn lossy<P: AsRef<Path>, S: Serializer>(path: &P, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&path.as_ref().to_string_lossy())
}

/// As [`lossy`], for a path that may be missing.
///
/// # Errors
/// Those of the serializer.
pub fn lossy_option<P: AsRef<Path>, S: Serializer>(path: &Option<P>, to: S) -> Result<S::Ok, S::Error> {
    path.as_ref().map(|path| path.as_ref().to_string_lossy()).serialize(to)
}

/// For programs, in JSON: a string, or the list of its bytes if it is not UTF-8.
pub mod exact {
    use std::fmt;

    use serde::de::{self, Deserializer, SeqAccess, Visitor};

    use super::*;

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => to.serialize_str(text),
            None => path.as_os_str().as_bytes().serialize(to),
        }
    }

    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        from.deserialize_any(PathVisitor)
    }

    struct PathVisitor;

    impl<'de> Visitor<'de> for PathVisitor {
        type Value = PathBuf;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a path, as text or as a list of bytes")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<PathBuf, E> {
            Ok(text.into())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut bytes: A) -> Result<PathBuf, A::Error> {
            let mut path = Vec::new();
            while let Some(byte) = bytes.next_element()? {
                path.push(byte);
            }
            Ok(OsString::from_vec(path).into())
        }
    }
}

/// For state files, in postcard: length and bytes, the same form as that of a string.
pub mod bytes {
    use std::fmt;

    use serde::de::{self, Deserializer, Visitor};

    use super::*;

    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(path.as_os_str().as_bytes())
    }

    /// # Errors
    /// Those of the deserializer.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        from.deserialize_byte_buf(BytesVisitor)
    }

    struct BytesVisitor;

    impl Visitor<'_> for BytesVisitor {
        type Value = PathBuf;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the bytes of a path")
        }

        fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<PathBuf, E> {
            self.visit_byte_buf(bytes.to_vec())
        }

        fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<PathBuf, E> {
            Ok(OsString::from_vec(bytes).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Serialize, Deserialize)]
    struct Paths {
        #[serde(serialize_with = "lossy")]
        shown: PathBuf,
        #[serde(serialize_with = "lossy_option")]
        maybe: Option<PathBuf>,
        #[serde(with = "exact")]
        exact: PathBuf,
    }

    #[test]
    fn any_path_has_a_form_in_json() {
        for bytes in [&b"plain"[..], b"x\xff\n"] {
            let path = PathBuf::from(OsString::from_vec(bytes.to_vec()));
            let paths = Paths { shown: path.clone(), maybe: Some(path.clone()), exact: path.clone() };
            let json = serde_json::to_string(&paths).unwrap();
            let again: Paths = serde_json::from_str(&json).unwrap();
            assert_eq!(again.exact, path);
            assert_eq!(again.shown, Path::new(&*path.to_string_lossy()));
            assert_eq!(again.maybe, Some(again.shown));
        }
    }
}
