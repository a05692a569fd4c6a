//! Keeps listings in `docs/api` of the public API of the crates that others use: its items, and those that only a new
//! version may remove. Reads rustdoc's JSON. Applies the rules about versions; everything else is left to review.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};

mod items;

use crate::steps::{Steps, cargo};
use crate::workspace::{Workspace, root};
use items::items;

/// The crates that applications and phases use.
const CRATES: [&str; 10] = [
    "groundskeeper-sdk",
    "groundskeeper-phases",
    "groundskeeper-base",
    "groundskeeper-pool",
    "groundskeeper-flow",
    "groundskeeper-net",
    "groundskeeper-engine",
    "groundskeeper-config",
    "groundskeeper-record",
    "groundskeeper",
];

/// Set when cargo runs this program in place of rustdoc.
const AS_RUSTDOC: &str = "GROUNDSKEEPER_XTASK_AS_RUSTDOC";

/// Maximum number of lines that an error shows for one crate; the rest is counted.
const SHOWN: usize = 40;

/// A crate's version without pre-release and build parts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Version(u32, u32, u32);

impl Version {
    /// Whether `later` may remove items of `self`, by cargo's rules for compatible versions.
    fn may_break_in(self, later: Version) -> bool {
        match self {
            Version(0, 0, _) => later > self,
            Version(0, minor, _) => later.0 > 0 || later.1 > minor,
            Version(major, ..) => later.0 > major,
        }
    }
}

impl FromStr for Version {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let plain = text.split(['-', '+']).next().unwrap_or_default();
        let numbers: Vec<u32> =
            plain.split('.').map(str::parse).collect::<Result<_, _>>().with_context(|| text.to_owned())?;
        let [major, minor, patch] = numbers[..] else { bail!("{text} is not a version") };
        Ok(Self(major, minor, patch))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The listing of one crate in `docs/api`.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Listing {
    /// The last released version. None: nothing was released, so nothing is promised.
    released: Option<Version>,
    /// Items of that version.
    promised: BTreeSet<String>,
    /// Items added since. They may still be removed.
    since: BTreeSet<String>,
}

/// Separates the traits of one type on a line. No trait's name contains it, even with arguments.
const AND: &str = " & ";

/// The lines of a listing for `items`: the traits of a type are one line.
fn lines_of_items(items: &BTreeSet<String>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut traits: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for item in items {
        match item.strip_prefix("impl ").and_then(|item| item.split_once(" for ")) {
            Some((name, of)) => traits.entry(of).or_default().push(name),
            None => lines.push(item.clone()),
        }
    }
    lines.extend(traits.into_iter().map(|(of, names)| format!("impl {} for {of}", names.join(AND))));
    lines
}

/// The items in one line of a listing.
fn items_of_line(line: &str) -> Vec<String> {
    match line.strip_prefix("impl ").and_then(|line| line.split_once(" for ")) {
        Some((names, of)) => names.split(AND).map(|name| format!("impl {name} for {of}")).collect(),
        None => vec![line.to_owned()],
    }
}

/// The differences between a crate and its listing.
#[derive(Default, PartialEq, Eq, Debug)]
struct Findings {
    /// Broken promises, each with the version that may break it.
    broken: Vec<String>,
    /// Items that the listing lacks, and listed items that were removed and not promised.
    new: Vec<String>,
    gone: Vec<String>,
}

impl Listing {
    fn parse(text: &str) -> Result<Self> {
        let head = text.lines().next().unwrap_or_default();
        let state =
            head.rsplit_once(": ").map(|(_, state)| state).context("the first line is `# CRATE: STATE`")?;
        let released = match state {
            "not released" => None,
            state => Some(state.strip_prefix("released as ").context("not a state")?.parse()?),
        };
        let (mut promised, mut since) = (BTreeSet::new(), BTreeSet::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with("# ") && *line != "#") {
            match line.strip_prefix("+ ") {
                Some(line) => since.extend(items_of_line(line)),
                None => promised.extend(items_of_line(line)),
            }
        }
        Ok(match released {
            None => Self { released, promised: BTreeSet::new(), since: promised },
            Some(_) => Self { released, promised, since },
        })
    }

