//! Bending what the process stands on: failing system calls (strace), a small disk (tmpfs in a mount namespace of
//! its own), another wall clock (libfaketime), little memory (a control group).
//!
//! Each needs a tool or a right that not every machine has. Where it is missing the test says so and is skipped;
//! continuous integration, which installs the tools, fails instead.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::server::{Launch, show};
use super::time::pause;

/// Says why a test is left out. A machine can refuse a right that no installation gives, so that is a failure
/// only where `GRIDWIRE_LEAVE_NOTHING_OUT` is set.
#[track_caller]
pub(crate) fn skip(reason: &str) {
    assert!(std::env::var_os("GRIDWIRE_LEAVE_NOTHING_OUT").is_none(), "nothing is to be left out: {reason}");
    show(&format!("SKIPPED: {reason}"));
}

fn quiet(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim()))
}

/// One system call of the server that fails, once, at its n-th call on one file.
#[derive(Clone, Debug)]
pub(crate) struct Injection {
    pub(crate) call: &'static str,
    pub(crate) error: &'static str,
    pub(crate) nth: u64,
    pub(crate) file: PathBuf,
}

impl Injection {
    /// Why it can't be done here.
    pub(crate) fn unavailable() -> Option<String> {
        let mut probe = Command::new("strace");
        probe.args([
            "-D",
            "-f",
            "--seccomp-bpf",
            "-o",
            "/dev/null",
            "-e",
            "inject=fdatasync:error=EIO",
            "true",
        ]);
        quiet(&mut probe).err().map(|error| format!("strace with fault injection is needed ({error})"))
    }

    /// What to put in front of the server; the tracer writes to `trace`. It is a grandchild, so that the child's
    /// pid and exit status are the server's own.
    pub(crate) fn before(&self, trace: &Path) -> Vec<OsString> {
        let Self { call, error, nth, .. } = self;
        let flags = ["strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-y", "-o"];
        let mut before: Vec<OsString> = flags.map(Into::into).into();
        before.push(trace.into());
        before.extend(["-P".into(), self.file.clone().into_os_string()]);
        before.extend(["-e".into(), format!("trace={call}").into()]);
        before.extend(["-e".into(), format!("inject={call}:error={error}:when={nth}").into()]);
        before
    }

    /// When the call failed, in seconds since 1970, once it has.
    pub(crate) fn struck(trace: &Path) -> Option<f64> {
        let text = fs::read_to_string(trace).unwrap_or_default();
        let line = text.lines().find(|line| line.contains("(INJECTED)"))?;
        // Process, time, call.
        line.split_whitespace().nth(1)?.parse().ok()
    }
}

/// What to put in front of a server so that each flush of these files takes this much longer: a slow disk.
pub(crate) fn slow_flushes(files: &[PathBuf], longer: Duration) -> Vec<OsString> {
    let flags = ["strace", "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fdatasync"];
    let mut before: Vec<OsString> = flags.map(Into::into).into();
    before.extend(files.iter().flat_map(|file| ["-P".into(), file.clone().into_os_string()]));
    before.extend(["-e".into(), format!("inject=fdatasync:delay_exit={}", longer.as_micros()).into()]);
    before
}

/// A control group with little memory: whoever takes more is killed.
#[derive(Debug)]
pub(crate) struct SmallMemory(PathBuf);

impl SmallMemory {
    pub(crate) fn new(bytes: u64) -> Result<Self, String> {
        let name = format!("gridwire-test-{}", std::process::id());
        let mut reason = String::new();
        // The second version of control groups, then the first.
        for (root, limit) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let group = Path::new(root).join(&name);
            if let Err(error) = fs::create_dir(&group) {
                reason = error.to_string();
                continue;
            }
            let made = Self(group);
            match fs::write(made.0.join(limit), bytes.to_string()) {
                Ok(()) => return Ok(made),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(format!("a memory control group needs root ({reason})"))
    }

    /// What to put in front of a server.
    pub(crate) fn before(&self) -> Vec<OsString> {
        let script = r#"echo $$ > "$1/cgroup.procs" && shift && exec "$@""#;
        vec!["sh".into(), "-c".into(), script.into(), "sh".into(), self.0.clone().into_os_string()]
    }
}

impl Drop for SmallMemory {
    fn drop(&mut self) {
        // The last of its processes may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            pause(Duration::from_millis(20));
        }
    }
}

