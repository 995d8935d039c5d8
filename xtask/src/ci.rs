//! `cargo xtask ci`: every check, the quick ones first.

use crate::fuzz::FuzzArgs;
use crate::power::PowerArgs;
use crate::run::{Beside, cargo, heading, must, say};
use crate::schemathesis::SchemathesisArgs;
use crate::sim::SimArgs;
use crate::test::TestArgs;
use crate::workspace::Workspace;
use crate::{fuzz, power, schemathesis, sim, soak, test, tidy};

/// A snapshot of the advisory database beside the repository, for machines that may not fetch one.
const ADVISORIES: &str = "../shared/advisory-db";

/// What the `reliability` contract asks for on every change (4.4, R4); where they are not possible that is said.
const POWER_CUTS: u32 = 100;

/// For each fuzz target.
const FUZZ_SECONDS: u32 = 30;
/// What the reliability contract asks of every change where `cargo test` does less, to stay quick.
const MORE: [(&str, &str); 2] = [("GRIDWIRE_KILLS", "50"), ("GRIDWIRE_FLOOD_SECONDS", "60")];
const FLIPS: u64 = 1 << 16;
const OPERATIONS: u64 = 2_000;

pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<()> {
    let root = &workspace.root;
    heading("Format");
    must(cargo(root).args(["fmt", "--all", "--check"]))?;
    heading("Conventions");
    tidy::run(workspace)?;
    heading("Dependency policy");
    must(cargo(root).args(["deny", "--offline", "check", "bans", "licenses", "sources"]))?;
    if root.join(ADVISORIES).is_dir() {
        must(cargo(root).args(["audit", "--no-fetch", "--stale", "--db", ADVISORIES]))?;
    } else {
        say(&format!("advisories: NOT checked, there is no database at `{ADVISORIES}`"));
    }
    heading("Lints");
    must(cargo(root).args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    heading("Documentation");
    let mut doc = cargo(root);
    doc.args(["doc", "--locked", "--no-deps", "--workspace"]).env("RUSTDOCFLAGS", "-D warnings");
    must(&mut doc)?;
    heading("The README's first command");
    // As written there but for the profile: what it shows is the same, and the tests need this build anyway.
    must(cargo(root).args(["run", "--locked", "--", "demo", "--once"]))?;
    test::run(workspace, &TestArgs::with(&MORE))?;
    soak::store_faults(workspace, FLIPS, OPERATIONS)?;
    heading("Simulation");
    sim::run(workspace, &SimArgs::new(&["--seeds", "300"]))?;
    heading("Planted bugs");
    sim::run(workspace, &SimArgs::new(&["--planted"]))?;
    // Both are told how long to take, and what they wait for is mostly not a processor.
    let mut requests = schemathesis::prepare(workspace, &SchemathesisArgs::default())?;
    let requests = Beside::start(&mut requests, workspace.target.join("schemathesis/output"))?;
    let rest = cut_and_fuzz(workspace);
    // Both are heard, whichever has failed.
    let answered = requests.finish();
    rest.and(answered)
}

fn cut_and_fuzz(workspace: &Workspace) -> anyhow::Result<()> {
    heading("Power cuts");
    power::run(workspace, &PowerArgs::new(POWER_CUTS))?;
    // Each corpus, and a look around; longer runs are for whoever changes a parser, and for releases.
    fuzz::run(workspace, &FuzzArgs { seconds: FUZZ_SECONDS, targets: Vec::new() })
}
