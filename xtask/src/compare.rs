//! `cargo xtask compare`: how fast the program is next to what it was at another commit. Both are built alike and
//! measured in turns, by one load generator, so that neither the machine's mood nor a change of the generator is taken
//! for one of the server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use clap::Args;

use crate::bench::report;
use crate::run::{cargo, heading, must, output, say};
use crate::test;
use crate::workspace::Workspace;

/// What is measured: a name, and the arguments of `gridwire bench`.
const SCENARIOS: [(&str, &[&str]); 3] = [
    ("publish, one event a request", &["publish", "--connections", "16"]),
    ("publish, batches of 100", &["publish", "--connections", "16", "--batch", "100"]),
    ("push", &["push"]),
];

#[derive(Debug, Args)]
pub(crate) struct CompareArgs {
    /// The commit to compare with
    #[arg(long, value_name = "COMMIT")]
    base: String,
    /// How often each of both is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pairs: u32,
    /// How long each time, as `gridwire bench` takes it
    #[arg(long, default_value = "3s")]
    duration: String,
    /// The median ratio, present to base, below which it is a failure
    #[arg(long, default_value_t = 0.9)]
    least: f64,
}

pub(crate) fn run(workspace: &Workspace, args: &CompareArgs) -> anyhow::Result<()> {
    heading("The program as it is");
    let present = test::build(workspace, true)?;
    heading("The program as it was");
    let base = build_base(workspace, &args.base)?;
    let mut results = Vec::new();
    for (name, scenario) in SCENARIOS {
        heading(name);
        let mut pairs = Pairs::default();
        for _ in 0..args.pairs {
            let before = measure(workspace, &present, &base, scenario, &args.duration)?;
            let after = measure(workspace, &present, &present, scenario, &args.duration)?;
            say(&pairs.add(before, after));
        }
        results.push((name, pairs));
    }
    heading("Present to base");
    let mut missed = Vec::new();
    for (name, pairs) in &results {
        let median = pairs.median();
        say(&format!("{name}: {median:.2} (of {}); at least {:.2}", pairs.ratios_text(), args.least));
        if !pairs.hold(args.least) {
            missed.push(format!("{name}: {median:.2}"));
        }
    }
    ensure!(missed.is_empty(), "slower than at `{}`: {}", args.base, missed.join("; "));
    Ok(())
}

/// Events in a second, with the load generator of `generator` and a server of `program`.
fn measure(
    workspace: &Workspace,
    generator: &Path,
    program: &Path,
    scenario: &[&str],
    duration: &str,
) -> anyhow::Result<f64> {
    let mut command = Command::new(generator);
    command.arg("bench").args(scenario).args(["--slices", "1", "--duration", duration]);
    command.arg("--program").arg(program).arg("--temp-dir").arg(&workspace.target);
    report(&mut command)?.rate()
}

/// Events in a second, before and after, measured next to each other.
#[derive(Debug, Default)]
struct Pairs(Vec<(f64, f64)>);

impl Pairs {
    /// Returns what is to be said of it.
    fn add(&mut self, before: f64, after: f64) -> String {
        self.0.push((before, after));
        format!("{before:.0}/s at the base, {after:.0}/s now: {:.2}", after / before)
    }

    fn ratios(&self) -> impl Iterator<Item = f64> {
        self.0.iter().map(|(before, after)| after / before)
    }

    fn ratios_text(&self) -> String {
        let all: Vec<_> = self.ratios().map(|ratio| format!("{ratio:.2}")).collect();
        all.join(" ")
    }

    /// Nothing that was not measured does.
    fn hold(&self, least: f64) -> bool {
        least <= self.median()
    }

    /// Not a number, where nothing was measured.
    fn median(&self) -> f64 {
        let mut ratios: Vec<_> = self.ratios().collect();
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.len() / 2;
        match ratios.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => ratios[middle],
            _ => f64::midpoint(ratios[middle - 1], ratios[middle]),
        }
    }
}

