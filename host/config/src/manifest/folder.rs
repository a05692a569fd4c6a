//! The drop-in folder: its manifests, and modules without one. Reads no module. A bad file does not affect others.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use groundskeeper_base::problem::Problem;
use groundskeeper_base::read::read_regular_text;
use groundskeeper_engine::BUILTINS;
use groundskeeper_engine::policy::{MOST_PHASE_NAME, is_phase_name};

use super::super::document::Document;
use super::{Manifest, ManifestBody, Runtime};

/// A larger file is not a manifest.
pub const MOST_MANIFEST_BYTES: u64 = 1 << 20;

/// One file of the folder: a manifest, or a module without a manifest.
#[derive(Clone, PartialEq, Debug)]
pub struct ManifestFile {
    /// Path of the file; of the folder itself if it cannot be read.
    pub path: PathBuf,
    /// The text of the file; empty if it could not be read.
    pub text: String,
    /// The phase's name, or a name made from the file name if it has none. For `phases` and for messages.
    pub name: String,
    /// It seems to be for a built-in phase. A problem in it is then a problem of the config.
    pub is_built_in: bool,
    /// It is empty or not TOML. It may not be completely written yet.
    pub is_torn: bool,
    /// The checked manifest, or all problems of the file.
    pub manifest: Result<Manifest, Vec<Problem>>,
}

impl ManifestFile {
    fn refused(path: PathBuf, problem: Problem) -> Self {
        let name = name_from(&path);
        let manifest = Err(vec![problem]);
        Self { path, text: String::new(), name, is_built_in: false, is_torn: false, manifest }
    }

    /// Reads one file.
    #[doc(hidden)]
    pub fn read(path: PathBuf) -> Self {
        let text = read_text(&path);
        Self::of(path, text)
    }

    /// The file `path` with the result of reading its text.
    #[doc(hidden)]
    pub fn of(path: PathBuf, text: Result<String, String>) -> Self {
        let file = path.display().to_string();
        match text {
            Ok(text) => Self::parse(path, text),
            Err(why) => {
                let is_built_in = BUILTINS.contains(&name_from(&path).as_str());
                let problem = Problem::of(file, format!("cannot be read: {why}"));
                Self { is_built_in, ..Self::refused(path, problem) }
            }
        }
    }

    /// The file `path` with the content `text`.
    #[doc(hidden)]
    pub fn parse(path: PathBuf, text: String) -> Self {
        let file = path.display().to_string();
        let manifest = Manifest::parse(&text, &file);
        let document = Document::parse(&text, &file);
        let name = document.text_at("name").filter(|name| is_phase_name(name));
        let name = name.map_or_else(|| name_from(&path), str::to_owned);
        let is_built_in = match (&manifest, document.text_at("kind")) {
            (Ok(manifest), _) => matches!(manifest.body, ManifestBody::BuiltIn),
            (Err(_), Some("wasm" | "native")) => false,
            (Err(_), Some("built-in")) => true,
            (Err(_), _) => BUILTINS.contains(&name.as_str()),
        };
        let is_torn = document.is_torn() || text.trim().is_empty();
        drop(document);
        Self { path, text, name, is_built_in, is_torn, manifest }
    }

    /// The path of its module, if the manifest is valid and has one.
    #[doc(hidden)]
    pub fn module(&self) -> Option<PathBuf> {
        let folder = self.path.parent()?;
        match &self.manifest {
            Ok(Manifest { body: ManifestBody::Guest(guest), .. }) => Some(folder.join(&guest.module)),
            _ => None,
        }
    }
}

/// Whether a TOML file is a manifest. A config has only tables at the top level, and none with these names.
pub fn is_manifest(text: &str) -> bool {
    let document = Document::parse(text, "");
    ["name", "kind", "module", "mode", "schedule", "grants"].iter().any(|key| document.value(key).is_some())
}

/// Reads every manifest in the folder `dir`, in order of file names. A module without a manifest gets an entry with a
/// problem that suggests one. If two manifests name the same phase, the one with that file name wins, else the first.
///
/// A missing folder has no manifests. A folder that cannot be read gives one entry with that problem.
pub fn read_manifests(dir: &Path) -> Vec<ManifestFile> {
    match list(dir) {
        Ok(paths) => arrange_manifests(paths, ManifestFile::read),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            let problem = Problem::of(dir.display().to_string(), format!("cannot be read: {error}"));
            vec![ManifestFile::refused(dir.to_owned(), problem)]
        }
    }
}

