//! A machine whose power can be cut: ext4 on a loop device on the disk that forgets.
//!
//! Mounts need root and are seen by everybody, so each test runs once more as a process of its own, in namespaces of
//! its own for mounts and processes. Whatever happens to it, the kernel then removes the mounts, the loop devices and
//! the servers with the namespace; the guards here only do it sooner.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::fuse::Fuse;
use super::platter::{Loss, Moment, Platter, Survival};
use crate::support::load::Chance;
use crate::support::outside::skip;
use crate::support::server::show;
use crate::support::time::pause;
use crate::support::{now, wait_for};

/// Set for the process inside to the pid of the one outside, which names what it makes.
const INSIDE: &str = "GRIDWIRE_POWER_INSIDE";
/// Ballast, two logs and what a test writes, several times over.
const SIZE: usize = 384 << 20;
/// Under load the disk is asked for a flush several times in this.
const MOMENT_WITHIN: Duration = Duration::from_millis(300);
/// The loop device and the file system let go of each other when the last request is through.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(20);

/// Runs `test`, which is called so, in namespaces of its own; says that it is left out where that cannot be.
pub(crate) fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        return test();
    }
    if let Err(reason) = probe() {
        return skip(&reason);
    }
    let status = namespaces()
        .arg(std::env::current_exe().expect("the test has a path"))
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, std::process::id().to_string())
        .stdin(Stdio::null())
        .status()
        .expect("it was tried before");
    assert!(status.success(), "{name} failed; what it said is above");
}

/// What to put in front of a program. It dies with this thread, and everything in its namespace dies with it.
fn namespaces() -> Command {
    let mut command = Command::new("setpriv");
    command.args([
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    command.args(["--propagation", "private"]);
    command
}

/// Why it cannot be done here.
fn probe() -> Result<(), String> {
    for (device, what) in [("/dev/fuse", "FUSE"), ("/dev/loop-control", "loop devices")] {
        let opened = OpenOptions::new().read(true).write(true).open(device);
        opened.map_err(|error| format!("power cuts need {what} and root (`{device}`: {error})"))?;
    }
    for program in ["mkfs.ext4", "e2fsck"] {
        run(Command::new(program).arg("-V")).map_err(|why| format!("power cuts need {program} ({why})"))?;
    }
    run(namespaces().arg("true")).map_err(|why| format!("power cuts need root and namespaces ({why})"))?;
    // Some machines have the devices and forbid the mount.
    run(namespaces().args(["mount", "-t", "tmpfs", "none", "/mnt"]))
        .map_err(|why| format!("power cuts need the right to mount ({why})"))?;
    Ok(())
}

fn run(command: &mut Command) -> Result<String, String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said.into()) } else { Err(format!("{}: {}", output.status, said.trim())) }
}

/// The disk, and the file system on it while it is on.
pub(crate) struct Machine {
    mounted: Option<Mounted>,
    fuse: Fuse,
    // Unmounted before they are removed.
    places: TempDir,
}

impl Machine {
    /// With an empty file system, switched on.
    pub(crate) fn new() -> Self {
        let owner = std::env::var(INSIDE).expect("only inside");
        let name = format!("gridwire-power-{owner}-");
        let places = tempfile::Builder::new().prefix(&name).tempdir().expect("a directory for mounts");
        for name in ["disk", "root"] {
            std::fs::create_dir(places.path().join(name)).expect("a place for a mount");
        }
        let fuse = Fuse::mount(&places.path().join("disk"), &format!("{name}disk"), Platter::new(SIZE))
            .expect("the disk is mounted");
        // All of it now: nothing is left for the kernel to do lazily beside the tests.
        let mut format = Command::new("mkfs.ext4");
        format.args(["-q", "-F", "-J", "size=16", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]);
        run(format.arg(fuse.file())).expect("the disk is formatted");
        let mut machine = Self { mounted: None, fuse, places };
        machine.mount();
        machine
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.places.path().join("root")
    }

    fn mount(&mut self) {
        assert!(self.mounted.is_none(), "it is on");
        self.mounted = Some(Mounted::new(&self.fuse.file(), &self.root()));
    }

    /// The power goes, at its moment or a little later if that does not come: from then on the disk refuses
    /// everything. Whoever used it must end before [`Self::boot`].
    pub(crate) fn cut(&self, moment: Moment, survival: Survival, chance: Chance) -> Loss {
        self.fuse.power().platter.cut(moment, survival, chance);
        let begun = now();
        loop {
            if let Some(loss) = self.fuse.power().platter.struck() {
                return loss;
            }
            if MOMENT_WITHIN < begun.elapsed() {
                self.fuse.power().platter.cut(Moment::Now, survival, chance);
            } else {
                pause(Duration::from_millis(1));
            }
        }
    }

    /// The power is back: the same disk with what survived, and the file system's own recovery.
    pub(crate) fn boot(&mut self) {
        drop(self.mounted.take());
        {
            let mut power = self.fuse.power();
            assert!(power.platter.struck().is_some(), "the power was cut");
            power.platter.power_on();
            power.times += 1;
        }
        self.mount();
    }

    /// Switches it off properly and has the file system's own checker look at it.
    pub(crate) fn check_file_system(&mut self) {
        drop(self.mounted.take());
        let told = run(Command::new("e2fsck").args(["-f", "-n"]).arg(self.fuse.file()));
        told.unwrap_or_else(|why| panic!("the file system is damaged: {why}"));
    }

    /// From now on flushes do nothing, or something again.
    pub(crate) fn lie(&self, lies: bool) {
        self.fuse.power().platter.lies = lies;
    }

    pub(crate) fn flushes(&self) -> u64 {
        self.fuse.power().platter.flushes
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            show("the machine's disk is removed; its mounts go with this process");
        }
        self.mounted.take();
    }
}

/// The file system, on a loop device that goes with it.
struct Mounted {
    place: PathBuf,
}

impl Mounted {
    fn new(file: &Path, place: &Path) -> Self {
        let mut mount = Command::new("mount");
        // Said, though all are what ext4 does anyway: this is what the log counts on.
        mount.args(["-t", "ext4", "-o", "loop,barrier=1,data=ordered"]).arg(file).arg(place);
        run(&mut mount).unwrap_or_else(|why| panic!("the file system does not come up: {why}"));
        Self { place: place.to_owned() }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Never lazily: a file system that lives on would write to the disk of the next life.
        let unmount = || run(Command::new("umount").arg(&self.place)).ok();
        if std::thread::panicking() {
            unmount();
            return;
        }
        wait_for("the file system to be unmounted", UNMOUNT_LIMIT, unmount);
    }
}
