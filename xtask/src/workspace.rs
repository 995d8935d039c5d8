//! Where things are, and who depends on whom, as cargo tells.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::run::{cargo, output};

/// The repository.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) root: PathBuf,
    /// Where everything that can be built again goes.
    pub(crate) target: PathBuf,
    pub(crate) packages: Vec<Package>,
}

/// A member of the workspace.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    /// Packages it is built with; those that only its tests need are left out.
    pub(crate) dependencies: Vec<String>,
}

impl Workspace {
    pub(crate) fn load() -> anyhow::Result<Self> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let metadata = output(cargo(here).args(["metadata", "--no-deps", "--format-version", "1"]))?;
        let metadata: Value =
            serde_json::from_str(&metadata).context("failed to understand `cargo metadata`")?;
        let path = |name: &str| {
            metadata[name]
                .as_str()
                .map(PathBuf::from)
                .with_context(|| format!("`cargo metadata` has no `{name}`"))
        };
        let packages: Vec<_> = metadata["packages"].as_array().into_iter().flatten().map(package).collect();
        ensure!(!packages.is_empty(), "`cargo metadata` has no packages");
        Ok(Self { root: path("workspace_root")?, target: path("target_directory")?, packages })
    }
}

fn package(package: &Value) -> Package {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    // The kind is null for an ordinary dependency.
    let built_with = |dependency: &&Value| dependency["kind"].as_str() != Some("dev");
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    Package {
        name: text(&package["name"]),
        dependencies: dependencies.filter(built_with).map(|dependency| text(&dependency["name"])).collect(),
    }
}