    fn text(&self, name: &str) -> String {
        let state =
            self.released.map_or("not released".to_owned(), |version| format!("released as {version}"));
        let mut text = format!("# {name}: {state}\n#\n");
        text.push_str(
            "# Its public API, an item a line; the traits of a type are one line. `cargo xtask api` writes down what has come and gone.\n",
        );
        if self.released.is_some() {
            text.push_str("# Lines with a plus came after that version.\n");
        }
        text.push('\n');
        let since_sign = if self.released.is_some() { "+ " } else { "" };
        let promised = lines_of_items(&self.promised).into_iter().map(|line| (line, ""));
        let since = lines_of_items(&self.since).into_iter().map(|line| (line, since_sign));
        let lines: BTreeSet<(String, &str)> = promised.chain(since).collect();
        for (line, sign) in lines {
            writeln!(text, "{sign}{line}").expect("a string takes everything");
        }
        text
    }

    /// Compares the listing with the items in `now`, for a crate of this `version`.
    fn compare(&self, now: &BTreeSet<String>, version: Version) -> Findings {
        let known = |item: &String| self.promised.contains(item) || self.since.contains(item);
        let mut findings = Findings {
            new: now.iter().filter(|item| !known(item)).cloned().collect(),
            gone: self.since.difference(now).cloned().collect(),
            broken: Vec::new(),
        };
        let lost: Vec<&String> = self.promised.difference(now).collect();
        if self.released.is_none_or(|released| released.may_break_in(version)) {
            findings.gone.extend(lost.into_iter().cloned());
            return findings;
        }
        findings.broken.extend(lost.into_iter().map(|item| format!("gone or changed: {item}")));
        findings.broken.extend(findings.new.iter().filter_map(|item| self.broken_by(item)));
        findings
    }

