//! The verbs for authors of phases: what they print. What they do is in `author`.

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use super::{BuildArgs, NewArgs, print, print_json};
use crate::author::{self, Built};

pub(super) fn new(args: &NewArgs) -> anyhow::Result<ExitCode> {
    let sdk = args.sdk.clone().or_else(author::sdk_nearby);
    let folder = author::create(Path::new("."), &args.name, args.lang, sdk.as_deref())?;
    let folder = folder.strip_prefix(".").unwrap_or(&folder).display();
    print(&format!(
        "{folder}: a phase with a test, a manifest and a view to try it on\n\
         next: cd {folder} && groundskeeper build && groundskeeper test\n"
    ))
}

#[derive(Serialize)]
struct BuiltJson<'a> {
    file: &'a Path,
    sha256: String,
    sizes: Option<crate::engine::wasm::Sizes>,
}

pub(super) fn build(args: &BuildArgs, json: bool) -> anyhow::Result<ExitCode> {
    let out = args.out.as_deref();
    let built = if args.native {
        author::build_native(&args.folder, out, &mut note)?
    } else {
        author::build(&args.folder, out, &mut note)?
    };
    let Built { file, digest, sizes } = &built;
    if json {
        return print_json(&BuiltJson { file, sha256: digest.to_string(), sizes: *sizes });
    }
    let mut text = format!("{}\n  sha256 {digest}\n", file.display());
    if let Some(sizes) = sizes {
        let kib = |bytes: usize| format!("{:.1} KB", bytes as f64 / 1000.0);
        writeln!(
            text,
            "  {}: code {}, data {}, names {}",
            kib(sizes.whole),
            kib(sizes.code),
            kib(sizes.data),
            kib(sizes.names)
        )?;
    }
    print(&text)
}

/// What is being done, on standard error.
#[expect(clippy::print_stderr, reason = "a build takes a while and says what it does")]
fn note(text: &str) {
    eprintln!("groundskeeper: {text}");
}
