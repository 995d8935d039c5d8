//! Running other programs: each is shown before it starts, inherits our output, and must succeed. One that takes its
//! time and little else can run beside others ([`Beside`]).

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, bail};

/// Writes one line to standard error. A closed terminal is no reason to stop.
pub(crate) fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// A heading between the outputs of programs.
pub(crate) fn heading(title: &str) {
    say(&format!("\n== {title}"));
}

/// The cargo that runs us, in `root`.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

/// Runs to the end; anything but success is an error. Nothing here may wait for a person, so there is no input.
pub(crate) fn must(command: &mut Command) -> anyhow::Result<()> {
    let line = line_of(command);
    say(&format!("$ {line}"));
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("failed to start `{line}`; is it installed?"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// A program that runs while we do something else. What it writes is shown when it has ended, so that it does not
/// come between the lines of others.
#[derive(Debug)]
pub(crate) struct Beside {
    line: String,
    child: Child,
    output: PathBuf,
}

impl Beside {
    /// Starts it; its output is kept in `output`.
    pub(crate) fn start(command: &mut Command, output: PathBuf) -> anyhow::Result<Self> {
        let line = line_of(command);
        say(&format!("$ {line}  (beside what follows)"));
        let file = File::create(&output).with_context(|| format!("failed to make `{}`", output.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("failed to start `{line}`; is it installed?"))?;
        Ok(Self { line, child, output })
    }

    /// Waits for its end, which must be a success.
    pub(crate) fn finish(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        say(&format!("\n== What `{}` said\n{}", self.line, fs::read_to_string(&self.output)?.trim_end()));
        if !status.success() {
            bail!("`{}` failed: {status}", self.line);
        }
        Ok(())
    }
}

/// What a program that must succeed writes to its standard output.
pub(crate) fn output(command: &mut Command) -> anyhow::Result<String> {
    let line = line_of(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("failed to start `{line}`; is it installed?"))?;
    if !output.status.success() {
        bail!("`{line}` failed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` did not write UTF-8"))
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let words: Vec<_> =
        std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_beside_others_must_succeed_and_its_output_is_kept() {
        let output = std::env::temp_dir().join(format!("gridwire-xtask-{}", std::process::id()));
        for (code, is_fine) in [(0, true), (3, false)] {
            let mut command = Command::new("sh");
            command.args(["-c", &format!("echo out; echo err >&2; exit {code}")]);
            let ended = Beside::start(&mut command, output.clone()).and_then(Beside::finish);
            assert_eq!(ended.is_ok(), is_fine, "{ended:?}");
            assert_eq!(fs::read_to_string(&output).unwrap(), "out\nerr\n");
        }
        fs::remove_file(output).unwrap();
    }
}
