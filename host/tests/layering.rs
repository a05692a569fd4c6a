//! Holds the rooms of the host, and the crates, to their order. Reads source text only: what macros expand to is not seen.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// A room may use the rooms before it and no other. Which one owns what is told in `docs/architecture.md`.
const ORDER: [&str; 23] = [
    "peer", "clock", "chance", "config", "journal", "pool", "book", "flow", "data", "net", "engine",
    "registry", "loader", "record", "cycle", "ticker", "reload", "metrics", "admin", "node", "author", "cli",
    "main",
];

/// Which packages of this workspace a package may use.
const PACKAGES: [(&str, &[&str]); 3] = [
    ("groundskeeper-sdk", &[]),
    ("groundskeeper-phases", &["groundskeeper-sdk"]),
    ("groundskeeper", &["groundskeeper-phases", "groundskeeper-sdk"]),
];

/// One path that starts at the crate's root.
#[derive(Debug, PartialEq, Eq)]
struct Use {
    /// The first name of the path, `*` for all of them.
    name: String,
    line: usize,
}

/// Code that is compiled outside of tests, module by module.
#[derive(Default)]
struct Scan {
    uses: Vec<Use>,
    /// Modules in files of their own.
    children: Vec<String>,
}

impl Scan {
    /// Reads a file whose module lies `depth` below the root.
    fn of(text: &str, depth: usize) -> Self {
        let mut scan = Self::default();
        let tokens: TokenStream = text.parse().expect("the file compiles, so it has tokens");
        scan.walk(tokens, depth);
        scan
    }

    fn walk(&mut self, tokens: TokenStream, depth: usize) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut rest = &tokens[..];
        while let [first, after @ ..] = rest {
            rest = match (first, after) {
                (TokenTree::Punct(hash), [TokenTree::Group(attribute), item @ ..])
                    if hash.as_char() == '#' && is_test_only(&attribute.stream()) =>
                {
                    skip_item(item)
                }
                (TokenTree::Ident(word), [TokenTree::Ident(name), TokenTree::Punct(end), after @ ..])
                    if *word == "mod" && end.as_char() == ';' =>
                {
                    self.children.push(name.to_string());
                    after
                }
                (TokenTree::Ident(word), [TokenTree::Ident(_), TokenTree::Group(body), after @ ..])
                    if *word == "mod" =>
                {
                    self.walk(body.stream(), depth + 1);
                    after
                }
                (TokenTree::Ident(word), after) => {
                    if *word == "super" {
                        self.path(rest, depth);
                    } else if *word == "crate" || *word == "groundskeeper" {
                        self.path(behind_colons(after).unwrap_or_default(), 0);
                    }
                    after
                }
                (TokenTree::Group(group), after) => {
                    self.walk(group.stream(), depth);
                    after
                }
                (_, after) => after,
            }
        }
    }

    /// Follows one path, or a tree of them, from the module `depth` below the root; notes where it leaves the root.
    fn path(&mut self, tokens: &[TokenTree], depth: usize) {
        match tokens {
            [TokenTree::Ident(name), after @ ..] => match (behind_colons(after), name.to_string().as_str()) {
                (Some(after), "super") => self.path(after, depth.saturating_sub(1)),
                (Some(after), "self") => self.path(after, depth),
                (_, name) if depth == 0 => {
                    let line = tokens[0].span().start().line;
                    self.uses.push(Use { name: name.to_owned(), line });
                }
                _ => {}
            },
            [TokenTree::Group(tree), ..] if tree.delimiter() == Delimiter::Brace => {
                let tokens: Vec<TokenTree> = tree.stream().into_iter().collect();
                tokens.split(|token| is_punct(token, ',')).for_each(|path| self.path(path, depth));
            }
            [star, ..] if is_punct(star, '*') && depth == 0 => {
                self.uses.push(Use { name: "*".to_owned(), line: star.span().start().line });
            }
            _ => {}
        }
    }
}

fn is_punct(token: &TokenTree, wanted: char) -> bool {
    matches!(token, TokenTree::Punct(punct) if punct.as_char() == wanted)
}

fn behind_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [one, two, after @ ..] if is_punct(one, ':') && is_punct(two, ':') => Some(after),
        _ => None,
    }
}

fn is_test_only(attribute: &TokenStream) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text.starts_with("cfg(test") || text.starts_with("cfg(all(test")
}

/// What follows the item, field or statement at the start of `tokens`.
fn skip_item(tokens: &[TokenTree]) -> &[TokenTree] {
    let word = tokens.iter().find_map(|token| match token {
        TokenTree::Ident(word) if *word != "pub" => Some(word.to_string()),
        _ => None,
    });
    let word = word.unwrap_or_default();
    let to_semicolon = ["use", "const", "static", "let", "type"].contains(&word.as_str());
    let is_item =
        ["fn", "mod", "impl", "struct", "enum", "trait", "unsafe", "async", "extern", "macro_rules"]
            .contains(&word.as_str());
    let end = tokens.iter().position(|token| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace && !to_semicolon,
        TokenTree::Punct(punct) => {
            punct.as_char() == ';' || punct.as_char() == ',' && !is_item && !to_semicolon
        }
        _ => false,
    });
    end.map_or(&[], |end| &tokens[end + 1..])
}

/// All uses in a room's modules that are compiled outside of tests, with the file.
fn uses_of(src: &Path, room: &str) -> Vec<(PathBuf, Use)> {
    let mut found = Vec::new();
    // A module's file, the folder of its children, and its depth below the root.
    let mut open = vec![if room == "main" {
        (src.join("main.rs"), src.to_owned(), 0)
    } else {
        (src.join(room).with_extension("rs"), src.join(room), 1)
    }];
    while let Some((file, folder, depth)) = open.pop() {
        let text =
            std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let scan = Scan::of(&text, depth);
        found.extend(scan.uses.into_iter().map(|one| (file.clone(), one)));
        if room != "main" {
            open.extend(
                scan.children
                    .iter()
                    .map(|child| (folder.join(child).with_extension("rs"), folder.join(child), depth + 1)),
            );
        }
    }
    found
}