/// Builds the program as `commit` would have released it, unless that was done before; the answer is
/// where it is.
fn build_base(workspace: &Workspace, commit: &str) -> anyhow::Result<PathBuf> {
    let mut rev_parse = git(&workspace.root);
    let commit = output(rev_parse.args(["rev-parse", "--verify", &format!("{commit}^{{commit}}")]))?;
    let commit = commit.trim();
    let place = workspace.target.join("compare");
    fs::create_dir_all(&place).with_context(|| format!("failed to make `{}`", place.display()))?;
    let program = place.join(format!("gridwire-{commit}"));
    if program.is_file() {
        say(&format!("built before: `{}`", program.display()));
        return Ok(program);
    }
    let checkout = Checkout::add(&workspace.root, place.join("source"), commit)?;
    let target = place.join("target");
    let mut build = cargo(&checkout.path);
    build.args(["build", "--locked", "--release", "--package", "gridwire", "--bin", "gridwire"]);
    must(build.arg("--target-dir").arg(&target))?;
    let built = target.join("release/gridwire").with_extension(std::env::consts::EXE_EXTENSION);
    fs::copy(&built, &program).with_context(|| format!("the build did not leave `{}`", built.display()))?;
    Ok(program)
}

fn git(root: &Path) -> Command {
    let mut command = Command::new("git");
    command.arg("-C").arg(root);
    command
}

/// The files of a commit, in a directory of their own while this is held.
struct Checkout {
    root: PathBuf,
    path: PathBuf,
}

impl Checkout {
    fn add(root: &Path, path: PathBuf, commit: &str) -> anyhow::Result<Self> {
        let checkout = Self { root: root.to_owned(), path };
        // What a run that was killed has left behind.
        checkout.remove();
        let mut add = git(root);
        must(add.args(["worktree", "add", "--detach", "--quiet"]).arg(&checkout.path).arg(commit))?;
        Ok(checkout)
    }

    fn remove(&self) {
        let mut remove = git(&self.root);
        // There may be nothing to remove, and at the end there is nobody who could do anything about it.
        let _ = output(remove.args(["worktree", "remove", "--force"]).arg(&self.path));
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_that_of_the_pairs_ratios() {
        let check = |rows: &[(f64, f64)], expected: f64| {
            let mut pairs = Pairs::default();
            for &(before, after) in rows {
                pairs.add(before, after);
            }
            let median = pairs.median();
            assert!((median - expected).abs() < 1e-9, "{rows:?}: {median}");
        };
        check(&[(100.0, 90.0)], 0.9);
        // A machine that got twice as fast in between says nothing about the program.
        check(&[(100.0, 95.0), (200.0, 190.0), (400.0, 100.0)], 0.95);
        check(&[(10.0, 10.0), (10.0, 20.0)], 1.5);
        assert!(Pairs(vec![(100.0, 90.0)]).hold(0.9) && !Pairs(vec![(100.0, 89.0)]).hold(0.9));
        assert!(!Pairs::default().hold(0.9) && !Pairs(vec![(0.0, 0.0)]).hold(0.9));
    }

    #[test]
    fn a_commits_files_are_there_as_long_as_they_are_held() {
        let parent = tempfile::tempdir().unwrap();
        let root = parent.path().join("repository");
        fs::create_dir(&root).unwrap();
        let run = |args: &[&str]| output(git(&root).args(args)).unwrap();
        run(&["init", "--quiet"]);
        for text in ["old", "new"] {
            fs::write(root.join("file"), text).unwrap();
            run(&["add", "file"]);
            run(&["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "-m", text]);
        }
        let path = parent.path().join("source");
        // The second time finds what the first has left.
        std::mem::forget(Checkout::add(&root, path.clone(), "HEAD").unwrap());
        let checkout = Checkout::add(&root, path.clone(), "HEAD~").unwrap();
        assert_eq!(fs::read_to_string(path.join("file")).unwrap(), "old");
        drop(checkout);
        assert!(!path.exists());
        assert_eq!(run(&["worktree", "list"]).lines().count(), 1);
    }
}
