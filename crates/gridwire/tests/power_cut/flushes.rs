//! When decisions were flushed last, by the kernel's word: a power cut may take back what was answered after that
//! flush had begun, and nothing else, however late the flush of every 100 ms was on a busy machine.
//!
//! The disk cannot tell: it knows that all it had was flushed, and not whether the page cache had more of this file.
//! So strace writes down every `fdatasync` of the server.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use gridwire_core::time::Timestamp;

use crate::storm::Judge;
use crate::support::outside::Injection;
use crate::support::time::since_epoch;
use crate::support::wait_for;

/// The files of the state log.
const STATE_LOG: &str = ".slg>";
/// The tracer ends a moment after the server.
const TRACER_ENDS_WITHIN: Duration = Duration::from_secs(10);
/// How far the two clocks may be apart that are compared.
const SLACK: Duration = Duration::from_millis(2);

/// Watches one server after another.
pub(crate) struct Flushes {
    /// `None` when nobody watches.
    trace: Option<PathBuf>,
    /// When the server of now began to serve: what it had found was durable then.
    served: Timestamp,
    /// The longest that a flush was ago when the power went.
    pub(crate) longest_ago: Duration,
}

impl Flushes {
    /// Watches, with a file in `dir`, unless the server already has other words in front of it.
    pub(crate) fn new(before: &[OsString], dir: &Path, judge: &Judge) -> Self {
        let watches = before.is_empty() && Injection::unavailable().is_none();
        let trace = watches.then(|| dir.join("flushes"));
        Self { trace, served: judge.now(), longest_ago: Duration::ZERO }
    }

    /// What to put in front of a server.
    pub(crate) fn before(&self) -> Vec<OsString> {
        let Some(trace) = &self.trace else { return Vec::new() };
        let words =
            ["strace", "-D", "-f", "--seccomp-bpf", "-ttt", "-T", "-y", "-e", "trace=fdatasync", "-o"];
        words.map(Into::into).into_iter().chain([trace.into()]).collect()
    }

    /// A server has started, on which there is no load yet.
    pub(crate) fn serves(&mut self, judge: &Judge) {
        self.served = judge.now();
    }

    /// For a server that is no longer there since the power went at `when`: when its last flush that succeeded had begun.
    pub(crate) fn last(&mut self, server_was: u32, when: Timestamp, judge: &Judge) -> Option<Timestamp> {
        let trace = self.trace.as_ref()?;
        let ended = format!("{server_was} ");
        let text = wait_for("the last line of the tracer", TRACER_ENDS_WITHIN, || {
            let text = fs::read_to_string(trace).ok()?;
            text.lines().any(|line| line.starts_with(&ended) && line.contains("+++")).then_some(text)
        });
        let ago =
            |begun: f64| Duration::from_secs_f64((since_epoch().as_secs_f64() - begun).max(0.0)) + SLACK;
        let begun = last_begun(&text).map(|begun| judge.before_now(ago(begun)));
        let last = begun.map_or(self.served, |begun| begun.max(self.served));
        let ago = Duration::from_millis(when.as_millis().saturating_sub(last.as_millis()));
        self.longest_ago = self.longest_ago.max(ago);
        Some(last)
    }
}

/// When the last flush of the state log that succeeded began, in seconds since 1970.
fn last_begun(trace: &str) -> Option<f64> {
    let mut begun_last = None;
    // By thread: a call that others came between is told in two lines, and the file only in the first.
    let mut is_state: Vec<(&str, bool)> = Vec::new();
    for line in trace.lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(time)) =
            (words.next(), words.next().and_then(|word| word.parse::<f64>().ok()))
        else {
            continue;
        };
        let begins = line.contains(" fdatasync(");
        if begins {
            is_state.retain(|(of, _)| *of != thread);
            is_state.push((thread, line.contains(STATE_LOG)));
        }
        let of_state = is_state.iter().any(|(of, state)| *of == thread && *state);
        let took =
            line.rsplit_once(" = 0 <").and_then(|(_, rest)| rest.strip_suffix('>')?.parse::<f64>().ok());
        if let Some(took) = took.filter(|_| of_state) {
            let begun = if begins { time } else { time - took };
            begun_last = Some(begun_last.map_or(begun, |last: f64| last.max(begun)));
        }
    }
    begun_last
}

mod tests {
    use super::*;

    #[test]
    fn the_last_flush_that_succeeded_is_found() {
        let check = |trace: &str, expected: Option<f64>| assert_eq!(last_begun(trace), expected, "{trace}");
        check("7 1.5 fdatasync(12</d/log/1.seg>) = 0 <0.25>", None);
        check("7 1.5 fdatasync(12</d/state/1.slg>) = 0 <0.25>", Some(1.5));
        check("7 1.5 fdatasync(12</d/state/1.slg>) = -1 EIO (Input/output error) <0.25>", None);
        check("7 1.5 fdatasync(12</d/state/1.slg> <unfinished ...>", None);
        check(
            "7 1.5 fdatasync(12</d/state/1.slg> <unfinished ...>\n\
             8 1.75 fdatasync(9</d/log/1.seg>) = 0 <0.25>\n\
             7 2.5 <... fdatasync resumed>)          = 0 <1.0>\n\
             7 3.5 +++ killed by SIGKILL +++",
            Some(1.5),
        );
    }
}
