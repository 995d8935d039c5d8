//! The conformance suites against the backends of this crate.

use std::path::Path;
use std::sync::Arc;

use gridwire_core::time::Timestamp;
use gridwire_outside::{Clock, Disk, ManualClock, MemoryDisk, SeededRng};
use gridwire_store::conformance::{OpenLog, OpenResources, log_suite, resource_suite};
use gridwire_store::embedded::{EmbeddedLog, EmbeddedOptions, RedbResources};
use gridwire_store::model::{ModelLog, ModelResources};

#[tokio::test]
async fn the_model_log_conforms() {
    let new_store = || -> OpenLog {
        let clock = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
        let store = ModelLog::new(clock);
        Box::new(move || Arc::new(store.reopen()))
    };
    log_suite(&new_store).await;
}

#[tokio::test]
async fn the_model_resources_conform() {
    let new_store = || -> OpenResources {
        let store = Arc::new(ModelResources::new());
        Box::new(move || Arc::<ModelResources>::clone(&store))
    };
    resource_suite(&new_store).await;
}

fn new_disk() -> Arc<MemoryDisk> {
    let disk = Arc::new(MemoryDisk::new());
    disk.create_dir_all(Path::new("/data")).expect("a new disk takes a directory");
    disk
}

#[tokio::test]
async fn the_redb_resources_conform() {
    for is_inline in [true, false] {
        let new_store = || -> OpenResources {
            let disk = new_disk();
            let path = Path::new("/data/meta.redb");
            Box::new(move || {
                let disk = Arc::<MemoryDisk>::clone(&disk);
                let opened = if is_inline {
                    RedbResources::open_inline(disk, path)
                } else {
                    RedbResources::open(disk, path)
                };
                opened.expect("the store opens")
            })
        };
        resource_suite(&new_store).await;
    }
}

#[tokio::test]
async fn the_embedded_log_conforms() {
    for threads in [false, true] {
        let new_store = || -> OpenLog {
            let disk = new_disk();
            let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(Timestamp::from_millis(1_000)));
            let options = EmbeddedOptions {
                segment_bytes: 2 << 20,
                state_file_bytes: 1 << 20,
                ballast_bytes: 0,
                threads,
                ..EmbeddedOptions::default()
            };
            Box::new(move || {
                let disk = Arc::<MemoryDisk>::clone(&disk);
                let rng = SeededRng::new(1);
                EmbeddedLog::open(disk, Arc::clone(&clock), &rng, Path::new("/data"), options.clone())
                    .expect("the store opens")
            })
        };
        log_suite(&new_store).await;
    }
}
