//! What a node may require of a phase before it is loaded: that its manifest pins its module, and that it is signed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use data_encoding::{BASE64, HEXLOWER};
use groundskeeper::config::TrustRequirement;
use groundskeeper::data::DiskFileSystem;
use groundskeeper::reload::{PhaseChange, ReloadOptions, ScanKind, StartFrom};
use ring::signature::{Ed25519KeyPair, KeyPair};
use sha2::{Digest, Sha256};

use super::world::{Hand, Process, Scripts, manifest, module};

/// A key pair whose signatures are written as minisign writes them.
struct Signer(Ed25519KeyPair);

const ALGORITHM: &[u8] = b"Ed";
const KEY_ID: &[u8] = b"a number";

impl Signer {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn public_key(&self) -> String {
        BASE64.encode(&[ALGORITHM, KEY_ID, self.0.public_key().as_ref()].concat())
    }

    fn sign(&self, text: &str) -> String {
        let signature = self.0.sign(text.as_bytes());
        let comment = "of a test";
        let global = self.0.sign(&[signature.as_ref(), comment.as_bytes()].concat());
        let signature = BASE64.encode(&[ALGORITHM, KEY_ID, signature.as_ref()].concat());
        let global = BASE64.encode(global.as_ref());
        format!("untrusted comment: nobody reads it\n{signature}\ntrusted comment: {comment}\n{global}\n")
    }
}

/// A node that requires something, and its folder.
struct Node {
    home: tempfile::TempDir,
    process: Process,
}

impl Node {
    fn start(require: TrustRequirement, key: Option<&Signer>) -> Self {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("phases.d");
        fs::create_dir(&dir).unwrap();
        let public_key = key.map(Signer::public_key);
        let options = ReloadOptions { require, public_key, ..ReloadOptions::trusting(dir) };
        let data = home.path().join("data");
        let process = Process::start_with(
            &Arc::new(Hand::default()),
            &data,
            options,
            Arc::new(DiskFileSystem),
            StartFrom::Folder,
            Scripts::default().factory(),
        );
        Self { home, process }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.home.path().join("phases.d").join(file)
    }

    fn write(&self, file: impl AsRef<Path>, text: &str) {
        fs::write(self.path(file.as_ref().to_str().unwrap()), text).unwrap();
    }

    /// An ordered look; what it came to, in the words that the operator gets.
    fn look(&mut self) -> Vec<(PhaseChange, String)> {
        let report = self.process.step(ScanKind::Ordered);
        report.events.into_iter().map(|event| (event.change, event.why.unwrap_or_default())).collect()
    }
}

fn pinned(module: &str) -> String {
    let digest = HEXLOWER.encode(&Sha256::digest(module));
    manifest("alpha", &format!("sha256 = \"{digest}\""))
}

#[test]
fn a_digest_may_be_required() {
    let mut node = Node::start(TrustRequirement::Digest, None);
    node.write("alpha.wasm", &module(1, "good"));
    node.write("alpha.toml", &manifest("alpha", ""));
    let told = node.look();
    assert!(told[0].0 == PhaseChange::Rejected && told[0].1.contains("sha256sum alpha.wasm"), "{told:?}");
    node.write("alpha.toml", &pinned(&module(1, "good")));
    assert_eq!(node.look(), [(PhaseChange::Applied, String::new())]);
    assert_eq!(node.process.runs("alpha"), Some(1));
}

#[test]
fn a_signature_may_be_required() {
    let (ours, others) = (Signer::new(1), Signer::new(2));
    let mut node = Node::start(TrustRequirement::Signature, Some(&ours));
    let (module, text) = (module(1, "good"), pinned(&module(1, "good")));
    node.write("alpha.wasm", &module);
    node.write("alpha.toml", &text);
    for (signature, words) in [
        (None, "No such file"),
        (Some("rubbish".to_owned()), "minisign -S -m alpha.toml"),
        (Some(others.sign(&text)), "minisign -S -m alpha.toml"),
        (Some(ours.sign("another manifest")), "minisign -S -m alpha.toml"),
    ] {
        if let Some(signature) = signature {
            node.write("alpha.toml.minisig", &signature);
        }
        let told = node.look();
        assert!(told.len() == 1 && !told[0].0.is_good() && told[0].1.contains(words), "{told:?}");
        assert_eq!(node.process.runs("alpha"), None);
    }
    node.write("alpha.toml.minisig", &ours.sign(&text));
    assert_eq!(node.look(), [(PhaseChange::Applied, String::new())]);
    assert_eq!(node.process.runs("alpha"), Some(1));

    // Other grants under the old signature are not taken; what runs runs on.
    node.write("alpha.toml", &text.replace("memory = true", "peers = true"));
    let told = node.look();
    assert!(told.len() == 1 && !told[0].0.is_good(), "{told:?}");
    assert_eq!(node.process.runs("alpha"), Some(1));
    // Nor is another module under it.
    node.write("alpha.toml", &text);
    node.write("alpha.wasm", &super::world::module(2, "good"));
    let told = node.look();
    assert!(told.len() == 1 && told[0].1.contains("pins another module"), "{told:?}");
    assert_eq!(node.process.runs("alpha"), Some(1));
}
