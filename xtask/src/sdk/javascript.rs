//! The suite in `tests/sdk/js`, run from a copy: node looks for packages beside the file that imports them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::{PROGRAM, create_dir, is_installed, read, remove_dir, set_installed, write};
use crate::run::{must, output};
use crate::workspace::Workspace;

const NODE_MIN: u32 = 20;

/// What the packages depend on.
const PACKAGE_FILES: [&str; 3] = ["package.json", "package-lock.json", ".npmrc"];

/// A test that waits longer for anything is stuck.
const TEST_MS_MAX: u32 = 120_000;

pub(crate) fn test(workspace: &Workspace, program: &Path) -> anyhow::Result<()> {
    let copy = workspace.target.join("sdk/js");
    let suite = workspace.root.join("tests/sdk/js");
    let version = node_version()?;
    install(&suite, &copy, &version)?;
    copy_sources(&suite, &copy)?;
    let mut tests = Command::new("node");
    tests.args(["--test", "--test-reporter=spec"]).arg(format!("--test-timeout={TEST_MS_MAX}"));
    // The tests give the authority themselves.
    for name in ["NODE_EXTRA_CA_CERTS", "NODE_OPTIONS", "NODE_TLS_REJECT_UNAUTHORIZED"] {
        tests.env_remove(name);
    }
    tests.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
    must(tests.current_dir(copy).env(PROGRAM, program))
}

fn node_version() -> anyhow::Result<String> {
    let needs = format!(
        "the JavaScript SDK tests need node {NODE_MIN} or later and npm; or leave them out with --skip-sdk"
    );
    let version = output(Command::new("node").arg("--version")).with_context(|| needs.clone())?;
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    ensure!(NODE_MIN <= major.unwrap_or(0), "{needs}; this is {}", version.trim());
    Ok(version)
}

/// Makes `node_modules` what the lock file says.
fn install(suite: &Path, copy: &Path, version: &str) -> anyhow::Result<()> {
    let files =
        PACKAGE_FILES.iter().map(|name| read(&suite.join(name))).collect::<anyhow::Result<Vec<_>>>()?;
    let from = format!("{version}{}", files.concat());
    if copy.join("node_modules").is_dir() && is_installed(copy, &from) {
        return Ok(());
    }
    remove_dir(copy)?;
    create_dir(copy)?;
    for (name, text) in PACKAGE_FILES.iter().zip(&files) {
        write(&copy.join(name), text)?;
    }
    // No package needs a script of its own to be usable.
    let mut npm = Command::new("npm");
    npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    must(npm.current_dir(copy))?;
    set_installed(copy, &from)
}

/// Puts the suite's sources beside the packages, and takes away those that the suite no longer has.
fn copy_sources(suite: &Path, copy: &Path) -> anyhow::Result<()> {
    for old in sources(copy)? {
        fs::remove_file(&old).with_context(|| format!("failed to remove `{}`", old.display()))?;
    }
    for source in sources(suite)? {
        let name = source.file_name().expect("a directory's entry has a name");
        write(&copy.join(name), &read(&source)?)?;
    }
    Ok(())
}

fn sources(directory: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("failed to list `{}`", directory.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.with_context(|| format!("failed to list `{}`", directory.display()))?.path();
        if path.extension().is_some_and(|extension| extension == "mjs") {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_copy_has_the_sources_and_no_others() {
        let (suite, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        write(&suite.path().join("a.test.mjs"), "new").unwrap();
        write(&suite.path().join("package.json"), "{}").unwrap();
        write(&copy.path().join("a.test.mjs"), "old").unwrap();
        write(&copy.path().join("gone.test.mjs"), "old").unwrap();
        copy_sources(suite.path(), copy.path()).unwrap();
        assert_eq!(sources(copy.path()).unwrap(), [copy.path().join("a.test.mjs")]);
        assert_eq!(read(&copy.path().join("a.test.mjs")).unwrap(), "new");
    }
}
