//! The real outside: this machine's clocks, random numbers, files and sockets.
#![allow(clippy::disallowed_methods, reason = "this is the one place where the ambient ways are wrapped")]

use std::collections::BinaryHeap;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gridwire_core::routing::BoxFuture;
use gridwire_core::time::Timestamp;
use ring::rand::SecureRandom;
use rustix::time::{ClockId, clock_gettime};

use crate::{Clock, Disk, DiskFile, Listener, Net, OpenMode, Rng, Stream};

/// What drifted apart from the wall is worked off at one part in so many.
pub const FOLLOW_SHARE: u32 = 20;

/// The wall clock shows no less: when this was written. A machine that has no battery for its clock boots in 1970, and
/// until it has asked somebody for the time every signature that ever ended would open again.
const WALL_LEAST: Timestamp = Timestamp::from_millis(1_795_824_000_000);

/// Broker time from the wall clock at start, carried on by `CLOCK_BOOTTIME`.
///
/// `CLOCK_BOOTTIME` counts suspend and ignores steps of the wall clock. What drifts apart from the wall
/// afterwards is worked off at 1 part in [`FOLLOW_SHARE`] ([`SystemClock::follow_wall`]), so time neither jumps nor stops.
#[derive(Debug)]
pub struct SystemClock {
    started: Duration,
    /// Broker time at boot-clock zero, in milliseconds: `now = offset + boot`.
    offset_millis: AtomicU64,
    latest: AtomicU64,
}

fn boot_time() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn wall_millis() -> u64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

impl SystemClock {
    pub fn start() -> Self {
        let started = boot_time();
        let offset = wall_millis().saturating_sub(millis(started));
        Self { started, offset_millis: AtomicU64::new(offset), latest: AtomicU64::new(0) }
    }

    /// Compares with the wall and moves at most a twentieth of `since_last` towards it. Returns the
    /// difference found, in milliseconds (wall minus broker time). Called once a second or so.
    pub fn follow_wall(&self, since_last: Duration) -> i64 {
        let difference = wall_millis().cast_signed() - self.now().as_millis().cast_signed();
        let step = millis(since_last / FOLLOW_SHARE).cast_signed();
        let adjust = difference.clamp(-step, step);
        let offset = self.offset_millis.load(Ordering::Relaxed);
        self.offset_millis.store(offset.saturating_add_signed(adjust), Ordering::Relaxed);
        difference
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let now = self.offset_millis.load(Ordering::Relaxed) + millis(boot_time());
        // `fetch_max` keeps time from stepping back while the offset is worked off.
        Timestamp::from_millis(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }

    fn wall(&self) -> Timestamp {
        Timestamp::from_millis(wall_millis()).max(WALL_LEAST)
    }

    fn monotonic(&self) -> Duration {
        boot_time().saturating_sub(self.started)
    }

    fn raise_to(&self, floor: Timestamp) {
        let behind = floor.as_millis().saturating_sub(self.now().as_millis());
        self.offset_millis.fetch_add(behind, Ordering::Relaxed);
    }

    fn sleep_until(&self, due: Timestamp) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            loop {
                let wait = due.since(self.now());
                if wait.is_zero() {
                    return;
                }
                // In steps of an hour at most: the timer does not count suspend, broker time does.
                tokio::time::sleep(wait.min(Duration::from_secs(3600))).await;
            }
        })
    }

    fn sleep(&self, wait: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

/// The operating system's random numbers.
#[derive(Debug)]
pub struct SystemRng(ring::rand::SystemRandom);

impl SystemRng {
    pub fn new() -> Self {
        Self(ring::rand::SystemRandom::new())
    }
}

impl Default for SystemRng {
    fn default() -> Self {
        Self::new()
    }
}

impl Rng for SystemRng {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.fill(bytes).expect("the operating system has random numbers");
    }
}

/// The file systems, by their magic numbers (`statfs(2)`), that keep data in memory or on another machine.
const UNDEPENDABLE: [(u64, &str); 10] = [
    (0x0102_1994, "tmpfs"),
    (0x8584_58f6, "ramfs"),
    (0x6969, "nfs"),
    (0xff53_4d42, "cifs"),
    (0xfe53_4d42, "smb"),
    (0x517b, "smb"),
    (0x0102_1997, "9p"),
    (0x6573_5546, "fuse"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
];

/// This machine's file systems. Directories are made 0700 and files 0600.
#[derive(Debug, Default)]
pub struct SystemDisk;

#[derive(Debug)]
struct SystemFile(fs::File);

impl Disk for SystemDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match mode {
            OpenMode::Existing => {}
            OpenMode::Create => {
                options.create(true).truncate(false);
            }
            OpenMode::New => {
                options.create_new(true);
            }
        }
        Ok(Arc::new(SystemFile(options.open(path)?)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        fs::File::open(dir)?.sync_all()
    }

    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn list_some(
        &self,
        dir: &Path,
        max: usize,
        pick: &mut dyn FnMut(&str) -> bool,
    ) -> io::Result<Vec<String>> {
        let mut first = BinaryHeap::with_capacity(max.min(4096));
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !pick(&name) {
                continue;
            }
            if first.len() < max {
                first.push(name);
            } else if let Some(mut last) = first.peek_mut()
                && name < *last
            {
                *last = name;
            }
        }
        Ok(first.into_sorted_vec())
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn total_bytes(&self, dir: &Path) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(dir)?;
        Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
    }

    fn undependable(&self, dir: &Path) -> io::Result<Option<&'static str>> {
        let kind = rustix::fs::statfs(dir)?.f_type.cast_unsigned() & 0xffff_ffff;
        Ok(UNDEPENDABLE.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name))
    }
}

impl DiskFile for SystemFile {
    fn read_at(&self, buffer: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], at + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(bytes, at)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn allocate(&self, at: u64, len: u64) -> io::Result<()> {
        match rustix::fs::fallocate(&self.0, rustix::fs::FallocateFlags::KEEP_SIZE, at, len) {
            // Not every file system can; then the write itself will find out.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn try_lock(&self) -> io::Result<bool> {
        match self.0.try_lock() {
            Ok(()) => Ok(true),
            Err(fs::TryLockError::WouldBlock) => Ok(false),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }
}

/// This machine's TCP stack and resolver.
#[derive(Debug, Default)]
pub struct SystemNet;

#[derive(Debug)]
struct SystemListener(tokio::net::TcpListener);

impl Net for SystemNet {
    fn listen(&self, at: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = tokio::net::TcpListener::bind(at).await?;
            Ok(Box::new(SystemListener(listener)) as Box<dyn Listener>)
        })
    }

    fn connect(&self, to: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Stream>>> {
        Box::pin(async move {
            let stream = tokio::net::TcpStream::connect(to).await?;
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn resolve<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

impl Listener for SystemListener {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    fn accept(&self) -> BoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (stream, from) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            Ok((Box::new(stream) as Box<dyn Stream>, from))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_the_future_moves_broker_time_and_not_the_wall_clock() {
        let clock = SystemClock::start();
        let tomorrow = clock.wall() + Duration::from_secs(24 * 3600);
        clock.raise_to(tomorrow);
        assert!(tomorrow <= clock.now());
        assert!(clock.wall() < tomorrow);
    }
}
