//! What the disk can flush: the ceiling of batched publishing.
//!
//! A file is reserved and written once, so that flushing it afterwards moves data only and not the file
//! system's own records; then groups are written over and over, each flushed before the next, as a log does.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use gridwire_outside::system::SystemDisk;
use gridwire_outside::{Disk as _, DiskFile, OpenMode};

use super::args::DiskArgs;
use super::load::Tally;
use super::progress::Progress;
use super::report::{Report, Series, Slice};
use super::stopwatch::Moment;

/// Bounds of one group: at least what an event takes, at most what one write should hold in memory.
const GROUP_BYTES: std::ops::RangeInclusive<usize> = 512..=64 << 20;

/// A file to flush, removed at the end.
#[derive(Debug)]
pub(crate) struct FlushedFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    group: Vec<u8>,
    /// Groups in the file.
    groups: u64,
    next: u64,
    /// Bytes of one event, to count in events.
    event_bytes: u64,
}

impl FlushedFile {
    pub(crate) fn create(
        dir: &Path,
        group: usize,
        file_bytes: usize,
        event_bytes: usize,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(GROUP_BYTES.contains(&group), "a group has 512 B to 64 MiB");
        anyhow::ensure!(event_bytes > 0, "an event has at least one byte");
        let groups = (file_bytes / group).max(1) as u64;
        let path = dir.join(format!("gridwire-bench-{:x}.flush", Moment::now().as_nanos()));
        let fail = || format!("failed to prepare `{}`", path.display());
        let file = SystemDisk.open(&path, OpenMode::New).with_context(fail)?;
        // Not all the same byte: some disks do not store that.
        let pattern = (0_u64..).flat_map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        let group = pattern.take(group).collect();
        let mut made =
            Self { file, path: path.clone(), group, groups, next: 0, event_bytes: event_bytes as u64 };
        made.file.allocate(0, groups * made.group.len() as u64).with_context(fail)?;
        for _ in 0..groups {
            made.write().with_context(fail)?;
        }
        made.file.sync_data().with_context(fail)?;
        Ok(made)
    }

    fn write(&mut self) -> std::io::Result<()> {
        let at = self.next % self.groups * self.group.len() as u64;
        self.next += 1;
        self.file.write_at(&self.group, at)
    }

    /// Writes and flushes for `duration`. Blocks.
    fn flush_for(&mut self, duration: Duration, progress: &Progress) -> std::io::Result<Tally> {
        let mut tally = Tally::new();
        let start = Moment::now();
        let mut events = 0;
        while start.elapsed() < duration {
            let before = Moment::now();
            self.write()?;
            self.file.sync_data()?;
            // Counted over all, so that a group need not hold a whole number of events.
            let total = (tally.bytes + self.group.len() as u64) / self.event_bytes;
            tally.succeeded(total - events, self.group.len(), before.elapsed());
            progress.add(total - events);
            events = total;
        }
        tally.elapsed = start.elapsed();
        Ok(tally)
    }

    /// One slice of flushing, off the runtime's threads.
    pub(crate) async fn slice(
        self,
        duration: Duration,
        progress: Arc<Progress>,
    ) -> anyhow::Result<(Self, Slice)> {
        let mut file = self;
        let flushing = tokio::task::spawn_blocking(move || {
            let tally = file.flush_for(duration, &progress);
            (file, tally)
        });
        let (file, tally) = flushing.await.context("the flushing thread ended")?;
        let tally = tally.with_context(|| format!("failed to flush `{}`", file.path.display()))?;
        Ok((file, Slice { tally, cpu: None }))
    }
}

impl Drop for FlushedFile {
    fn drop(&mut self) {
        let _ = SystemDisk.remove(&self.path);
    }
}

/// The `disk` scenario.
pub(crate) async fn run(args: DiskArgs) -> anyhow::Result<Report> {
    let mut report = Report::new("disk");
    report.fact("group_bytes", args.group);
    report.fact("file_bytes", args.file);
    report.fact("event_bytes", args.size);
    let (progress, _shown) = Progress::start();
    progress.phase("preparing the file");
    let made =
        tokio::task::spawn_blocking(move || FlushedFile::create(&args.dir, args.group, args.file, args.size));
    let mut file = made.await.context("the preparing thread ended")??;
    let mut series = Series::new("group commit");
    progress.phase("flushing");
    for _ in 0..args.slices {
        let (back, slice) = file.slice(args.duration, Arc::clone(&progress)).await?;
        file = back;
        series.push(slice);
    }
    report.series.push(series);
    Ok(report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn flushing_is_counted_in_events_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = FlushedFile::create(dir.path(), 1000, 2500, 300).unwrap();
        assert_eq!(file.groups, 2);
        let (file, slice) = file.slice(Duration::from_millis(20), Progress::silent()).await.unwrap();
        assert!(slice.tally.requests > 0);
        assert_eq!(slice.tally.bytes, slice.tally.requests * 1000);
        assert_eq!(slice.tally.events, slice.tally.bytes / 300);
        assert_eq!(file.file.len().unwrap(), 2000);
        drop(file);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn senseless_groups_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (group, event) in [(0, 1), (1 << 30, 1), (1024, 0)] {
            assert!(FlushedFile::create(dir.path(), group, 4096, event).is_err());
        }
    }
}
