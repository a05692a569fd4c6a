//! Cargo's metadata of this workspace: its packages, their features, the rustc they need. Changes nothing.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::steps::{cargo, output};

/// The folder that holds the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The packages of this workspace.
pub struct Workspace {
    packages: Vec<Value>,
    target: PathBuf,
}

impl Workspace {
    /// # Errors
    /// If `cargo metadata` fails; it prints the reason itself.
    pub fn read() -> Result<Self> {
        let metadata = output(cargo(&["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata = metadata.context("cargo metadata failed; run it by hand to see why")?;
        let mut metadata: Value = serde_json::from_str(&metadata)?;
        let target = metadata["target_directory"].as_str().context("cargo metadata names no target")?.into();
        let packages = metadata["packages"].as_array_mut().context("cargo metadata lists no packages")?;
        Ok(Self { packages: std::mem::take(packages), target })
    }

    fn package(&self, name: &str) -> Option<&Value> {
        self.packages.iter().find(|package| package["name"] == name)
    }

    /// Cargo's target folder.
    pub fn target(&self) -> &Path {
        &self.target
    }

    pub fn version(&self, name: &str) -> Option<&str> {
        self.package(name)?["version"].as_str()
    }

    /// The packages that are meant for others.
    pub fn published(&self) -> Vec<&str> {
        self.names(|package| package["publish"].is_null())
    }

    /// Those with `publish = false`.
    pub fn unpublished(&self) -> Vec<&str> {
        self.names(|package| !package["publish"].is_null())
    }

    fn names(&self, wanted: impl Fn(&Value) -> bool) -> Vec<&str> {
        self.packages.iter().filter(|package| wanted(package)).filter_map(|p| p["name"].as_str()).collect()
    }

    /// Whether a package's manifest has this key of `[package]`.
    pub fn describes(&self, name: &str, key: &str) -> bool {
        self.package(name).is_some_and(|package| package[key].is_string())
    }

    pub fn has(&self, name: &str) -> bool {
        self.package(name).is_some()
    }

    /// The features of a package, without `default`.
    pub fn features(&self, name: &str) -> Vec<&str> {
        let features = self.package(name).and_then(|package| package["features"].as_object());
        let names = features.into_iter().flat_map(|features| features.keys().map(String::as_str));
        names.filter(|name| *name != "default").collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_read() {
        let workspace = Workspace::read().unwrap();
        assert!(workspace.has("groundskeeper") && !workspace.has("serde"));
        assert!(!workspace.features("groundskeeper").contains(&"default"));
        assert!(
            workspace.published().contains(&"groundskeeper-sdk")
                && workspace.unpublished().contains(&"xtask")
        );
        assert!(workspace.describes("groundskeeper", "readme") && !workspace.describes("xtask", "readme"));
    }
}
