//! `cargo xtask fuzz`: feeds everything that is parsed with anything, from the corpora in `fuzz/corpus` on.
//!
//! libFuzzer on the stable toolchain: the counters that it follows are asked for by flags of the compiler's back end.
//! Nothing here is unsafe code, so no sanitizer runs; overflow checks and assertions do.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context, ensure};
use clap::Args;

use crate::run::{cargo, heading, must, output, say};
use crate::workspace::Workspace;

/// Every target; the programs in `fuzz/src/bin`.
const TARGETS: [&str; 8] = ["arm", "filter", "headers", "lock_token", "log", "publish", "records", "sas"];
/// Counters at every edge, what comparisons compare, and the code that is only for fuzzing.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// An input that takes longer, in seconds, is a finding; so is one that takes more memory, in MiB.
const INPUT_SECONDS_MAX: u32 = 1;
const MEMORY_MAX: u32 = 512;

#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// How long to look for new inputs with each target, after the corpus has been replayed; as many run beside each
    /// other as there are cores
    #[arg(long, default_value_t = 30)]
    pub(crate) seconds: u32,
    /// Only these targets
    #[arg(value_parser = TARGETS)]
    pub(crate) targets: Vec<String>,
}

pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> anyhow::Result<()> {
    let sources = workspace.root.join("fuzz");
    let place = workspace.target.join("fuzz");
    let host = host()?;
    heading("Fuzz targets");
    let mut build = cargo(&sources);
    build.args(["build", "--locked", "--release", "--target", &host, "--target-dir"]).arg(&place);
    must(build.env("RUSTFLAGS", FLAGS))?;
    let programs = place.join(&host).join("release");
    let findings = place.join("findings");
    fs::create_dir_all(&findings)?;
    let chosen: Vec<&str> = TARGETS
        .into_iter()
        .filter(|target| args.targets.is_empty() || args.targets.iter().any(|one| one == target))
        .collect();
    let mut commands = Vec::new();
    for target in &chosen {
        let corpus = sources.join("corpus").join(target);
        ensure!(corpus.read_dir()?.next().is_some(), "`{}` holds no inputs to begin with", corpus.display());
        // New inputs go there; what is worth keeping is copied into the repository by hand.
        let grown = place.join("corpus").join(target);
        fs::create_dir_all(&grown)?;
        let mut command = Command::new(programs.join(target));
        command
            .current_dir(&place)
            .arg(format!("-max_total_time={}", args.seconds.max(1)))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
            .arg(format!("-rss_limit_mb={MEMORY_MAX}"))
            .arg(format!("-artifact_prefix={}", prefix(&findings, target)))
            .args(["-print_final_stats=1", "-verbosity=0", "-print_funcs=0"])
            .args([grown, corpus]);
        commands.push((*target, command));
    }
    // A target uses one core; what each has to say is shown when it has ended.
    let queue = Mutex::new(commands);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some((target, mut command)) = take(&queue) {
                    let done = command.stdin(Stdio::null()).output();
                    let told = done.as_ref().map_or_else(
                        |error| format!("failed to start it: {error}"),
                        |done| String::from_utf8_lossy(&done.stderr).trim_end().to_owned(),
                    );
                    let mut failed = failed.lock().expect("no panic while the list is held");
                    heading(&format!("Fuzz {target}"));
                    say(&told);
                    if !done.is_ok_and(|done| done.status.success()) {
                        failed.push(target);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("all threads have ended well");
    ensure!(
        failed.is_empty(),
        "{} failed; the input is in `{}`; make it a test",
        failed.join(", "),
        findings.display()
    );
    Ok(())
}

fn take<T>(queue: &Mutex<Vec<T>>) -> Option<T> {
    queue.lock().expect("no panic while the queue is held").pop()
}

fn prefix(findings: &Path, target: &str) -> String {
    let path: PathBuf = findings.join(format!("{target}-"));
    path.display().to_string()
}

/// The machine's own target, named so that build scripts are built without the flags.
fn host() -> anyhow::Result<String> {
    let told = output(Command::new("rustc").arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}