/// The most memory that a process has had, in bytes.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    memory(pid, "VmHWM:")
}

/// The memory that a process has, in bytes.
pub(crate) fn resident_memory(pid: u32) -> u64 {
    memory(pid, "VmRSS:")
}

fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel tells");
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number");
    kibibytes * 1024
}

/// A file system in memory, in a mount namespace that ends with this value.
#[derive(Debug)]
pub(crate) struct SmallDisk {
    holder: Child,
    mount_point: TempDir,
    with_user: bool,
}

impl SmallDisk {
    pub(crate) fn new(megabytes: u32) -> Result<Self, String> {
        let mount_point = tempfile::Builder::new()
            .prefix("gridwire-disk-")
            .tempdir()
            .map_err(|error| format!("no directory to mount on: {error}"))?;
        // Needs no rights where users may make namespaces of their own; otherwise those of an administrator.
        let mut reason = String::new();
        for (flags, with_user) in [("-rm", true), ("-m", false)] {
            let script = r#"mount -t tmpfs -o "size=$2m,mode=700" tmpfs "$1" && echo mounted && exec cat"#;
            let mut holder = Command::new("unshare")
                .args([flags, "sh", "-c", script, "sh"])
                .arg(mount_point.path())
                .arg(megabytes.to_string())
                // The end of the pipe, however the test ends, is the end of the holder.
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .map_err(|error| format!("unshare is needed ({error})"))?;
            let mut line = String::new();
            let output = holder.stdout.take().expect("it is piped");
            let _ = BufReader::new(output).read_line(&mut line);
            if line.trim() == "mounted" {
                return Ok(Self { holder, mount_point, with_user });
            }
            let _ = holder.kill();
            let _ = holder.wait();
            reason = format!("mounting a tmpfs needs user namespaces or root (unshare {flags} failed)");
        }
        Err(reason)
    }

    /// The server with its data directory there.
    pub(crate) fn launch(&self) -> Launch {
        let mut before: Vec<OsString> =
            vec!["nsenter".into(), "-t".into(), self.holder.id().to_string().into()];
        if self.with_user {
            before.extend(["-U".into(), "--preserve-credentials".into()]);
        }
        before.extend(["-m".into(), "--".into()]);
        let dir = (self.mount_point.path().join("data"), self.seen_by_us().join("data"));
        Launch { before, data_dir: Some(dir), ..Launch::default() }
    }

    /// Its root, from outside of the namespace.
    pub(crate) fn seen_by_us(&self) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(self.mount_point.path().strip_prefix("/").expect("temporary directories are absolute"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The wall clock of a server, which the test sets; the clocks that count from the boot are left alone.
#[derive(Debug)]
pub(crate) struct WallClock {
    library: PathBuf,
    offset: tempfile::NamedTempFile,
}

impl WallClock {
    pub(crate) fn new() -> Result<Self, String> {
        let library = ["x86_64-linux-gnu/", "aarch64-linux-gnu/", ""]
            .iter()
            .map(|dir| PathBuf::from(format!("/usr/lib/{dir}faketime/libfaketimeMT.so.1")))
            .find(|path| path.exists())
            .ok_or("libfaketime is needed (the package `faketime`)")?;
        let offset = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        let clock = Self { library, offset };
        clock.set(0);
        Ok(clock)
    }

    /// Sets it this many seconds off the machine's.
    pub(crate) fn set(&self, seconds: i64) {
        fs::write(self.offset.path(), format!("{seconds:+}\n")).expect("the offset can be written");
    }

    pub(crate) fn launch(&self) -> Launch {
        let environment = vec![
            ("LD_PRELOAD", self.library.clone().into_os_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.offset.path().into()),
            ("FAKETIME_NO_CACHE", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("FAKETIME_DONT_RESET", "1".into()),
        ];
        Launch { environment, ..Launch::default() }
    }
}
