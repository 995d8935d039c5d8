//! The program as a child process with a data directory of its own.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::client::{Answer, Request, send_once};
use super::time::{now, pause, wait_for};

/// Starting is promised within two seconds; a test machine may be busy with something else.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Requests in flight have ten seconds to finish after a stop signal, the logs some more to close.
const STOP_LIMIT: Duration = Duration::from_secs(25);
/// Lines of the program's output that a failed test shows.
const LINES_SHOWN: usize = 40;

/// How a server is started otherwise than plainly.
#[derive(Clone, Debug, Default)]
pub(crate) struct Launch {
    /// Program and arguments in front of ours. It must end up as our program, so that the child's status is ours.
    pub(crate) before: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    /// Not in development mode.
    pub(crate) without_dev: bool,
    /// Where the data directory is for the server, and where it is for the test: differs in another mount
    /// namespace.
    pub(crate) data_dir: Option<(PathBuf, PathBuf)>,
}

pub(crate) struct Server {
    // The directory outlives the process: it is removed after `Drop::drop` has reaped the child.
    root: TempDir,
    child: Option<Child>,
    starts: u32,
    /// Taken anew at each start.
    pub(crate) launch: Launch,
    pub(crate) http: SocketAddr,
    pub(crate) https: SocketAddr,
    pub(crate) admin: SocketAddr,
    /// Of the management API.
    pub(crate) token: String,
    /// From the start of the process to its addresses being told.
    pub(crate) ready_after: Duration,
}

impl Server {
    /// A server on an empty data directory.
    pub(crate) fn start() -> Self {
        Self::launch(Launch::default())
    }

    /// The same, started in a special way.
    pub(crate) fn launch(launch: Launch) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self {
            root: tempfile::Builder::new()
                .prefix("gridwire-test-")
                .tempdir()
                .expect("a directory for the test"),
            child: None,
            starts: 0,
            launch,
            http: nowhere,
            https: nowhere,
            admin: nowhere,
            token: String::new(),
            ready_after: Duration::ZERO,
        };
        server.spawn();
        server
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        match &self.launch.data_dir {
            Some((_, seen_by_us)) => seen_by_us.clone(),
            None => self.root.path().join("data"),
        }
    }

    /// A directory beside the data directory, removed with the server.
    pub(crate) fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// All that the process has written since its latest start.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.output()).unwrap_or_default()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    fn output(&self) -> PathBuf {
        self.root.path().join(format!("output-{}", self.starts))
    }

    fn addresses_file(&self) -> PathBuf {
        self.data_dir().join("addresses.json")
    }

    fn spawn(&mut self) {
        let begun = now();
        self.begin();
        self.await_ready(begun);
    }

    /// Starts the process and does not wait for anything of it.
    pub(crate) fn begin(&mut self) {
        assert!(self.child.is_none(), "the server runs already");
        self.starts += 1;
        // A killed server leaves it behind, and it would be taken for the new one's.
        let _ = fs::remove_file(self.addresses_file());
        let output = File::create(self.output()).expect("a file for the program's output");
        let mut words = self.launch.before.clone();
        words.push(env!("CARGO_BIN_EXE_gridwire").into());
        let mut command = clean(Command::new(&words[0]));
        command.args(&words[1..]).arg("serve");
        if !self.launch.without_dev {
            command.arg("--dev");
        }
        command.arg("--data-dir");
        match &self.launch.data_dir {
            Some((seen_by_it, _)) => command.arg(seen_by_it),
            None => command.arg(self.data_dir()),
        };
        for listener in ["--http", "--https", "--admin"] {
            command.args([listener, "127.0.0.1:0"]);
        }
        command.envs(self.launch.environment.iter().map(|(name, value)| (name, value)));
        let child = command
            .current_dir(self.root.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the output"))
            .stderr(output)
            .spawn()
            .expect("the program starts");
        self.child = Some(child);
    }

    fn await_ready(&mut self, begun: Instant) {
        let addresses = wait_for("the addresses of the server", START_LIMIT, || {
            let child = self.child.as_mut().expect("it was just put there");
            if let Some(status) = child.try_wait().expect("the child can be asked") {
                panic!("the server ended at its start ({status}):\n{}", tail(&self.output()));
            }
            let text = fs::read(self.addresses_file()).ok()?;
            serde_json::from_slice::<serde_json::Value>(&text).ok()
        });
        self.ready_after = begun.elapsed();
        let address = |name: &str| -> SocketAddr {
            let text = addresses[name].as_str().unwrap_or_default();
            text.parse().unwrap_or_else(|_| panic!("`{name}` is no address in {addresses}"))
        };
        (self.http, self.https, self.admin) = (address("http"), address("https"), address("admin"));
        let token = fs::read_to_string(self.data_dir().join("management.token")).expect("a management token");
        token.trim().clone_into(&mut self.token);
    }

    /// Kills the process without a warning, and waits until it is gone.
    pub(crate) fn kill9(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        child.kill().expect("the child can be killed");
        let status = child.wait().expect("the child can be reaped");
        assert_eq!(status.signal(), Some(9), "the server ended by itself:\n{}", tail(&self.output()));
        status
    }

    /// Ends the process, if it has not ended by itself, and waits until it is gone.
    pub(crate) fn end(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the server runs");
        let _ = child.kill();
        child.wait().expect("the child can be reaped")
    }

    /// Asks the process to stop, and waits until it has; the answer also tells how long that took.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let begun = now();
        let child = self.child.as_ref().expect("the server runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("the child can be signalled");
        let status = wait_for("the end of the server after SIGTERM", STOP_LIMIT, || {
            self.child.as_mut().expect("it runs").try_wait().expect("the child can be asked")
        });
        self.child = None;
        (status, begun.elapsed())
    }

    /// Waits until the process has ended by itself. One that does not is killed, so that a load on it ends too.
    #[track_caller]
    pub(crate) fn wait_end(&mut self, limit: Duration) -> ExitStatus {
        let begun = now();
        let mut child = self.child.take().expect("the server runs");
        while begun.elapsed() < limit {
            if let Some(status) = child.try_wait().expect("the child can be asked") {
                return status;
            }
            pause(Duration::from_millis(5));
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("the server still ran after {limit:?}");
    }

    /// Starts the process again on the same data directory.
    pub(crate) fn restart(&mut self) {
        self.spawn();
    }

    /// Whether the process still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().ok().flatten().is_none())
    }

    /// One request to the http listener.
    pub(crate) fn send(&self, request: &Request) -> Answer {
        send_once(self.http, request)
            .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// The metrics page.
    pub(crate) fn metrics(&self) -> String {
        let answer = send_once(self.admin, &Request::get("/metrics")).expect("the admin listener answers");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.text()
    }

    pub(crate) fn output_since(&self, begun: Instant) -> String {
        format!("{:?} after: {}", begun.elapsed(), tail(&self.output()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            show(&format!("the server's last lines:\n{}", tail(&self.output())));
        }
    }
}

/// The program, not started yet, without the variables that are meant for the tests or the person who runs them: it
/// reads its configuration from all that begin with `GRIDWIRE_` and refuses those it does not know.
pub(crate) fn program() -> Command {
    clean(Command::new(env!("CARGO_BIN_EXE_gridwire")))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GRIDWIRE_") {
            command.env_remove(name);
        }
    }
    command
}

/// For a failed test's reader.
#[expect(clippy::print_stderr, reason = "a failed test is read on the terminal")]
pub(crate) fn show(text: &str) {
    eprintln!("{text}");
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n")
}
