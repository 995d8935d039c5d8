//! `gridwire apply`: what was created and changed, one line each.

use anyhow::bail;

use crate::apply::{self, Change, Wanted};
use crate::arm::Management;
use crate::cli::ApplyArgs;
use crate::output::Output;
use crate::target::TargetArgs;

pub(crate) async fn run(args: &ApplyArgs, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    let wanted = apply::read(&args.file, &target.scope()?)?;
    let target = target.find()?;
    let failed = apply_all(&wanted, &target.management, args.dry_run, output).await?;
    if failed > 0 {
        bail!("{failed} of {} resources could not be applied", wanted.len());
    }
    Ok(())
}

/// Applies in order and tells each result; goes on after a failure. Returns how many failed.
async fn apply_all(
    wanted: &[Wanted],
    management: &Management,
    dry_run: bool,
    output: Output,
) -> anyhow::Result<usize> {
    let mut rows = Vec::new();
    let mut failed = 0;
    for wanted in wanted {
        let change = if dry_run {
            apply::plan(wanted, management).await
        } else {
            apply::apply(wanted, management).await
        };
        let (done, detail) = match &change {
            Ok(Change::Create) => (if dry_run { "create" } else { "created" }, String::new()),
            Ok(Change::Update(paths)) => (if dry_run { "change" } else { "changed" }, paths.join(", ")),
            Ok(Change::Nothing) => ("unchanged", String::new()),
            Err(error) => {
                failed += 1;
                ("failed", error_text(error))
            }
        };
        rows.push(vec![done.to_owned(), wanted.label.clone(), detail]);
    }
    output.table(&["result", "resource", "detail"], &rows)?;
    Ok(failed)
}

/// An error with everything that led to it, on one line.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