/// What is wrong with one use in a room, if anything is.
fn complaint(room: &str, used: &str) -> Option<String> {
    let place = |name: &str| ORDER.iter().position(|known| *known == name);
    let own = place(room).expect("rooms are checked to be in the order");
    match place(used) {
        Some(place) if place <= own => None,
        Some(_) => Some(format!("`{room}` comes before `{used}` and may not use it")),
        None => Some(format!("`crate::{used}` names no room; say which room it is in")),
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rooms() -> BTreeSet<String> {
    let entries = std::fs::read_dir(source()).expect("the crate has its sources");
    let names = entries.map(|entry| entry.expect("the folder can be read").path());
    let names = names.filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()));
    names.filter(|name| name != "lib").collect()
}

#[test]
fn every_room_has_a_place_in_the_order() {
    let unknown: Vec<String> = rooms().into_iter().filter(|room| !ORDER.contains(&room.as_str())).collect();
    assert!(
        unknown.is_empty(),
        "not in ORDER: {unknown:?}; give each its place, and its row in docs/architecture.md"
    );
}

#[test]
fn rooms_use_only_those_before_them() {
    let mut complaints = Vec::new();
    for room in rooms() {
        for (file, one) in uses_of(&source(), &room) {
            let place = format!("{}:{}", file.display(), one.line);
            complaints.extend(complaint(&room, &one.name).map(|text| format!("{place}: {text}")));
        }
    }
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn the_architecture_page_tells_of_each_room_in_this_order() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/architecture.md");
    let page = std::fs::read_to_string(page).unwrap();
    let section =
        page.split("\n## ").find(|section| section.starts_with("Rooms")).expect("it has `## Rooms`");
    let told: Vec<&str> =
        section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    assert_eq!(told, ORDER);
}

#[test]
fn crates_point_down_only() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let metadata = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path"])
        .arg(manifest)
        .output()
        .unwrap();
    assert!(metadata.status.success(), "{}", String::from_utf8_lossy(&metadata.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).unwrap();
    for (name, allowed) in PACKAGES {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["name"] == name).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let ours = !dependency["path"].is_null();
            // What tests use is no part of the package.
            let ours = ours && dependency["kind"] != "dev";
            assert!(!ours || allowed.contains(&used), "{name} may not use {used}");
            let heavy = dependency["kind"].is_null() && ["tokio", "wasmtime"].contains(&used);
            assert!(!heavy || name == "groundskeeper", "{name} is for guests too: no {used}");
        }
    }
}

mod of_the_scanner_itself {
    use super::*;

    fn names(text: &str, depth: usize) -> Vec<String> {
        Scan::of(text, depth).uses.into_iter().map(|one| one.name).collect()
    }

    #[test]
    fn use_trees_are_followed_to_each_room() {
        assert_eq!(
            names("use crate::{pool::{Pool, Slot}, net, ticker::Grid as G};", 1),
            ["pool", "net", "ticker"]
        );
        assert_eq!(names("pub(crate) use crate::journal::Journal;", 1), ["journal"]);
        assert_eq!(names("use crate::*;", 1), ["*"]);
        assert_eq!(
            names("fn f() -> crate::net::Kind { x!(crate::admin::y, crate :: cli) }", 1),
            ["net", "admin", "cli"]
        );
        assert_eq!(names("pub(crate) fn f() {} // crate::net\nconst A: &str = \"crate::net\";", 1), [""; 0]);
    }

    #[test]
    fn super_is_followed_as_far_as_it_leads() {
        assert_eq!(names("use super::net::Kind;", 1), ["net"]);
        assert_eq!(names("use super::slot::Slot; use super::super::{net, self};", 2), ["net", "self"]);
        assert_eq!(names("mod inner { use super::super::net; use super::own; }", 1), ["net"]);
        assert_eq!(names("use super::{super::net::Kind, slot};", 2), ["net"]);
    }

    #[test]
    fn tests_may_use_what_they_like() {
        let text = "#[cfg(test)] mod tests { use crate::net; } #[cfg(test)] use crate::{a, b}; #[cfg(test)]\n\
                    #[derive(Debug)] struct X { a: crate::c::C } #[cfg(test)] mod more; mod code; use crate::pool;\n\
                    struct Y { #[cfg(test)] a: crate::d::D, b: crate::e::E }";
        assert_eq!(names(text, 1), ["pool", "e"]);
        assert_eq!(Scan::of(text, 1).children, ["code"]);
    }

    #[test]
    fn a_violation_is_found_in_the_file_and_line_it_is_in() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("pool")).unwrap();
        std::fs::write(folder.path().join("pool.rs"), "mod deep;\nuse crate::peer::PeerId;\n").unwrap();
        std::fs::write(folder.path().join("pool/deep.rs"), "use crate::{\n    clock,\n    net::Kind,\n};\n")
            .unwrap();
        let found = uses_of(folder.path(), "pool");
        let wrong: Vec<_> = found
            .iter()
            .filter_map(|(file, one)| Some((file, one.line, complaint("pool", &one.name)?)))
            .collect();
        let deep = folder.path().join("pool/deep.rs");
        assert_eq!(wrong, [(&deep, 3, "`pool` comes before `net` and may not use it".to_owned())]);
        assert!(complaint("pool", "Pool").unwrap().contains("names no room"));
    }
}