    /// Why a new item breaks users of the promised ones.
    fn broken_by(&self, item: &str) -> Option<String> {
        if item.starts_with("impl !") || item.contains("> !core::marker::") {
            return Some(format!("a promise is taken back: {item}"));
        }
        // `pub a::b::Enum::Variant`: code that matches on the enum must know all variants.
        let path = item.strip_prefix("pub ")?.split([' ', '(', '=']).next()?;
        let (owner, _) = path.rsplit_once("::")?;
        let is_closed = self.promised.contains(&format!("pub enum {owner}"));
        is_closed.then(|| format!("new in an enum that may be matched in full: {item}"))
    }
}

/// Compares every crate with its listing.
///
/// # Errors
/// Every broken promise; if there is none, the changes that the listing lacks.
pub fn check(steps: &mut Steps) -> Result<()> {
    let mut trouble = String::new();
    for found in look(steps)? {
        let Crate { name, version, items, listing, .. } = &found;
        let Some(listing) = listing else {
            bail!("docs/api has no listing of {name}; run `cargo xtask api`")
        };
        let Findings { broken, new, gone } = listing.compare(items, *version);
        let released = listing.released.map_or_else(String::new, |version| version.to_string());
        tell(&mut trouble, &broken, |item| format!("{name}: {item}\n"));
        if !broken.is_empty() {
            writeln!(
                trouble,
                "{name}: {released} promised otherwise: keep it (deprecated, if need be), or give {name} a version that may break"
            )?;
        }
        let lines: Vec<String> = new
            .iter()
            .map(|item| format!("+ {item}"))
            .chain(gone.iter().map(|item| format!("- {item}")))
            .collect();
        tell(&mut trouble, &lines, |line| format!("{name}: {line}\n"));
        if !lines.is_empty() {
            writeln!(trouble, "{name}: not written down; look through it and run `cargo xtask api`")?;
        }
    }
    ensure!(trouble.is_empty(), "the public API is not what docs/api says\n{}", trouble.trim_end());
    Ok(())
}

fn tell(trouble: &mut String, lines: &[String], shown: impl Fn(&str) -> String) {
    lines.iter().take(SHOWN).for_each(|line| trouble.push_str(&shown(line)));
    if lines.len() > SHOWN {
        trouble.push_str(&shown(&format!("and {} more", lines.len() - SHOWN)));
    }
}

/// Rewrites every listing. With `--released` every item becomes a promise of the crate's version.
///
/// # Errors
/// If it would break a promise. The listing of that crate is unchanged then.
pub fn write(steps: &mut Steps, flags: &[&str]) -> Result<()> {
    let releases = match flags {
        [] => false,
        ["--released"] => true,
        _ => bail!("cargo xtask api takes --released or nothing"),
    };
    for Crate { name, version, items, listing, path } in look(steps)? {
        let before =
            listing.unwrap_or(Listing { released: None, promised: BTreeSet::new(), since: BTreeSet::new() });
        let Findings { broken, new, gone } = before.compare(&items, version);
        ensure!(broken.is_empty(), "{name} breaks a promise:\n{}", broken.join("\n"));
        let after = if releases {
            Listing { released: Some(version), promised: items, since: BTreeSet::new() }
        } else {
            let promised: BTreeSet<String> = before.promised.intersection(&items).cloned().collect();
            let since = items.difference(&promised).cloned().collect();
            Listing { promised, since, ..before }
        };
        std::fs::write(&path, after.text(name))?;
        eprintln!("{name}: {} new, {} gone", new.len(), gone.len());
    }
    Ok(())
}

/// A crate in its current state.
struct Crate {
    name: &'static str,
    version: Version,
    items: BTreeSet<String>,
    listing: Option<Listing>,
    path: PathBuf,
}

fn look(steps: &mut Steps) -> Result<Vec<Crate>> {
    let workspace = Workspace::read()?;
    let one = |name: &'static str| {
        let mut rustdoc = cargo(&["rustdoc", "--locked", "--package", name, "--lib", "--"]);
        rustdoc.args(["-Z", "unstable-options", "--output-format", "json"]);
        // Unlocked for rustdoc only, not for all of cargo: build scripts see that, and everything would be rebuilt.
        rustdoc.env("RUSTDOC", std::env::current_exe()?).env(AS_RUSTDOC, "1");
        steps.run(&format!("api of {name}"), rustdoc)?;
        let json = workspace.target().join("doc").join(format!("{}.json", name.replace('-', "_")));
        let items = items(&json)?;
        let version = workspace.version(name).context("a package has a version")?.parse()?;
        let path = root().join("docs/api").join(format!("{name}.txt"));
        let listing = match std::fs::read_to_string(&path) {
            Ok(text) => Some(Listing::parse(&text).with_context(|| path.display().to_string())?),
            Err(_) => None,
        };
        Ok(Crate { name, version, items, listing, path })
    };
    CRATES.into_iter().map(one).collect()
}

/// Whether cargo started this process as rustdoc: see [`be_rustdoc`].
pub fn is_rustdoc() -> bool {
    std::env::var_os(AS_RUSTDOC).is_some()
}

