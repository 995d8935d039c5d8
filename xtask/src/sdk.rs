//! The official SDKs, unmodified, against the real program.
//!
//! Each suite has its sources under `tests/sdk/` and its packages under `target/sdk/`, where nothing of it
//! is checked in and `cargo clean` removes all. Packages are installed again when the files that name them
//! changed. A suite finds the program by `GRIDWIRE_BIN`.

pub(crate) mod javascript;
pub(crate) mod python;

use std::fs;
use std::path::Path;

use anyhow::Context;

/// Names the program to the suites.
pub(crate) const PROGRAM: &str = "GRIDWIRE_BIN";

/// Kept beside installed packages: the text that they were installed from.
const STAMP: &str = "installed-from";

fn is_installed(directory: &Path, from: &str) -> bool {
    fs::read_to_string(directory.join(STAMP)).is_ok_and(|text| text == from)
}

fn set_installed(directory: &Path, from: &str) -> anyhow::Result<()> {
    write(&directory.join(STAMP), from)
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("failed to write `{}`", path.display()))
}

fn create_dir(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("failed to create `{}`", path.display()))
}

/// Removes a directory and all in it; fine when it is not there.
fn remove_dir(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("failed to remove `{}`", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_installed_again_when_their_list_changed() {
        let directory = tempfile::tempdir().unwrap();
        assert!(!is_installed(directory.path(), "a==1"));
        set_installed(directory.path(), "a==1").unwrap();
        assert!(is_installed(directory.path(), "a==1"));
        assert!(!is_installed(directory.path(), "a==2"));
    }
}
