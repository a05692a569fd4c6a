//! The components that are committed: each is what its source builds to today. Bytes are compared where the toolchain is
//! the one that made them, plans where it is another.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use groundskeeper::config::{ManifestBody, read_manifests};
use groundskeeper::engine::wasm::{Guest, Wasm, sha256};
use groundskeeper::record::Fixture;
use groundskeeper_author::{DryRun, InspectedModule, build, c_compiler, views};
use serde_json::Value;

/// Views on which components of different bytes are compared.
const VIEWS: u64 = 100;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the program is in a workspace")
}

/// What made a component, as the first line that its compiler says of itself.
fn toolchain(is_rust: bool) -> String {
    let compiler = if is_rust { "rustc" } else { "clang" };
    let output = Command::new(compiler)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}"));
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn every_ready_component_is_what_its_source_builds_to() {
    let ready = root().join("examples/ready");
    let made_with = std::fs::read_to_string(ready.join("toolchains.txt")).unwrap();
    let manifests = read_manifests(&ready);
    assert_eq!(manifests.len(), 8, "{manifests:?}");
    let scratch = tempfile::tempdir().unwrap();
    for file in manifests {
        let manifest = file.manifest.as_ref().unwrap_or_else(|problems| panic!("{problems:?}"));
        let ManifestBody::Guest(guest) = &manifest.body else { panic!("{} is no guest", file.name) };
        let module: PathBuf = file.module().unwrap();
        let committed = std::fs::read(&module).unwrap();
        assert_eq!(
            Some(sha256(&committed).0),
            guest.sha256,
            "{} is not the module that is pinned",
            file.name
        );
        let source = root().join("examples").join(&file.name);
        let is_rust = source.join("Cargo.toml").is_file();
        if let (false, Err(why)) = (is_rust, c_compiler()) {
            // The whole check installs clang; a machine that only runs the tests may do without.
            println!("{}: NOT compared with its source: {why}", file.name);
            continue;
        }
        let built = build(&source, Some(scratch.path()), &mut |note| println!("{note}")).unwrap();
        if built.digest.0 == guest.sha256.unwrap() {
            println!("{}: the same bytes", file.name);
            continue;
        }
        let here = toolchain(is_rust);
        assert!(
            !made_with.lines().any(|line| line == here),
            "{} has other bytes than its source builds to with {here}; make it anew with `cargo xtask ready`",
            file.name
        );
        let wasm = Wasm::new(None).unwrap();
        let (ours, theirs) = (
            InspectedModule::load(&module, &wasm).unwrap(),
            InspectedModule::load(&built.file, &wasm).unwrap(),
        );
        let settings: Value = serde_json::from_str(&guest.settings).unwrap();
        let ours_guest = ours.guest().unwrap();
        let theirs = Guest::new(&theirs.wasm, Arc::clone(&theirs.code), ours.setup()).unwrap();
        for seed in 0..VIEWS {
            let fixture = Fixture::parse(&views::random(seed, &settings).to_string(), "random").unwrap();
            let run = |guest: &Guest| DryRun::of(guest, fixture.tick, fixture.view());
            let (one, other) = (run(&ours_guest), run(&theirs));
            assert!(
                one.is_same_as(&other),
                "{}, view {seed}:\n{}\n{}",
                file.name,
                one.shown(),
                other.shown()
            );
        }
        println!("{}: other bytes, made with another toolchain; {VIEWS} plans are the same", file.name);
    }
}

/// A clang that links runs the optimiser that it finds, without saying so.
#[test]
fn a_wasm_opt_on_the_path_changes_no_byte_of_a_component() {
    if let Err(why) = c_compiler() {
        println!("NOT tested: {why}");
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let folder = |name: &str| {
        let folder = scratch.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        folder
    };
    let (tools, plain, beset) = (folder("tools"), folder("plain"), folder("beset"));
    let optimiser = tools.join("wasm-opt");
    std::fs::write(&optimiser, "#!/bin/sh\nfor last; do :; done\necho broken >\"$last\"\n").unwrap();
    std::fs::set_permissions(&optimiser, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = std::env::var("PATH").unwrap();
    for (out, path) in [(&plain, &path), (&beset, &format!("{}:{path}", tools.display()))] {
        let mut build = Command::new(env!("CARGO_BIN_EXE_groundskeeper"));
        build.arg("build").arg(root().join("examples/slow-peers-c")).arg("--out").arg(out);
        let output = build.env("PATH", path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let made = |out: &Path| std::fs::read(out.join("slow-peers-c.wasm")).unwrap();
    assert!(made(&plain) == made(&beset));
}