/// Like [`read_manifests`], but the caller lists the files of the folder and reads them.
pub fn arrange_manifests(
    mut paths: Vec<PathBuf>,
    read: impl FnMut(PathBuf) -> ManifestFile,
) -> Vec<ManifestFile> {
    paths.sort();
    let has = |path: &&PathBuf, extension: &str| path.extension().is_some_and(|found| found == extension);
    let manifests = paths.iter().filter(|path| has(path, "toml")).cloned();
    let mut files: Vec<ManifestFile> = manifests.map(read).collect();
    refuse_namesakes(&mut files);
    let told: BTreeSet<PathBuf> = files.iter().flat_map(claimed).collect();
    for runtime in [Runtime::Wasm, Runtime::Native] {
        let modules = paths.iter().filter(|path| has(path, runtime.extension()));
        let orphans = modules.filter(|path| !told.contains(*path)).cloned();
        files.extend(orphans.map(|module| orphan(module, runtime)));
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn list(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        // Editors and installers write drafts to hidden files.
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && !path.is_dir() {
            paths.push(path);
        }
    }
    Ok(paths)
}

fn read_text(path: &Path) -> Result<String, String> {
    read_regular_text(path, MOST_MANIFEST_BYTES).map_err(|error| error.to_string())
}

/// The modules of a manifest: the one that it names or, if the manifest is not valid, all that it may mean.
fn claimed(file: &ManifestFile) -> Vec<PathBuf> {
    match file.module() {
        Some(module) => vec![module.components().collect()],
        None => {
            let text = Document::parse(&file.text, "").text_at("module").map(str::to_owned);
            let usual = [Runtime::Wasm, Runtime::Native]
                .map(|runtime| format!("{}.{}", file.name, runtime.extension()));
            let folder = file.path.parent().unwrap_or(Path::new(""));
            text.into_iter().chain(usual).map(|module| folder.join(module).components().collect()).collect()
        }
    }
}

fn refuse_namesakes(files: &mut [ManifestFile]) {
    let is_own = |file: &ManifestFile| file.path.file_stem().is_some_and(|stem| *stem == *file.name);
    for at in 0..files.len() {
        if files[at].manifest.is_err() {
            continue;
        }
        let same = |other: &usize| {
            *other != at && files[*other].manifest.is_ok() && files[*other].name == files[at].name
        };
        let better = |other: &usize| {
            is_own(&files[*other]) && !is_own(&files[at])
                || *other < at && is_own(&files[*other]) == is_own(&files[at])
        };
        if let Some(other) = (0..files.len()).filter(same).find(better) {
            let (file, other) =
                (files[at].path.display().to_string(), files[other].path.display().to_string());
            let message = format!("the name {:?} is taken by {other}", files[at].name);
            let mut document = Document::parse(&files[at].text, &file);
            document.report_at("name", message, Some("give one of them another name".to_owned()));
            files[at].manifest = Err(document.into_problems());
        }
    }
}

/// A phase name made from the name of a file.
pub(super) fn name_from(file: &Path) -> String {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let plain = |c: char| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' };
    let name: String = stem.chars().map(plain).take(MOST_PHASE_NAME).collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "phase".to_owned() } else { name.to_owned() }
}

fn orphan(module: PathBuf, runtime: Runtime) -> ManifestFile {
    let name = name_from(&module);
    let file = module.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut draft = format!("name = \"{name}\"\nkind = \"{}\"\n", runtime.as_str());
    if file != format!("{name}.{}", runtime.extension()) {
        draft += &format!("module = {file:?}\n");
    }
    if runtime == Runtime::Native {
        draft += &format!("sha256 = \"what `sha256sum {file}` says\"\n");
    }
    draft += "mode = \"shadow\"\n\n[schedule]\nevery_n_ticks = 1\n\n[grants]\npeers = true\n";
    let problem = Problem::of(module.display().to_string(), "this module has no manifest")
        .with_hint(format!("write {name}.toml beside it, for a start:\n{draft}"));
    ManifestFile::refused(module, problem)
}
