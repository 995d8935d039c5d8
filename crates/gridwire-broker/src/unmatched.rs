//! How many events of each topic nobody was to get.
//!
//! They are in no log, so no other place could tell after a restart. A file has one number of eight bytes, little
//! endian, for each topic, at eight times the topic's number. It is written before a publish is answered and left to
//! the page cache: a kill takes nothing back, a power cut may take the newest. With the events in the log, which
//! offsets count, that is all that a topic ever took: accepted = stored + unmatched.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use gridwire_core::ids::TopicNumber;
use gridwire_outside::disk::read_exact_at;
use gridwire_outside::{Disk, DiskFile, OpenMode};

/// The file, in the data directory.
const FILE: &str = "unmatched";
/// Bytes of one topic's number.
const WIDTH: u64 = 8;

/// The numbers of all topics.
#[derive(Debug)]
pub(crate) struct UnmatchedFile(Arc<dyn DiskFile>);

impl UnmatchedFile {
    pub(crate) fn open(disk: &dyn Disk, data_dir: &Path) -> io::Result<Self> {
        disk.create_dir_all(data_dir)?;
        Ok(Self(disk.open(&data_dir.join(FILE), OpenMode::Create)?))
    }

    /// What is known of a topic. One whose number cannot be read counts from zero, with a warning: no publish is
    /// refused for it.
    pub(crate) fn of(&self, topic: TopicNumber) -> Unmatched {
        let at = u64::from(topic.0) * WIDTH;
        let mut bytes = 0u64.to_le_bytes();
        let count = match read_exact_at(&*self.0, &mut bytes, at) {
            Ok(()) => u64::from_le_bytes(bytes),
            // Nothing was ever written there.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
            Err(error) => {
                tracing::warn!(%error, %topic, "failed to read how many events of a topic nobody matched");
                0
            }
        };
        Unmatched { count: Mutex::new(count), kept: Some((Arc::clone(&self.0), at)) }
    }
}

/// The number of one topic.
#[derive(Default)]
pub(crate) struct Unmatched {
    count: Mutex<u64>,
    /// Where it is written; nowhere for a topic that is gone.
    kept: Option<(Arc<dyn DiskFile>, u64)>,
}

impl Unmatched {
    pub(crate) fn get(&self) -> u64 {
        *self.count.lock().expect("no panic while the number is held")
    }

    /// Counts `events` more. On return a kill does not take them back, unless the disk fails or is full: that is
    /// told, and the next number that can be written makes up for it.
    pub(crate) fn add(&self, events: u64) {
        if events == 0 {
            return;
        }
        let mut count = self.count.lock().expect("no panic while the number is held");
        *count += events;
        // Under the lock, so that no smaller number comes after it. It is a copy to the page cache.
        if let Some((file, at)) = &self.kept
            && let Err(error) = file.write_at(&count.to_le_bytes(), *at)
        {
            tracing::warn!(%error, "failed to write how many events of a topic nobody matched");
        }
    }
}

impl fmt::Debug for Unmatched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unmatched({})", self.get())
    }
}

#[cfg(test)]
mod tests {
    use gridwire_outside::MemoryDisk;

    use super::*;

    #[test]
    fn each_topic_goes_on_counting_where_it_was() {
        let disk = MemoryDisk::new();
        for round in 0..3 {
            let file = UnmatchedFile::open(&disk, Path::new("/data")).unwrap();
            for topic in [0, 1, 70_000] {
                let number = file.of(TopicNumber(topic));
                assert_eq!(number.get(), round * (u64::from(topic) + 2));
                number.add(0);
                number.add(u64::from(topic) + 1);
                number.add(1);
            }
            assert_eq!(file.of(TopicNumber(2)).get(), 0, "between two that were written");
            assert_eq!(file.of(TopicNumber(u32::MAX)).get(), 0, "behind the end");
        }
        let nowhere = Unmatched::default();
        nowhere.add(3);
        assert_eq!(nowhere.get(), 3);
    }
}
