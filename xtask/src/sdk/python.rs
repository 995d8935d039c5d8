//! The suite in `tests/sdk/python`, in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context;

use super::{PROGRAM, create_dir, is_installed, read, remove_dir, set_installed};
use crate::run::{must, output};
use crate::workspace::Workspace;

/// Prints the version, and fails where the suite could not run.
const PROBE: &str = "
import sys
if sys.version_info < (3, 10): sys.exit('Python 3.10 or later is needed, this is ' + sys.version)
import ensurepip, venv
print(sys.version)
";

pub(crate) fn test(workspace: &Workspace, program: &Path) -> anyhow::Result<()> {
    let suite = workspace.root.join("tests/sdk/python");
    let python = install(&suite, &workspace.target.join("sdk/python"))?;
    let mut tests = Command::new(python);
    tests.args(["-m", "unittest", "discover", "--start-directory", "."]).current_dir(suite);
    // The tests choose proxies and authorities themselves; byte code would end up among the sources.
    for name in ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "PYTHONPATH", "PYTHONHOME"] {
        tests.env_remove(name);
    }
    tests.env("NO_PROXY", "127.0.0.1,localhost").env("no_proxy", "127.0.0.1,localhost");
    must(tests.env(PROGRAM, program).env("PYTHONDONTWRITEBYTECODE", "1"))
}

/// Makes the environment what `requirements.txt` says; the answer is its interpreter.
pub(crate) fn install(suite: &Path, environment: &Path) -> anyhow::Result<PathBuf> {
    let version = output(Command::new("python3").args(["-c", PROBE])).context(
        "tests in Python need python3 (3.10 or later) with its `venv` and `ensurepip` modules: \
         on Debian and Ubuntu `apt-get install python3-venv`; or leave the SDKs out with --skip-sdk",
    )?;
    let requirements = suite.join("requirements.txt");
    let from = format!("{version}{}", read(&requirements)?);
    let python = environment.join("bin/python");
    if python.is_file() && is_installed(environment, &from) {
        return Ok(python);
    }
    remove_dir(environment)?;
    create_dir(environment)?;
    must(Command::new("python3").args(["-m", "venv"]).arg(environment))?;
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-input",
        "--disable-pip-version-check",
        "--requirement",
    ]);
    must(pip.arg(&requirements))?;
    set_installed(environment, &from)?;
    Ok(python)
}
