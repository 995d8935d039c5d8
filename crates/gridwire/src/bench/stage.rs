//! The server under test: spawned for the run, or found where it is.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::args::{LoadArgs, Protocol, ServerArgs};
use super::connection::{Client, Target};
use super::identity::Authority;
use super::proc::{Process, Usage};
use super::setup::Management;
use super::stopwatch::Moment;

/// How long a spawned server may take until it serves, and until it has stopped.
const START_TIMEOUT: Duration = Duration::from_secs(30);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks at whether it serves.
const LOOK: Duration = Duration::from_millis(2);
/// Bytes shown of the log of a server that did not start.
const LOG_TAIL: usize = 2_000;
/// In a spawned server's directory: the certificate authority that it trusts, if it is to trust one.
const TRUSTED: &str = "trusted.pem";
/// What `statfs` says of a file system in memory.
const TMPFS_MAGIC: u32 = 0x0102_1994;

/// A server, ready to be set up and measured.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) management: Management,
    pub(crate) target: Target,
    /// Id of this run, short and not used before.
    pub(crate) run: String,
    /// Where the server keeps its data, if that is known.
    pub(crate) data_dir: Option<PathBuf>,
    /// From its start until it was ready, of a spawned server.
    pub(crate) start_time: Option<Duration>,
    metering: Metering,
    spawned: Option<Spawned>,
}

/// Where the server's use of the machine is read.
#[derive(Debug)]
enum Metering {
    Process(u32),
    Metrics(Target),
    Nowhere,
}

#[derive(Debug)]
struct Spawned {
    program: PathBuf,
    process: Process,
    dir: TempDir,
}

/// A directory of our own, removed with all that is in it.
#[derive(Debug)]
struct TempDir(PathBuf);

