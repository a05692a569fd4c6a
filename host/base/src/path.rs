//! Adapters for serde's `with`: paths. The system allows any bytes in a path, and serde's own form only UTF-8: one file with an
//! odd name would make a whole answer fail.

/// For people: what is not UTF-8 is shown as U+FFFD.
pub mod lossy {
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: impl AsRef<Path>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&path.as_ref().display())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        String::deserialize(from).map(PathBuf::from)
    }
}

/// As [`lossy`], for a path that may be missing.
pub mod optional_lossy {
    use std::path::PathBuf;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &Option<PathBuf>, to: S) -> Result<S::Ok, S::Error> {
        match path {
            Some(path) => to.collect_str(&path.display()),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(PathBuf::from))
    }
}

/// For programs: the same path comes back. UTF-8 is written as it is, other bytes as NUL and hexadecimal digits: no path
/// contains NUL.
pub mod exact {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use data_encoding::HEXLOWER;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        match path.to_str() {
            Some(text) => to.serialize_str(text),
            None => to.serialize_str(&format!("\0{}", HEXLOWER.encode(path.as_os_str().as_bytes()))),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        match text.strip_prefix('\0') {
            Some(digits) => {
                let bytes = HEXLOWER.decode(digits.as_bytes()).map_err(D::Error::custom)?;
                Ok(OsString::from_vec(bytes).into())
            }
            None => Ok(text.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};

    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer, StringDeserializer};

    use super::*;

    /// Serializes only to text.
    fn text(
        path: &Path,
        serialize: impl Fn(&Path, &mut std::fmt::Formatter<'_>) -> std::fmt::Result,
    ) -> String {
        struct Shown<'a, F>(&'a Path, F);
        impl<F: Fn(&Path, &mut std::fmt::Formatter<'_>) -> std::fmt::Result> std::fmt::Display for Shown<'_, F> {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                (self.1)(self.0, f)
            }
        }
        Shown(path, serialize).to_string()
    }

    #[test]
    fn a_path_that_is_not_utf_8_comes_back_or_is_shown_without_an_error() {
        let odd = Path::new(OsStr::from_bytes(b"/phases.d/x\xff.toml"));
        assert_eq!(text(odd, |path, f| lossy::serialize(path, f)), "/phases.d/x\u{fffd}.toml");
        for path in [odd, Path::new("/phases.d/ä.toml"), Path::new("")] {
            let written = text(path, |path, f| exact::serialize(path, f));
            assert_eq!(written.starts_with('\0'), path == odd);
            let read: StringDeserializer<Error> = written.into_deserializer();
            assert_eq!(exact::deserialize(read).unwrap(), PathBuf::from(path));
        }
        let damaged: StrDeserializer<'_, Error> = "\0xyz".into_deserializer();
        assert!(exact::deserialize(damaged).is_err());
    }
}
