//! What the bare HTTP library does with the same exchange: the yardstick of every figure.
//!
//! [`Bare`] is a server that reads each body and answers 200. As a child process it is the baseline of
//! `publish`; the child of [`post_as_child`] posts the bodies of `push` to the same webhook.

use std::convert::Infallible;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::args::{BaselineClientArgs, BaselineServerArgs, Protocol};
use super::body::Template;
use super::connection::{Client, Failure, Target};
use super::load::{Load, Pacing, Tally};
use super::proc::{Process, Usage};
use super::progress::Progress;

/// Accepts connections until `stop`, and has each answered by a service that `connected` makes for it.
pub(crate) async fn serve<C, S, F>(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    connected: C,
    stop: CancellationToken,
) where
    C: Fn() -> S + Send,
    S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    accept(listener, stop, move |stream| speak(stream, tls.clone(), connected())).await;
}

/// Accepts connections until `stop`, which ends them too, and has each met by `meet`.
pub(crate) async fn accept<M, F>(listener: TcpListener, stop: CancellationToken, meet: M)
where
    M: Fn(TcpStream) -> F + Send,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely; some of those in use will close.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let (met, stop) = (meet(stream), stop.clone());
        connections.spawn(async move {
            tokio::select! {
                () = met => {}
                () = stop.cancelled() => {}
            }
        });
    }
    connections.close();
    connections.wait().await;
}

/// Answers on one connection until it ends. How it ends is the client's business, which counts it.
pub(crate) async fn speak<S, F>(stream: TcpStream, tls: Option<TlsAcceptor>, service: S)
where
    S: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let service = service_fn(move |request| {
        let answer = service(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    match tls {
        None => drop(builder.serve_connection(TokioIo::new(stream), service).await),
        Some(tls) => {
            let Ok(stream) = tls.accept(stream).await else { return };
            drop(builder.serve_connection(TokioIo::new(stream), service).await);
        }
    }
}

/// How a bare server answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behaviour {
    pub(crate) status: u16,
    pub(crate) delay: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { status: 200, delay: Duration::ZERO }
    }
}

/// A server that reads each body and answers, and nothing else.
#[derive(Debug)]
pub(crate) struct Bare {
    url: String,
    ca: Option<String>,
    #[cfg(test)]
    requests: Arc<AtomicU64>,
    serving: TaskTracker,
    stop: DropGuard,
}

impl Bare {
    pub(crate) async fn start(tls: bool, behaviour: Behaviour) -> anyhow::Result<Self> {
        let status = StatusCode::from_u16(behaviour.status).context("no status code")?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.context("failed to listen")?;
        let address = listener.local_addr().context("a listener without an address")?;
        let (acceptor, ca) = if tls { Some(certificate()?).unzip() } else { (None, None) };
        let requests = Arc::<AtomicU64>::default();
        let counter = Arc::clone(&requests);
        let connected = move || {
            let counter = Arc::clone(&counter);
            move |request: Request<Incoming>| {
                let counter = Arc::clone(&counter);
                async move {
                    let read = request.into_body().collect().await.is_ok();
                    if !behaviour.delay.is_zero() {
                        tokio::time::sleep(behaviour.delay).await;
                    }
                    counter.fetch_add(1, Ordering::Relaxed);
                    let mut response = Response::new(Full::default());
                    *response.status_mut() = if read { status } else { StatusCode::BAD_REQUEST };
                    response
                }
            }
        };
        let stop = CancellationToken::new();
        let serving = TaskTracker::new();
        serving.spawn(serve(listener, acceptor, connected, stop.clone()));
        serving.close();
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            url: format!("{scheme}://{address}"),
            ca,
            #[cfg(test)]
            requests,
            serving,
            stop: stop.drop_guard(),
        })
    }

    #[cfg(test)]
    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    #[cfg(test)]
    pub(crate) fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref().map(str::as_bytes)
    }

    #[cfg(test)]
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Closes the listener and every connection.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.serving.wait().await;
    }
}

/// A certificate for the loopback address, made on the spot, and its PEM text for those who shall trust it.
fn certificate() -> anyhow::Result<(TlsAcceptor, String)> {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])
        .context("failed to make a certificate")?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((TlsAcceptor::from(Arc::new(config)), made.cert.pem()))
}

/// The child process behind [`BareProcess`]: prints where it listens, serves until its input ends.
pub(crate) async fn serve_as_child(args: &BaselineServerArgs) -> anyhow::Result<()> {
    let bare = Bare::start(args.tls, Behaviour::default()).await?;
    let line = json!({ "url": bare.url, "ca": bare.ca });
    writeln!(std::io::stdout(), "{line}").context("failed to print the address")?;
    // A parent that ends in whatever way closes the pipe, so that no child is left behind.
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.context("the reading thread ended")?.context("failed to read the input")?;
    bare.stop().await;
    Ok(())
}

/// A bare server in a process of its own.
#[derive(Debug)]
pub(crate) struct BareProcess {
    process: Process,
    pub(crate) target: Target,
}

impl BareProcess {
    pub(crate) async fn spawn(tls: bool, protocol: Protocol) -> anyhow::Result<Self> {
        let mut command = bench_command("baseline-server")?;
        if tls {
            command.arg("--tls");
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("failed to start the baseline")?;
        let output = child.stdout.take().context("the baseline has no output")?;
        let process = Process::new(child);
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            BufReader::new(output).read_line(&mut line).map(|_| line)
        });
        let line = read.await.context("the reading thread ended")?;
        let line = line.context("failed to read where the baseline listens")?;
        let said: Value = serde_json::from_str(&line).context("the baseline did not say where it listens")?;
        let url = said["url"].as_str().context("the baseline did not say where it listens")?;
        let target = Target::resolve(url, protocol, said["ca"].as_str().map(str::as_bytes)).await?;
        Ok(Self { process, target })
    }

    pub(crate) fn usage(&self) -> Option<Usage> {
        Usage::of(self.process.id())
    }
}