impl TempDir {
    fn create(parent: &Path, name: &str) -> io::Result<Self> {
        let path = std::path::absolute(parent)?.join(name);
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // What is left lies in a temporary directory, under a name that says what it is.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a server says about itself in its data directory.
#[derive(Debug, Default, PartialEq, Eq)]
struct Addresses {
    http: Option<String>,
    https: Option<String>,
    admin: Option<String>,
    pid: Option<u32>,
}

impl Addresses {
    /// Reads `addresses.json`: for each listener its URL or `host:port`, alone or first of a list.
    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let url = |name: &str, scheme: &str| {
            let found = &value[name];
            let text = found.as_str().or_else(|| found[0].as_str())?;
            let whole = text.contains("://");
            Some(if whole { text.to_owned() } else { format!("{scheme}://{text}") })
        };
        Some(Self {
            http: url("http", "http"),
            https: url("https", "https"),
            admin: url("admin", "http"),
            pid: value["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()),
        })
    }

    fn read(dir: &Path) -> Option<Self> {
        Self::parse(&fs::read_to_string(dir.join("addresses.json")).ok()?)
    }
}

impl Stage {
    /// Finds or starts the server that the arguments name.
    pub(crate) async fn open(server: &ServerArgs, load: &LoadArgs) -> anyhow::Result<Self> {
        Self::open_trusting(server, load, None).await
    }

    /// The same. If there is an `authority`, the server trusts it as to its endpoints; only one that is spawned
    /// can be told so.
    pub(crate) async fn open_trusting(
        server: &ServerArgs,
        load: &LoadArgs,
        authority: Option<&Authority>,
    ) -> anyhow::Result<Self> {
        let run = format!("{:x}-{:x}", std::process::id(), Moment::now().as_nanos() / 1_000_000);
        let stage = match (&server.server, &server.data_dir) {
            (None, None) => Self::spawn(server, load, run, authority).await,
            _ if server.spawn => Self::spawn(server, load, run, authority).await,
            _ if authority.is_some() => {
                Err(anyhow::anyhow!("only a spawned server can be told to trust the endpoints' authority"))
            }
            (Some(url), _) => Self::at_url(url, server, load, run).await,
            (None, Some(dir)) => Self::in_dir(dir, None, server, load, run).await,
        };
        stage.context("no server to measure")
    }

    async fn at_url(url: &str, server: &ServerArgs, load: &LoadArgs, run: String) -> anyhow::Result<Self> {
        let ca = server.ca.as_ref().map(fs::read).transpose().context("failed to read `--ca`")?;
        let target = Target::resolve(url, load.protocol, ca.as_deref()).await?;
        let token =
            server.token.clone().context("a server given by `--server` needs its management token")?;
        let metering = match (server.server_pid, &server.admin) {
            (Some(pid), _) => Metering::Process(pid),
            (None, Some(admin)) => Metering::Metrics(Target::resolve(admin, Protocol::Http1, None).await?),
            (None, None) => Metering::Nowhere,
        };
        Ok(Self {
            management: Management::new(target.clone(), token),
            target,
            run,
            data_dir: None,
            start_time: None,
            metering,
            spawned: None,
        })
    }

    /// The server that runs on the data directory `dir`; `pid` when it is known.
    async fn in_dir(
        dir: &Path,
        pid: Option<u32>,
        server: &ServerArgs,
        load: &LoadArgs,
        run: String,
    ) -> anyhow::Result<Self> {
        let addresses = Addresses::read(dir)
            .with_context(|| format!("no server runs on `{}`: no `addresses.json`", dir.display()))?;
        let url = if load.https { addresses.https } else { addresses.http };
        let url = url.context("the server does not listen for this protocol")?;
        let token = match &server.token {
            Some(token) => token.clone(),
            None => fs::read_to_string(dir.join("management.token"))
                .context("failed to read the management token")?
                .trim()
                .to_owned(),
        };
        let mut server = server.clone();
        server.token = Some(token);
        server.server_pid = server.server_pid.or(pid).or(addresses.pid);
        server.admin = server.admin.or(addresses.admin);
        if load.https && server.ca.is_none() {
            server.ca =
                ["ca.pem", "tls/ca.pem"].map(|name| dir.join(name)).into_iter().find(|ca| ca.exists());
        }
        let mut stage = Self::at_url(&url, &server, load, run).await?;
        stage.data_dir = Some(dir.to_owned());
        Ok(stage)
    }

    async fn spawn(
        server: &ServerArgs,
        load: &LoadArgs,
        run: String,
        authority: Option<&Authority>,
    ) -> anyhow::Result<Self> {
        let parent = server.temp_dir.clone().unwrap_or_else(std::env::temp_dir);
        let dir = TempDir::create(&parent, &format!("gridwire-bench-{run}"))
            .with_context(|| format!("failed to make a directory in `{}`", parent.display()))?;
        if let Some(authority) = authority {
            fs::write(dir.0.join(TRUSTED), authority.pem()).context("failed to write what is trusted")?;
        }
        let data_dir = dir.0.join("data");
        let program = match &server.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("this program does not know its own path")?,
        };
        let (process, start_time) = launch(&program, &dir.0, "127.0.0.1:0").await?;
        let spawned = Spawned { program, process, dir };
        let pid = Some(spawned.process.id());
        // Where a user's own server is, and how it is talked to, does not concern this one.
        let own = ServerArgs::default();
        let mut stage = Self::in_dir(&data_dir, pid, &own, load, run).await?;
        stage.spawned = Some(spawned);
        stage.start_time = Some(start_time);
        Ok(stage)
    }

    /// Kills the spawned server in the middle of whatever it does, starts it again on the same directory and
    /// the same http port, and returns how long that took until it served.
    ///
    /// # Errors
    ///
    /// When the server was not spawned, and when it does not start again.
    pub(crate) async fn crash_and_restart(&mut self) -> anyhow::Result<Duration> {
        let Spawned { program, process, dir } =
            self.spawned.take().context("only a spawned server can be killed")?;
        let data_dir = dir.0.join("data");
        let http = Addresses::read(&data_dir).and_then(|read| read.http);
        let http = http.context("the server does not say where it listens")?;
        process.kill();
        // What a killed server leaves behind must not be taken for the word of the next.
        fs::remove_file(data_dir.join("addresses.json")).context("failed to remove the old addresses")?;
        let (process, time) = launch(&program, &dir.0, http.trim_start_matches("http://")).await?;
        self.metering = Metering::Process(process.id());
        self.spawned = Some(Spawned { program, process, dir });
        Ok(time)
    }

    /// The process id of the server, if it runs on this machine.
    pub(crate) fn pid(&self) -> Option<u32> {
        match self.metering {
            Metering::Process(pid) => Some(pid),
            Metering::Metrics(_) | Metering::Nowhere => None,
        }
    }

    /// What the server has used so far, if that can be known.
    pub(crate) async fn usage(&self) -> Option<Usage> {
        match &self.metering {
            Metering::Process(pid) => Usage::of(*pid),
            Metering::Metrics(admin) => {
                let route = admin.route(Method::GET, "/metrics").ok()?;
                let page = Client::single(admin).send(route.request(Bytes::new())).await.ok()?;
                Usage::from_metrics(std::str::from_utf8(&page).ok()?)
            }
            Metering::Nowhere => None,
        }
    }

    /// Whether flushing means anything where the server keeps its data.
    pub(crate) fn caution(&self) -> Option<String> {
        let dir = self.data_dir.as_ref()?;
        let kind = rustix::fs::statfs(dir).ok()?.f_type;
        (u32::try_from(kind).ok()? == TMPFS_MAGIC).then(|| {
            format!("`{}` is in memory: nothing was flushed; choose a disk with `--temp-dir`", dir.display())
        })
    }

    /// Removes what was made and stops what was started. Returns what did not go as it should.
    pub(crate) async fn close(mut self) -> Vec<String> {
        let mut complaints = self.management.remove_all().await;
        if let Some(Spawned { process, dir, .. }) = self.spawned {
            match process.stop(STOP_TIMEOUT).await {
                Some(status) if status.success() => {}
                Some(status) => complaints.push(format!("the server ended with {status}")),
                None => complaints.push("the server did not stop in time and was killed".to_owned()),
            }
            drop(dir);
        }
        complaints
    }
}

/// Starts a server that keeps its data and its log below `dir`, and waits until it is ready.
async fn launch(program: &Path, dir: &Path, http: &str) -> anyhow::Result<(Process, Duration)> {
    let data_dir = dir.join("data");
    let log_path = dir.join("server.log");
    let log = fs::OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.context("failed to make the server's log")?;
    let started = Moment::now();
    let mut command = Command::new(program);
    // Its configuration is what stands here, whatever the user's own servers are told.
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"GRIDWIRE_") {
            command.env_remove(name);
        }
    }
    let trusted = dir.join(TRUSTED);
    if trusted.exists() {
        // In place of this machine's authorities, which no endpoint of ours has anything from.
        command.env("SSL_CERT_FILE", trusted);
    }
    let child = command
        .args(["serve", "--dev", "--http", http, "--https", "127.0.0.1:0"])
        .args(["--admin", "127.0.0.1:0", "--data-dir"])
        .arg(&data_dir)
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("failed to share the server's log")?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("failed to start the server `{}`", program.display()))?;
    let mut process = Process::new(child);
    match await_start(&mut process, &data_dir, started).await {
        Ok(time) => Ok((process, time)),
        Err(error) => {
            let log = fs::read(&log_path).unwrap_or_default();
            let tail = &log[log.len().saturating_sub(LOG_TAIL)..];
            anyhow::bail!("{error}; its last words:\n{}", String::from_utf8_lossy(tail).trim());
        }
    }
}

