//! Extracts the items of a crate's public API from rustdoc's JSON, and selects the lines for the listing.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};

pub(super) fn items(json: &Path) -> Result<BTreeSet<String>> {
    // Blanket implementations of std are no promise of ours.
    let api = |without_derived| {
        public_api::Builder::from_rustdoc_json(json)
            .omit_blanket_impls(true)
            .omit_auto_derived_impls(without_derived)
            .build()
            .map(|api| api.items().map(ToString::to_string).collect::<BTreeSet<String>>())
    };
    let all = api(false).context(
        "this rustdoc writes JSON of a form that the crate public-api cannot read in the version of host/xtask/Cargo.toml; \
         take another version of it, or run with RUSTUP_TOOLCHAIN set to the rustc that docs/decisions/0020 names",
    )?;
    let written = api(true)?;
    // Implementing a trait is a promise; the methods belong to the trait.
    let is_kept = |line: &String| {
        is_promise(line)
            && (line.starts_with("impl") || written.contains(line) && !is_of_std_trait(line, &all))
    };
    Ok(all.iter().filter(|line| is_kept(line)).map(|line| without_lifetime(line)).collect())
}

/// Traits of std and serde, and their methods.
const STD_METHODS: [(&str, &str); 9] = [
    ("fmt", "core::fmt::"),
    ("default", "core::default::Default"),
    ("from", "core::convert::From<"),
    ("from_str", "core::str::traits::FromStr"),
    ("source", "core::error::Error"),
    ("drop", "core::ops::drop::Drop"),
    ("serialize", "serde_core::ser::Serialize"),
    ("deserialize", "serde_core::de::Deserialize"),
    ("add_assign", "core::ops::arith::AddAssign"),
];

/// Whether a line is a method of a trait implementation in `all`, which already covers it.
fn is_of_std_trait(line: &str, all: &BTreeSet<String>) -> bool {
    let Some(method) = line.strip_prefix("pub fn ") else { return false };
    STD_METHODS.iter().any(|(name, of)| {
        let Some((owner, _)) = method.split_once(&format!("::{name}")) else { return false };
        let is_method = method[owner.len() + 2 + name.len()..].starts_with(['(', '<']);
        is_method
            && all.iter().any(|item| {
                item.starts_with("impl")
                    && item.split_once(" for ").is_some_and(|(head, target)| {
                        head.contains(of) && target.split(" where ").next() == Some(owner)
                    })
            })
    })
}

/// An implementation of `Deserialize` in the form of other traits: its lifetime and bound are serde's.
fn without_lifetime(line: &str) -> String {
    match line.strip_prefix("impl<'de> serde_core::de::Deserialize<'de> for ") {
        Some(target) => {
            let target = target.split(" where ").next().unwrap_or(target);
            format!("impl serde_core::de::Deserialize for {target}")
        }
        None => line.to_owned(),
    }
}

/// Whether a line belongs in the listing. `Send` would add a line for each type; `!Send` is a line where it matters, so
/// a loss of `Send` still shows.
fn is_promise(line: &str) -> bool {
    let head = line.split(" for ").next().filter(|head| head.starts_with("impl")).unwrap_or_default();
    // The methods of an inherent impl already have their lines.
    if line.strip_prefix("impl ").is_some_and(|path| !path.contains([' ', '<'])) {
        return false;
    }
    let says = |what: &str| head.contains(what);
    if says("core::marker::Send") || says("core::marker::Sync") {
        return line.contains(" !core::marker::") || !line.contains(" for ");
    }
    let nothing =
        ["Freeze", "Unpin", "UnsafeUnpin", "StructuralPartialEq"].map(|name| format!("core::marker::{name}"));
    !says("core::panic::unwind_safe::") && !nothing.iter().any(|name| says(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_of_std_traits_are_told_by_the_trait() {
        let all = BTreeSet::from([
            "impl core::fmt::Display for a::S".to_owned(),
            "impl<T> core::convert::From<T> for a::G<T> where T: b::U".to_owned(),
        ]);
        for (line, is_told) in [
            ("pub fn a::S::fmt(&self, &mut core::fmt::Formatter<'_>) -> core::fmt::Result", true),
            ("pub fn a::G<T>::from(T) -> Self", true),
            ("pub fn a::S::from(u32) -> Self", false),
            ("pub fn a::S::format(&self)", false),
            ("pub fn a::Other::fmt(&self)", false),
        ] {
            assert_eq!(is_of_std_trait(line, &all), is_told, "{line}");
        }
        let derived =
            "impl<'de> serde_core::de::Deserialize<'de> for a::S where a::S: core::default::Default";
        assert_eq!(without_lifetime(derived), "impl serde_core::de::Deserialize for a::S");
        assert_eq!(without_lifetime("impl<T> b::U for a::G<T>"), "impl<T> b::U for a::G<T>");
    }

    #[test]
    fn lines_that_say_nothing_are_left_out() {
        for (line, kept) in [
            ("impl core::marker::Send for a::S", false),
            ("impl !core::marker::Send for a::S", true),
            ("impl<T> !core::marker::Sync for a::S<T>", true),
            ("impl !core::marker::Freeze for a::S", false),
            ("impl !core::panic::unwind_safe::UnwindSafe for a::S", false),
            ("impl core::marker::StructuralPartialEq for a::S", false),
            ("impl core::marker::Copy for a::S", true),
            ("impl<T> a::S<T> where T: core::marker::Send", true),
            ("pub fn a::f(impl core::marker::Send)", true),
            ("impl core::clone::Clone for a::S", true),
            ("impl a::S", false),
        ] {
            assert_eq!(is_promise(line), kept, "{line}");
        }
    }
}