/// Posts for a while and prints what came of it: the child process behind [`post_from_child`].
pub(crate) async fn post_as_child(args: &BaselineClientArgs) -> anyhow::Result<()> {
    let uri: http::Uri = args.url.parse().context("a bad URL")?;
    let target = Target::resolve(&args.url, Protocol::Http1, None).await?;
    let template = Template::new(args.schema, args.batch, args.size);
    let route = target
        .route(Method::POST, uri.path())?
        .with("content-type", template.content_type)?
        .with("aeg-event-type", "Notification")?;
    let (progress, _shown) = Progress::start();
    let mut load = Load {
        template: Arc::new(template),
        routes: Arc::from([route]),
        pacing: Pacing::Closed,
        duration: args.warmup,
        requests_max: None,
        sequence: Arc::default(),
        progress,
    };
    let mut clients = Client::pool(&target, args.connections, 1);
    load.drive(&mut clients).await;
    writeln!(std::io::stdout(), "warm").context("failed to print")?;
    load.duration = args.duration;
    let before = Usage::of_self();
    let tally = load.drive(&mut clients).await;
    let cpu = before.zip(Usage::of_self()).map(|(before, after)| after.cpu.saturating_sub(before.cpu));
    let failures: serde_json::Map<_, _> =
        tally.failures.iter().map(|(failure, count)| (failure.to_string(), json!(count))).collect();
    let result = json!({
        "requests": tally.requests,
        "events": tally.events,
        "bytes": tally.bytes,
        "elapsed_seconds": tally.elapsed.as_secs_f64(),
        "cpu_seconds": cpu.map(|cpu| cpu.as_secs_f64()),
        "failures": failures,
        "sample": tally.sample,
    });
    writeln!(std::io::stdout(), "{result}").context("failed to print")
}

/// What a bare client came to.
#[derive(Debug)]
pub(crate) struct Posted {
    /// Without latencies: those are the webhook's to tell.
    pub(crate) tally: Tally,
    pub(crate) cpu: Option<Duration>,
}

/// Has a child process post bodies to `args.url`. `warm` is called when its warm-up is over.
pub(crate) async fn post_from_child(
    args: &BaselineClientArgs,
    warm: impl FnOnce() + Send + 'static,
) -> anyhow::Result<Posted> {
    let mut command = bench_command("baseline-client")?;
    let schema = clap::ValueEnum::to_possible_value(&args.schema).context("every schema has a name")?;
    command
        .args(["--url", &args.url, "--schema", schema.get_name()])
        .args(["--size", &args.size.to_string(), "--batch", &args.batch.to_string()])
        .args(["--connections", &args.connections.to_string()])
        .args(["--warmup", &format!("{}us", args.warmup.as_micros())])
        .args(["--duration", &format!("{}us", args.duration.as_micros())])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().context("failed to start the baseline")?;
    let output = child.stdout.take().context("the baseline has no output")?;
    let _process = Process::new(child);
    let read = tokio::task::spawn_blocking(move || {
        let mut output = BufReader::new(output);
        let mut line = String::new();
        output.read_line(&mut line)?;
        warm();
        line.clear();
        output.read_line(&mut line).map(|_| line)
    });
    let line = read.await.context("the reading thread ended")?.context("failed to read the baseline")?;
    let said: Value = serde_json::from_str(&line).context("the baseline ended without a result")?;
    posted(&said).context("the baseline's result is incomplete")
}

fn posted(said: &Value) -> Option<Posted> {
    let mut tally = Tally::new();
    tally.requests = said["requests"].as_u64()?;
    tally.events = said["events"].as_u64()?;
    tally.bytes = said["bytes"].as_u64()?;
    tally.elapsed = Duration::try_from_secs_f64(said["elapsed_seconds"].as_f64()?).ok()?;
    for (name, count) in said["failures"].as_object()? {
        let failure = match name.as_str() {
            "connect" => Failure::Connect,
            "broken" => Failure::Broken,
            "timeout" => Failure::Timeout,
            status => Failure::Status(status.parse().ok()?),
        };
        tally.failures.insert(failure, count.as_u64()?);
    }
    tally.sample = said["sample"].as_str().map(str::to_owned);
    let cpu = said["cpu_seconds"].as_f64().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Some(Posted { tally, cpu })
}

/// This program, about to run one of the hidden scenarios.
fn bench_command(scenario: &str) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("this program does not know its own path")?;
    let mut command = Command::new(program);
    command.args(["bench", scenario]);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_childs_result_is_read_whole_or_not_at_all() {
        let mut said = json!({
            "requests": 2, "events": 20, "bytes": 999, "elapsed_seconds": 0.5, "cpu_seconds": 0.25,
            "failures": { "503": 4, "broken": 1 }, "sample": "503: busy",
        });
        let read = posted(&said).unwrap();
        assert_eq!((read.tally.requests, read.tally.events, read.tally.bytes), (2, 20, 999));
        assert_eq!(read.tally.failures[&Failure::Status(503)], 4);
        assert_eq!(read.tally.failures[&Failure::Broken], 1);
        assert_eq!(
            (read.tally.elapsed, read.cpu),
            (Duration::from_millis(500), Some(Duration::from_millis(250)))
        );
        said["failures"]["other"] = json!(1);
        assert!(posted(&said).is_none());
        assert!(posted(&Value::Null).is_none());
    }
}
