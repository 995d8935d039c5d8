//! Reads the dead letters off the disk, each once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gridwire_outside::Disk;

use crate::process::DATA_DIR;
use crate::setup::{ACCOUNT, container};
use crate::world::World;

#[derive(Debug, Default)]
pub(crate) struct Letters {
    read: BTreeSet<PathBuf>,
}

impl Letters {
    /// Shows the checker what is new.
    pub(crate) fn look(&mut self, world: &World) {
        for subscription in &world.plan.subscriptions {
            let account = Path::new(DATA_DIR).join("deadletter").join(ACCOUNT);
            self.walk(world, &account.join(container(&subscription.name)), &subscription.name);
        }
    }

    fn walk(&mut self, world: &World, dir: &Path, subscription: &str) {
        // Not there is empty.
        for name in world.disk.list(dir).unwrap_or_default() {
            let path = dir.join(name);
            match world.disk.contents(&path) {
                None => self.walk(world, &path, subscription),
                Some(content) if self.read.insert(path) => {
                    world.checker().dead_letter(subscription, &content, world.now());
                }
                Some(_) => {}
            }
        }
    }
}
