//! Reads the dead letters off the disk, each once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use gridwire_outside::Disk;

use crate::setup::{ACCOUNT, container};
use crate::world::World;

/// Where the broker puts them.
pub(crate) const LETTERS_DIR: &str = "/data/deadletter";

#[derive(Debug, Default)]
pub(crate) struct Letters {
    read: BTreeSet<PathBuf>,
}

impl Letters {
    /// Shows the checker what is new.
    pub(crate) fn look(&mut self, world: &World) {
        for subscription in &world.plan.subscriptions {
            let account = Path::new(LETTERS_DIR).join(ACCOUNT);
            self.walk(world, &account.join(container(&subscription.name)), &subscription.name);
        }
    }

    fn walk(&mut self, world: &World, dir: &Path, subscription: &str) {
        // Not there is empty.
        for name in world.disk.list(dir).unwrap_or_default() {
            let path = dir.join(name);
            if self.read.contains(&path) {
                continue;
            }
            match world.disk.contents(&path) {
                None => self.walk(world, &path, subscription),
                Some(content) => {
                    world.checker().dead_letter(subscription, &content, world.now());
                    self.read.insert(path);
                }
            }
        }
    }
}
