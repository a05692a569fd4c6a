//! Checks what `guests.require` demands of a manifest: the digest of its module, and a signature.

use std::path::{Path, PathBuf};

use super::ReloadOptions;
use crate::config::{MOST_MANIFEST_BYTES, Manifest, ManifestBody, ManifestFile, TrustRequirement};
use crate::data::FileSystem;
use crate::loader::PhaseRefusal;

/// Checks that the manifest names its module's digest and is signed, as far as that is required.
pub(super) fn check(
    options: &ReloadOptions,
    files: &dyn FileSystem,
    file: &ManifestFile,
    manifest: &Manifest,
) -> Result<(), PhaseRefusal> {
    let ReloadOptions { require, public_key, .. } = options;
    let ManifestBody::Guest(guest) = &manifest.body else { return Ok(()) };
    if *require == TrustRequirement::Nothing {
        return Ok(());
    }
    let path = file.path.display();
    if guest.sha256.is_none() {
        let module = guest.module.display();
        return Err(PhaseRefusal::Bad(format!(
            "{path}: guests.require wants the digest of the module; write sha256 = \"..\", as `sha256sum {module}` says it"
        )));
    }
    if *require == TrustRequirement::Digest {
        return Ok(());
    }
    let place = signature_of(&file.path);
    let wrong = |why: &dyn std::fmt::Display| {
        let (place, name) = (place.display(), file.path.file_name().unwrap_or_default().to_string_lossy());
        PhaseRefusal::Unfinished(format!(
            "{place}: {why}; guests.require wants a signature of the manifest: minisign -S -m {name}"
        ))
    };
    let text = files.read(&place, MOST_MANIFEST_BYTES).map_err(|error| wrong(&error))?;
    let signature = minisign_verify::Signature::decode(&String::from_utf8_lossy(&text));
    let signature = signature.map_err(|error| wrong(&error))?;
    let key = minisign_verify::PublicKey::from_base64(public_key.as_deref().unwrap_or_default());
    let key = key.map_err(|error| wrong(&error))?;
    // Ed25519 with and without hashing first: minisign uses both.
    key.verify(file.text.as_bytes(), &signature, true).map_err(|error| wrong(&error))
}

/// The path of a manifest's signature.
pub(super) fn signature_of(manifest: &Path) -> PathBuf {
    let mut path = manifest.as_os_str().to_owned();
    path.push(".minisig");
    path.into()
}
