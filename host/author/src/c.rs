//! Builds a core module or a shared library from a folder of C files. Runs compilers, never their output.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use groundskeeper::engine::wasm::with_contract;
use groundskeeper_sdk::abi::{ENTRY, HEADER};

use super::build::shown;
use super::scratch::ScratchFolder;
use super::toolchain::says;

/// The C files of a folder, by name.
pub(super) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|end| end == "c"))
        .collect();
    files.sort();
    Ok(files)
}

/// Whether a C file in the folder defines the entry of a native phase.
pub(super) fn is_native(folder: &Path) -> Result<bool> {
    let texts = files(folder)?.into_iter().map(fs::read);
    let texts = texts.collect::<Result<Vec<_>, _>>().context("cannot read the C files")?;
    Ok(texts.iter().any(|text| String::from_utf8_lossy(text).contains(ENTRY)))
}

/// The absolute folder, and the name of its phase, which is the folder's name.
fn named(folder: &Path) -> Result<(PathBuf, String)> {
    let folder = fs::canonicalize(folder)?;
    let name = folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok((folder, name))
}

/// Compiles all C files of a folder for this machine. The header of native phases need not be in the folder.
pub(super) fn library(folder: &Path, note: &mut dyn FnMut(&str)) -> Result<(String, Vec<u8>)> {
    let (folder, name) = named(folder)?;
    let scratch = ScratchFolder::new()?;
    fs::write(scratch.path().join("groundskeeper_phase.h"), HEADER)?;
    let library = scratch.path().join("phase.so");
    let compiler = env::var_os("CC").unwrap_or_else(|| "cc".into());
    let mut command = Command::new(&compiler);
    command
        .args(["-std=c11", "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-I.", "-I"])
        .arg(scratch.path());
    command.arg(format!("-ffile-prefix-map={}=.", folder.display())).arg("-o").arg(&library);
    command.args(files(&folder)?.iter().filter_map(|file| file.file_name())).current_dir(&folder);
    let compiler = compiler.to_string_lossy();
    let missing =
        format!("the C compiler {compiler} could not be run; install the package gcc or clang, or set CC");
    run(command, &missing, note)?;
    Ok((name, fs::read(&library)?))
}

/// Compiles all C files of a folder, without a C library. The contract is added later, so it needs no object file here.
/// Calls the linker itself: clang would also run any `wasm-opt` it finds, and that would change the output.
pub(super) fn module(folder: &Path, note: &mut dyn FnMut(&str)) -> Result<(String, Vec<u8>)> {
    let linker = wasm_linker().map_err(anyhow::Error::msg)?;
    let (folder, name) = named(folder)?;
    let scratch = ScratchFolder::new()?;
    let module = scratch.path().join("phase.wasm");
    let mut link = Command::new(&linker);
    link.args(["-m", "wasm32", "--no-entry", "--strip-debug", "-o"]).arg(&module);
    for file in files(&folder)?.iter().filter_map(|file| file.file_name()) {
        let object = scratch.path().join(file).with_extension("o");
        let mut compile = Command::new("clang");
        compile.args(["--target=wasm32-unknown-unknown", "-c", "-Os", "-std=c11", "-Wall", "-Wextra"]);
        compile.args(["-fno-builtin", "-I."]).arg(format!("-ffile-prefix-map={}=.", folder.display()));
        compile.arg("-o").arg(&object).arg(file).current_dir(&folder);
        run(compile, "clang could not be run", note)?;
        link.arg(object);
    }
    run(link, &format!("{linker} could not be run"), note)?;
    Ok((name, with_contract(&fs::read(&module)?)?))
}

/// Runs a compiler. `missing` is the error if the program is not installed.
fn run(mut command: Command, missing: &str, note: &mut dyn FnMut(&str)) -> Result<()> {
    let within =
        command.get_current_dir().map_or_else(String::new, |folder| format!(" in {}", folder.display()));
    note(&format!("{}{within}", shown(&command)));
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().with_context(|| missing.to_owned())?;
    if !status.success() {
        bail!("{program} failed: {status}");
    }
    Ok(())
}

/// Whether this machine can compile C to WebAssembly.
///
/// # Errors
/// What is missing, and the packages that provide it.
pub fn c_compiler() -> Result<(), String> {
    wasm_linker().map(drop)
}

/// The linker that belongs to clang. It may lie in clang's own folder, so clang is asked before `PATH`.
fn wasm_linker() -> Result<String, String> {
    let missing = |what| {
        format!(
            "nothing here builds C for WebAssembly: there is no {what}; install the packages clang and lld"
        )
    };
    let named = says("clang", &["--target=wasm32-unknown-unknown", "-print-prog-name=wasm-ld"]);
    let named = named.ok_or_else(|| missing("clang"))?.trim().to_owned();
    let version = says("clang", &["-dumpversion"]).unwrap_or_default();
    let versioned = format!("wasm-ld-{}", version.trim().split('.').next().unwrap_or_default());
    let linker = [named, versioned].into_iter().find(|linker| says(linker, &["--version"]).is_some());
    linker.ok_or_else(|| missing("wasm-ld"))
}
