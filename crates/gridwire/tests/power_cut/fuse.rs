//! The disk as a file, so that a loop device can stand on it: a FUSE file system with one file.
//!
//! Speaks the kernel's protocol itself. The dozen requests that one file needs are two screens of code, and a
//! library for all of FUSE would bring two dozen crates along. Requests are answered one after the other, so a flush
//! never overlaps a write, and every write that was answered before it is in it.
//!
//! The file is opened for direct I/O: the kernel keeps no copy of its bytes, and what the loop device was told is
//! written has been written here.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::platter::Platter;

const ROOT: u64 = 1;
const FILE: u64 = 2;
/// What the file is called; a new name for each time the power came, see [`Power`].
const NAME: &str = "disk-";

/// The most that one request carries; the kernel splits longer ones.
const WRITE_MAX: u32 = 1 << 20;
const PAGES_MAX: u16 = 256;
const HEADER: usize = 40;

const INIT_BIG_WRITES: u32 = 1 << 5;
const INIT_MAX_PAGES: u32 = 1 << 22;
const OPEN_DIRECT_IO: u32 = 1;

const ENOENT: i32 = 2;
const EIO: i32 = 5;
const ENOSYS: i32 = 38;

/// What the file system serves.
pub(crate) struct Power {
    pub(crate) platter: Platter,
    /// How often the power came. A handle from before the last cut reads and writes nothing any more: the loop
    /// device that held it may still have something to say while the next one is at work.
    pub(crate) times: u64,
}

/// Unmounted when dropped.
pub(crate) struct Fuse {
    place: PathBuf,
    pub(crate) power: Arc<Mutex<Power>>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts it on a directory.
    pub(crate) fn mount(place: &Path, name: &str, platter: Platter) -> std::io::Result<Self> {
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        let options = std::ffi::CString::new(options).expect("no NUL in it");
        mount(name, place, "fuse", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?;
        let power = Arc::new(Mutex::new(Power { platter, times: 1 }));
        let served = Arc::clone(&power);
        let server = std::thread::spawn(move || serve(&device, &served));
        Ok(Self { place: place.to_owned(), power, server: Some(server) })
    }

    /// The file, as it is called since the power came last.
    pub(crate) fn file(&self) -> PathBuf {
        self.place.join(format!("{NAME}{}", self.power().times))
    }

    pub(crate) fn power(&self) -> std::sync::MutexGuard<'_, Power> {
        self.power.lock().expect("no panic while the disk is held")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // The server ends when the last user has gone. A loop device lets go a little after its file system.
        let gone = (0..100).any(|_| {
            std::thread::park_timeout(std::time::Duration::from_millis(10));
            unmount(&self.place, UnmountFlags::empty()).is_ok()
        });
        if !gone {
            let _ = unmount(&self.place, UnmountFlags::DETACH);
        } else if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// A request's numbers, in the machine's own byte order.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    fn size(&self, at: usize) -> usize {
        usize::try_from(self.u64(at)).unwrap_or(usize::MAX)
    }
}

/// An answer: bytes, or an error.
type Answer = Result<Vec<u8>, i32>;

fn words32(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn words64(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn serve(mut device: &File, power: &Mutex<Power>) {
    let mut buffer = vec![0; WRITE_MAX as usize + 4096];
    loop {
        let length = match device.read(&mut buffer) {
            Ok(length) => length,
            // A request was taken back, or a signal came. Anything else is the end of the mount.
            Err(error) if matches!(error.raw_os_error(), Some(ENOENT | 4 | 11)) => continue,
            Err(_) => return,
        };
        let (head, body) = buffer[..length].split_at(HEADER);
        let head = Fields(head);
        let (operation, unique, node) = (head.u32(4), head.u64(8), head.u64(16));
        let Some(answer) = handle(operation, node, body, power) else { continue };
        let (error, bytes) = match answer {
            Ok(bytes) => (0, bytes),
            Err(error) => (error, Vec::new()),
        };
        let total = u32::try_from(16 + bytes.len()).expect("answers are small");
        let mut answer = total.to_ne_bytes().to_vec();
        answer.extend((-error).to_ne_bytes());
        answer.extend(unique.to_ne_bytes());
        answer.extend(bytes);
        // One that was taken back needs no answer.
        let _ = device.write(&answer);
    }
}

/// `None` for what wants no answer.
fn handle(operation: u32, node: u64, body: &[u8], power: &Mutex<Power>) -> Option<Answer> {
    let fields = Fields(body);
    let mut power = power.lock().expect("no panic while the disk is held");
    let times = power.times;
    let alive = |handle: u64| if handle == times { Ok(()) } else { Err(EIO) };
    Some(match operation {
        // FORGET, INTERRUPT, BATCH_FORGET
        2 | 36 | 42 => return None,
        // LOOKUP
        1 => {
            let name = body.strip_suffix(b"\0").unwrap_or(body);
            if node == ROOT && name == format!("{NAME}{times}").as_bytes() {
                let mut entry = words64(&[FILE, 0, 0, 0, 0]);
                entry.extend(attributes(FILE, power.platter.size()));
                Ok(entry)
            } else {
                Err(ENOENT)
            }
        }
        // GETATTR, SETATTR
        3 | 4 => {
            let mut answer = words64(&[0, 0]);
            answer.extend(attributes(node, power.platter.size()));
            Ok(answer)
        }
        // OPEN
        14 => {
            let mut answer = words64(&[times]);
            answer.extend(words32(&[OPEN_DIRECT_IO, 0]));
            Ok(answer)
        }
        // READ
        15 => alive(fields.u64(0))
            .and_then(|()| power.platter.read(fields.size(8), fields.u32(16) as usize).ok_or(EIO)),
        // WRITE
        16 => alive(fields.u64(0)).and_then(|()| {
            let bytes = &body[HEADER..HEADER + fields.u32(16) as usize];
            power.platter.write(fields.size(8), bytes).ok_or(EIO)?;
            Ok(words32(&[fields.u32(16), 0]))
        }),
        // STATFS
        17 => Ok(vec![0; 80]),
        // RELEASE, RELEASEDIR, DESTROY
        18 | 29 | 38 => Ok(Vec::new()),
        // FSYNC
        20 => alive(fields.u64(0)).and_then(|()| power.platter.flush().ok_or(EIO)).map(|()| Vec::new()),
        // INIT
        26 => {
            let mut answer = words32(&[7, 31, 0, INIT_BIG_WRITES | INIT_MAX_PAGES]);
            answer.extend([12_u16, 10].iter().flat_map(|word| word.to_ne_bytes()));
            answer.extend(words32(&[WRITE_MAX, 1]));
            answer.extend([PAGES_MAX, 0].iter().flat_map(|word| word.to_ne_bytes()));
            answer.extend(words32(&[0; 8]));
            Ok(answer)
        }
        _ => Err(ENOSYS),
    })
}

fn attributes(node: u64, size: usize) -> Vec<u8> {
    let size = if node == FILE { size as u64 } else { 0 };
    let mode = if node == FILE { 0o100_600 } else { 0o040_700 };
    let mut bytes = words64(&[node, size, size / 512, 0, 0, 0]);
    bytes.extend(words32(&[0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]));
    bytes
}