/// Waits until the server has written where it listens, which it does when it is ready.
async fn await_start(process: &mut Process, data_dir: &Path, started: Moment) -> anyhow::Result<Duration> {
    while started.elapsed() < START_TIMEOUT {
        if let Some(status) = process.ended() {
            anyhow::bail!("the server ended with {status} instead of starting");
        }
        if Addresses::read(data_dir).is_some() {
            return Ok(started.elapsed());
        }
        tokio::time::sleep(LOOK).await;
    }
    anyhow::bail!("the server did not start within {} s", START_TIMEOUT.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_urls_or_sockets() {
        let text =
            r#"{"http":"127.0.0.1:81","https":["https://h:2","x"],"admin":"http://127.0.0.1:3","pid":7}"#;
        let read = Addresses::parse(text).unwrap();
        assert_eq!(read.http.as_deref(), Some("http://127.0.0.1:81"));
        assert_eq!(read.https.as_deref(), Some("https://h:2"));
        assert_eq!((read.admin.as_deref(), read.pid), (Some("http://127.0.0.1:3"), Some(7)));
        assert_eq!(Addresses::parse("{}"), Some(Addresses::default()));
        assert_eq!(Addresses::parse("half a fi"), None);
    }

    #[test]
    fn a_temporary_directory_goes_with_its_owner() {
        let parent = tempfile::tempdir().unwrap();
        let dir = TempDir::create(parent.path(), "run").unwrap();
        let path = dir.0.clone();
        fs::write(path.join("file"), "x").unwrap();
        assert!(TempDir::create(parent.path(), "run").is_err());
        drop(dir);
        assert!(!path.exists());
    }
}