/// Replaces this process with the toolchain's rustdoc, with JSON output enabled.
pub fn be_rustdoc() -> ExitCode {
    let mut rustdoc = Command::new("rustdoc");
    rustdoc.args(std::env::args_os().skip(1)).env("RUSTC_BOOTSTRAP", "1").env_remove(AS_RUSTDOC);
    // Returns only on failure.
    eprintln!("xtask: rustdoc: {}", rustdoc.exec());
    ExitCode::FAILURE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    const PROMISED: [&str; 4] =
        ["pub enum a::Closed", "#[non_exhaustive] pub enum a::Open", "pub fn a::f(u32)", "pub struct a::S"];

    fn listing(released: Option<&str>, since: &[&str]) -> Listing {
        let all = set(&PROMISED);
        match released {
            Some(version) => Listing { released: version.parse().ok(), promised: all, since: set(since) },
            None => Listing { released: None, promised: BTreeSet::new(), since: all },
        }
    }

    /// The listing, the change, the version; then the expected broken, new and gone items.
    #[test]
    fn what_is_removed_or_changed_breaks_a_promise_unless_the_version_says_so() {
        type Row<'a> = (Option<&'a str>, &'a [&'a str], &'a [&'a str], &'a str, [&'a [&'a str]; 3]);
        let rows: &[Row<'_>] = &[
            (Some("0.1.0"), &[], &[], "0.1.0", [&[], &[], &[]]),
            (
                Some("0.1.0"),
                &[],
                &["pub fn a::f(u32)"],
                "0.1.1",
                [&["gone or changed: pub fn a::f(u32)"], &[], &[]],
            ),
            (Some("0.1.0"), &[], &["pub fn a::f(u32)"], "0.2.0", [&[], &[], &["pub fn a::f(u32)"]]),
            (
                Some("1.4.0"),
                &[],
                &["pub fn a::f(u32)"],
                "1.5.0",
                [&["gone or changed: pub fn a::f(u32)"], &[], &[]],
            ),
            (Some("1.4.0"), &[], &["pub fn a::f(u32)"], "2.0.0", [&[], &[], &["pub fn a::f(u32)"]]),
            (
                Some("0.1.0"),
                &["pub fn a::f(u64)"],
                &["pub fn a::f(u32)"],
                "0.1.0",
                [&["gone or changed: pub fn a::f(u32)"], &["pub fn a::f(u64)"], &[]],
            ),
            (Some("0.1.0"), &["pub fn a::g()"], &[], "0.1.0", [&[], &["pub fn a::g()"], &[]]),
            (
                Some("0.1.0"),
                &["impl !core::marker::Send for a::S"],
                &[],
                "0.1.0",
                [
                    &["a promise is taken back: impl !core::marker::Send for a::S"],
                    &["impl !core::marker::Send for a::S"],
                    &[],
                ],
            ),
            (
                Some("0.1.0"),
                &["pub a::Closed::New(u32)"],
                &[],
                "0.1.0",
                [
                    &["new in an enum that may be matched in full: pub a::Closed::New(u32)"],
                    &["pub a::Closed::New(u32)"],
                    &[],
                ],
            ),
            (Some("0.1.0"), &["pub a::Open::New"], &[], "0.1.0", [&[], &["pub a::Open::New"], &[]]),
            (Some("0.1.0"), &["pub a::Closed::New"], &[], "0.2.0", [&[], &["pub a::Closed::New"], &[]]),
            (
                None,
                &["pub fn a::g()"],
                &["pub fn a::f(u32)"],
                "0.1.0",
                [&[], &["pub fn a::g()"], &["pub fn a::f(u32)"]],
            ),
        ];
        for (released, come, went, version, expected) in rows {
            let mut now = set(&PROMISED);
            now.extend(set(come));
            now.retain(|item| !went.contains(&item.as_str()));
            let Findings { broken, new, gone } =
                listing(*released, &[]).compare(&now, version.parse().unwrap());
            assert_eq!(
                [broken, new, gone],
                expected.map(|items| items.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>()),
                "{released:?} {come:?} {went:?} {version}"
            );
        }
    }

    #[test]
    fn what_came_after_a_release_may_go_before_the_next() {
        let listing = listing(Some("0.1.0"), &["pub fn a::g()"]);
        let findings = listing.compare(&set(&PROMISED), Version(0, 1, 1));
        assert_eq!(findings, Findings { gone: vec!["pub fn a::g()".into()], ..Findings::default() });
    }

    #[test]
    fn listings_survive_their_text() {
        for one in [
            listing(None, &[]),
            listing(Some("0.1.0"), &["pub fn a::g()", "impl b::T<u32> for a::S", "impl b::U for a::S"]),
            listing(Some("1.2.3"), &[]),
        ] {
            assert_eq!(Listing::parse(&one.text("a")).unwrap(), one);
        }
        assert!(Listing::parse("# a: soon\n").is_err() && Listing::parse("").is_err());
    }

    #[test]
    fn the_traits_of_a_type_are_one_line_and_a_promise_each() {
        let items = set(&["impl b::T for a::S", "impl b::U for a::S", "impl<X> b::T for a::G<X>"]);
        assert_eq!(lines_of_items(&items), ["impl<X> b::T for a::G<X>", "impl b::T & b::U for a::S"]);
        let listing =
            Listing { released: "0.1.0".parse().ok(), promised: items.clone(), since: BTreeSet::new() };
        let mut now = items;
        now.remove("impl b::U for a::S");
        let findings = Listing::parse(&listing.text("a")).unwrap().compare(&now, Version(0, 1, 1));
        assert_eq!(findings.broken, ["gone or changed: impl b::U for a::S"]);
    }
}
