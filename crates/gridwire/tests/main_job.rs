//! The main job, end to end: events published over HTTP arrive at webhooks and receivers as documented.

mod support;

#[path = "main_job/credentials.rs"]
mod credentials;
#[path = "main_job/failures.rs"]
mod failures;
#[path = "main_job/filters.rs"]
mod filters;
#[path = "main_job/management.rs"]
mod management;
#[path = "main_job/pull.rs"]
mod pull;
#[path = "main_job/schemas.rs"]
mod schemas;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use support::{Delivery, Sink, wait_for};

/// A delivery comes within milliseconds; a busy test machine may take longer.
const SOON: Duration = Duration::from_secs(15);

/// The one delivery to a path, after it was seen that no second one comes at once.
fn only(sink: &Sink, path: &str) -> Delivery {
    let mut deliveries = sink.wait_at(path, 1, SOON);
    assert_eq!(deliveries.len(), 1, "one delivery to {path}");
    deliveries.remove(0)
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The dead letters below a container, once there are `count` files; each must be an array.
fn letters(container: &Path, count: usize) -> Vec<(PathBuf, Value)> {
    wait_for(&format!("{count} dead letters in {}", container.display()), SOON, || {
        let found: Vec<(PathBuf, Value)> = files(container)
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .filter_map(|path| {
                let letter = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
                Some((path, letter))
            })
            .collect();
        (found.len() >= count).then_some(found)
    })
}
