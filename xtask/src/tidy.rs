//! `cargo xtask tidy`: the conventions that no lint sees, each with the reason it exists.
//!
//! Every rule looks at files and answers with findings; all of them are printed, then any that is an error
//! fails the run. A rule is a function of texts, so its tests need no repository.

mod code;
mod documents;
mod sources;
mod structure;
mod tables;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::run::say;
use crate::workspace::Workspace;

/// Something that breaks a convention.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    file: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    rule: &'static str,
    message: String,
    /// Only named, does not fail.
    is_advice: bool,
}

impl Finding {
    fn new(file: &str, line: usize, rule: &'static str, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, rule, message: message.into(), is_advice: false }
    }

    fn advice(self) -> Self {
        Self { is_advice: true, ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        let note = if self.is_advice { " (advice)" } else { "" };
        write!(f, ": {}{note}: {}", self.rule, self.message)
    }
}

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let tree = Tree { root: workspace.root.clone() };
    let mut findings = Vec::new();
    for file in tree.files("crates", "rs")?.into_iter().chain(tree.files("xtask", "rs")?) {
        sources::check(&file, &tree.read(&file)?, &mut findings);
    }
    structure::check_dependencies(&workspace.packages, &mut findings);
    structure::check_lock_files(&tree, &mut findings)?;
    documents::check_error_pages(&tree, &mut findings)?;
    documents::check_links(&tree, &mut findings)?;
    tables::check(&tree, &mut findings)?;

    findings.sort_by(|a, b| (a.is_advice, &a.file, a.line).cmp(&(b.is_advice, &b.file, b.line)));
    for finding in &findings {
        say(&finding.to_string());
    }
    match findings.iter().filter(|finding| !finding.is_advice).count() {
        0 => {
            say("tidy: ok");
            Ok(())
        }
        count => bail!("tidy: {count} findings"),
    }
}

/// The repository's files by their path from its root.
#[derive(Debug)]
struct Tree {
    root: PathBuf,
}

impl Tree {
    fn read(&self, file: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.root.join(file)).with_context(|| format!("failed to read `{file}`"))
    }

    fn has(&self, file: &str) -> bool {
        self.root.join(file).exists()
    }

    /// Every file below `directory` whose name ends in `.extension`, sorted; none when there is no such
    /// directory.
    fn files(&self, directory: &str, extension: &str) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let mut left = vec![self.root.join(directory)];
        while let Some(directory) = left.pop() {
            if !directory.is_dir() {
                continue;
            }
            let failed = || format!("failed to list `{}`", directory.display());
            for entry in fs::read_dir(&directory).with_context(failed)? {
                let path = entry.with_context(failed)?.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|found| found == extension) {
                    found.push(self.name_of(&path));
                }
            }
        }
        found.sort();
        Ok(found)
    }

    fn name_of(&self, path: &Path) -> String {
        path.strip_prefix(&self.root).unwrap_or(path).to_string_lossy().into_owned()
    }
}
