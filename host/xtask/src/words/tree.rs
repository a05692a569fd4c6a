//! The files that the lint reads, and what it takes out of them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::homonyms::Definition;
use super::prose::{Token, tokens};
use super::source::Source;

/// Crates of `host` that are no product: what the others are checked and measured with.
const NO_PRODUCT: [&str; 7] = ["bench", "fuzz", "guests", "models", "sim", "soak", "xtask"];

/// Folders with the code of the other crates.
const OTHER_CRATES: [&str; 2] = ["sdk/src", "phases/src"];

/// Folders of documents; those below them are not read.
const DOCS: [&str; 2] = ["docs", "docs/decisions"];
const DOCUMENTS: [&str; 7] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "sdk/README.md",
    "phases/README.md",
    "config/groundskeeper.toml",
    "config/manifest.toml",
];

/// What the lint judges.
#[derive(Default)]
pub struct Tree {
    pub definitions: Vec<Definition>,
    pub comments: Vec<Passage>,
    pub docs: Vec<Passage>,
}

/// Prose of one file, in one piece.
pub struct Passage {
    pub file: String,
    pub tokens: Vec<Token>,
}

impl Tree {
    /// Reads the product's code and the documents below `root`.
    ///
    /// # Errors
    /// If a folder or a file is not there or cannot be read.
    pub fn read(root: &Path) -> Result<Self> {
        let mut crates = entries(&root.join("host"))?;
        crates
            .retain(|path| !NO_PRODUCT.iter().any(|name| path.ends_with(name)) && path.join("src").is_dir());
        let readmes = crates.iter().map(|path| path.join("README.md"));
        let folders = crates.iter().map(|path| path.join("src"));
        let mut sources = Vec::new();
        for folder in folders.chain(OTHER_CRATES.map(|folder| root.join(folder))) {
            rust_files(&folder, &mut sources)?;
        }
        let mut documents: Vec<PathBuf> =
            DOCUMENTS.map(|name| root.join(name)).into_iter().chain(readmes).collect();
        for folder in DOCS {
            documents.extend(entries(&root.join(folder))?.into_iter().filter(|path| has_ending(path, "md")));
        }
        let sources = texts(root, sources)?;
        let documents = texts(root, documents)?;
        Ok(Self::new(pairs(&sources), pairs(&documents)))
    }

    /// Takes Rust files and documents apart. Both are paths from the root, each with its text.
    pub fn new<'a>(
        sources: impl IntoIterator<Item = (&'a str, &'a str)>,
        documents: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let sources: Vec<_> = sources.into_iter().map(|(file, text)| (file, Source::new(text))).collect();
        let for_tests: Vec<PathBuf> =
            sources.iter().flat_map(|(file, source)| test_modules(file, source)).collect();
        let mut tree = Self::default();
        for (file, source) in sources {
            // `a/tests` stands for `a/tests.rs` and for what is in the folder.
            if for_tests.iter().any(|module| Path::new(file).with_extension("").starts_with(module)) {
                continue;
            }
            let file = file.to_owned();
            tree.definitions.extend(source.types.into_iter().map(|(name, line)| Definition {
                name: name.to_owned(),
                file: file.clone(),
                line,
            }));
            tree.comments
                .extend(source.comments.into_iter().map(|tokens| Passage { file: file.clone(), tokens }));
        }
        for (file, text) in documents {
            tree.docs.push(Passage { file: file.to_owned(), tokens: tokens((1..).zip(text.lines())) });
        }
        tree
    }
}

/// Where the modules for tests that `file` declares are, without an ending.
fn test_modules(file: &str, source: &Source<'_>) -> Vec<PathBuf> {
    let module = Path::new(file).with_extension("");
    let is_folder = ["lib", "main", "mod"].iter().any(|name| module.ends_with(name));
    let folder = if is_folder { module.parent().unwrap_or(&module) } else { &module };
    source.test_modules.iter().map(|name| folder.join(name)).collect()
}

/// What is in a folder, by name.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        entries.push(entry?.path());
    }
    entries.sort();
    Ok(entries)
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if has_ending(&path, "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn has_ending(path: &Path, ending: &str) -> bool {
    path.extension().is_some_and(|one| one == ending)
}

/// Paths from the root, with the texts of the files.
fn texts(root: &Path, files: Vec<PathBuf>) -> Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        texts.push((path.strip_prefix(root).unwrap_or(&path).display().to_string(), text));
    }
    Ok(texts)
}

fn pairs(texts: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    texts.iter().map(|(file, text)| (file.as_str(), text.as_str()))
}
