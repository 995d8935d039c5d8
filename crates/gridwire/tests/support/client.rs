//! A blocking HTTP/1.1 client that can also send what no proper client would.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::time::now;

/// Longer than the longest long poll that these tests use.
const ANSWER_LIMIT: Duration = Duration::from_secs(40);
/// A connection that was idle for longer may be about to be closed by the server.
const IDLE_MAX: Duration = Duration::from_secs(3);

/// A request; `host` and `content-length` are added unless they are there.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: impl Into<String>) -> Self {
        Self { method: method.to_owned(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    pub(crate) fn post(path: impl Into<String>) -> Self {
        Self::new("POST", path)
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.with("content-type", "application/json").body(body.to_string())
    }

    fn has(&self, name: &str) -> bool {
        self.headers.iter().any(|(found, _)| found.eq_ignore_ascii_case(name))
    }

    /// The request as it goes over the wire.
    pub(crate) fn wire(&self, host: SocketAddr) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        if !self.has("host") {
            head.extend(["host: ", &host.to_string(), "\r\n"]);
        }
        if !self.has("content-length") && !self.has("transfer-encoding") {
            head.extend(["content-length: ", &self.body.len().to_string(), "\r\n"]);
        }
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; null when it is none.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// `error.code` and `error.innererror.code`.
    pub(crate) fn error(&self) -> (String, String) {
        let body = self.json();
        let text =
            |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/error/code"), text("/error/innererror/code"))
    }
}

/// A connection that is kept between requests. A failed request is not repeated: whether it was taken is
/// then unknown, and the caller must know that.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    kept: Option<(BufReader<TcpStream>, Instant)>,
}

impl Client {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, kept: None }
    }

    pub(crate) fn send(&mut self, request: &Request) -> io::Result<Answer> {
        self.send_wire(&request.wire(self.address), &request.method)
    }

    /// The same for a request that was written down before ([`Request::wire`]), so that sending it often costs little.
    pub(crate) fn send_wire(&mut self, bytes: &[u8], method: &str) -> io::Result<Answer> {
        let mut stream = match self.kept.take() {
            Some((stream, used)) if used.elapsed() < IDLE_MAX => stream,
            _ => connect(self.address)?,
        };
        stream.get_mut().write_all(bytes)?;
        let (answer, reusable) = read_answer(&mut stream, method)?;
        if reusable {
            self.kept = Some((stream, now()));
        }
        Ok(answer)
    }
}

/// One request over a connection of its own.
pub(crate) fn send_once(address: SocketAddr, request: &Request) -> io::Result<Answer> {
    send_raw(address, &request.wire(address), &request.method, false)
}

/// Writes exactly these bytes and reads one answer; with `half` it shows that nothing more will come. A server
/// may refuse before it has read all, so failing to write the rest is no error.
pub(crate) fn send_raw(address: SocketAddr, bytes: &[u8], method: &str, half: bool) -> io::Result<Answer> {
    let mut stream = connect(address)?;
    let mut writer = stream.get_ref().try_clone()?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let written = writer.write_all(bytes);
            if half {
                let _ = writer.shutdown(Shutdown::Write);
            }
            written
        });
        read_answer(&mut stream, method).map(|(answer, _)| answer)
    })
}

fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER_LIMIT))?;
    stream.set_write_timeout(Some(ANSWER_LIMIT))?;
    Ok(BufReader::new(stream))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = Vec::new();
    stream.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// The answer, and whether the connection can be used again.
fn read_answer(stream: &mut impl BufRead, method: &str) -> io::Result<(Answer, bool)> {
    let status_line = line(stream)?;
    let status = status_line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| bad("the answer has no status"))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').ok_or_else(|| bad("a header of the answer has no colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut answer = Answer { status, headers, body: Vec::new() };
    let closes = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    if method == "HEAD" || status < 200 || status == 204 || status == 304 {
        return Ok((answer, !closes));
    }
    if answer.header("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(line(stream)?.trim(), 16).map_err(|_| bad("no chunk size"))?;
            let mut chunk = vec![0; size];
            stream.read_exact(&mut chunk)?;
            answer.body.extend_from_slice(&chunk);
            line(stream)?;
            if size == 0 {
                break;
            }
        }
        return Ok((answer, !closes));
    }
    match answer.header("content-length").map(str::parse::<usize>) {
        Some(Ok(length)) => {
            answer.body = vec![0; length];
            stream.read_exact(&mut answer.body)?;
            Ok((answer, !closes))
        }
        Some(Err(_)) => Err(bad("the answer's length is no number")),
        None => {
            stream.read_to_end(&mut answer.body)?;
            Ok((answer, false))
        }
    }
}

/// Reads answers until the server closes, or until none has begun for as long as `wait` says, which is told how
/// many there were. Gives them, and whether the server has closed.
pub(crate) fn read_answers(stream: &TcpStream, wait: impl Fn(usize) -> Duration) -> (Vec<Answer>, bool) {
    let mut reader = BufReader::new(stream);
    let mut answers = Vec::new();
    loop {
        let limit = wait(answers.len()).max(Duration::from_millis(1));
        if stream.set_read_timeout(Some(limit)).is_err() {
            return (answers, true);
        }
        match reader.fill_buf() {
            Ok([]) => return (answers, true),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return (answers, false);
            }
            Err(_) => return (answers, true), // Reset.
        }
        match read_answer(&mut reader, "POST") {
            Ok((answer, _)) => answers.push(answer),
            Err(_) => return (answers, true),
        }
    }
}
