//! `gridwire doctor`: can a server run here, and is the running one well? Each finding says what to do.

use std::time::Duration;

use anyhow::bail;
use bytes::Bytes;
use clap::Args;
use gridwire_core::time::Timestamp;
use gridwire_outside::Disk;
use gridwire_outside::system::SystemDisk;
use http::{Method, Request};
use serde_json::json;

use super::apply::error_text;
use crate::ahead;
use crate::arm::{self, Management, ManagementError};
use crate::client::{Answer, Base, Client, ClientError, Trust};
use crate::data_dir::{Addresses, DataDir, check_token};
use crate::output::Output;
use crate::target::{TargetArgs, real_reach};

/// Less free space than this stops new events soon.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// A clock that is further off gives wrong times to live.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Args)]
pub(crate) struct DoctorArgs {}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Works, but somebody should look.
    Warning,
    Bad,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    verdict: Verdict,
    what: &'static str,
    found: String,
    /// What to do about it; empty when nothing needs to be done.
    advice: String,
}

fn good(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Good, what, found: found.into(), advice: String::new() }
}

fn warning(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Warning, what, found: found.into(), advice: advice.into() }
}

fn bad(what: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding { verdict: Verdict::Bad, what, found: found.into(), advice: advice.into() }
}

pub(crate) async fn run(_args: &DoctorArgs, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    let mut findings = Vec::new();
    let dir = target.data_dir();
    if target.server.is_none() {
        findings.extend(check_directory(&dir));
    }
    match target.token() {
        Ok(token) => match check_token(&token) {
            Ok(()) => findings.push(good("management token", "there")),
            Err(why) => findings.push(bad("management token", format!("it {why}"), "set a longer one")),
        },
        Err(_) => findings.push(warning(
            "management token",
            "there is none yet",
            "`gridwire serve` makes one at its first start; for a server elsewhere set GRIDWIRE_MANAGEMENT_TOKEN",
        )),
    }
    match &target.server {
        Some(server) => findings.extend(check_management(&server.parse()?, target).await),
        None => match dir.read_addresses()? {
            None => findings.push(warning(
                "server",
                "none runs on this data directory",
                format!("start one: gridwire serve --data-dir {}", dir.root().display()),
            )),
            Some(addresses) => findings.extend(check_server(&addresses, target).await?),
        },
    }
    print(&findings, output)?;
    let count = findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count();
    if count > 0 {
        bail!("{count} check{} failed", if count == 1 { "" } else { "s" });
    }
    Ok(())
}

fn check_directory(dir: &DataDir) -> Vec<Finding> {
    let root = dir.root();
    let shown = root.display();
    let Ok(mode) = dir.mode() else {
        return vec![warning(
            "data directory",
            format!("{shown} is not there yet"),
            format!("`gridwire serve --data-dir {shown}` makes it; or name another with --data-dir"),
        )];
    };
    let mut findings = vec![if is_private(mode) {
        good("data directory", format!("{shown}, private"))
    } else {
        bad("data directory", format!("{shown} is open to others ({mode:o})"), format!("chmod 700 {shown}"))
    }];
    findings.push(match SystemDisk.free_bytes(root) {
        Ok(free) => check_free(free),
        Err(error) => bad("free space", error.to_string(), "is the data directory readable?"),
    });
    findings.push(if dir.ca_file().exists() {
        good("certificate authority", dir.ca_file().display().to_string())
    } else {
        warning("certificate authority", "there is none yet", "`gridwire serve` makes one at its first start")
    });
    findings
}

/// Whether group and others may nothing.
fn is_private(mode: u32) -> bool {
    let others = mode & 0o077;
    others == 0
}

fn check_free(free: u64) -> Finding {
    let shown = format!("{:.1} GiB free", to_gib(free));
    if free < FREE_BYTES_MIN {
        return bad(
            "free space",
            shown,
            "make room: without space new events are refused with 503 storage_full",
        );
    }
    good("free space", shown)
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
fn to_gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

async fn check_server(addresses: &Addresses, target: &TargetArgs) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let admin = Base::local(false, &addresses.admin)?;
    let ready = get(&admin, &target.trust(), "/readyz").await;
    findings.extend(ready.as_ref().ok().and_then(check_broker_time));
    findings.push(match ready {
        Ok(answer) if answer.status.is_success() => good("server", format!("ready, admin at {admin}")),
        Ok(answer) => {
            let reason = String::from_utf8_lossy(&answer.body).trim().to_owned();
            bad("server", format!("not ready: {reason}"), "see its log")
        }
        Err(error) => bad(
            "server",
            error_text(&error),
            "it seems to have been killed: start it again, which also clears addresses.json",
        ),
    });
    let http = Base::local(false, &addresses.http)?;
    findings.push(match get(&http, &target.trust(), "/").await {
        Ok(_) => good("http listener", http.to_string()),
        Err(error) => bad("http listener", error_text(&error), "is a firewall in between?"),
    });
    findings.extend(check_management(&Base::local(true, &addresses.https)?, target).await);
    Ok(findings)
}

/// Speaks TLS with the server, compares wall clocks, and uses the token.
async fn check_management(base: &Base, target: &TargetArgs) -> Vec<Finding> {
    let trust = target.trust();
    let what = if base.tls { "https listener" } else { "http listener" };
    let answer = match get(base, &trust, "/").await {
        Ok(answer) => answer,
        Err(error) => {
            let advice = match (&error, &trust) {
                (ClientError::Tls { .. }, Trust::System) => {
                    "name the server's authority with --ca FILE".to_owned()
                }
                (ClientError::Tls { .. }, Trust::File(file)) => {
                    format!("is {} the authority of this server? --ca names another", file.display())
                }
                _ => "does the server run, and may you reach it?".to_owned(),
            };
            return vec![bad(what, error_text(&error), advice)];
        }
    };
    let mut findings = vec![good(what, base.to_string())];
    findings.extend(check_clock(&answer));
    let Ok(token) = target.token() else { return findings };
    let client = Client::new(base.clone(), &trust, real_reach());
    let asked = match (client, target.scope()) {
        (Ok(client), Ok(scope)) => {
            Management::new(client, token).list(&arm::list_in_group(&scope, "topics")).await
        }
        (Err(error), _) => Err(error.into()),
        (_, Err(error)) => return vec![bad("management", error.to_string(), "correct the flag")],
    };
    findings.push(match asked {
        Ok(topics) => good("management", format!("the token works; {} custom topics", topics.len())),
        Err(ManagementError::Refused(refusal)) => {
            bad("management", refusal.to_string(), "use the token of this server: DIR/management.token")
        }
        Err(error) => bad("management", error_text(&error), "see the server's log"),
    });
    findings
}

fn check_clock(answer: &Answer) -> Option<Finding> {
    let date = answer.headers.get(http::header::DATE)?.to_str().ok()?;
    let theirs = jiff::fmt::rfc2822::parse(date).ok()?.timestamp().as_millisecond();
    let theirs = Timestamp::from_millis(u64::try_from(theirs).ok()?);
    let ours = real_reach().clock.now();
    let off = ours.since(theirs).max(theirs.since(ours));
    Some(if off > CLOCK_OFF_MAX {
        warning("clock", format!("{} s off the server's", off.as_secs()), "synchronise the clocks (NTP)")
    } else {
        good("clock", "this machine's wall clock agrees with the server's")
    })
}

/// Broker time is another clock than the one that dates answers, so the admin listener is asked for it.
fn check_broker_time(ready: &Answer) -> Option<Finding> {
    let ahead: u64 = ready.headers.get(ahead::HEADER)?.to_str().ok()?.parse().ok()?;
    Some(if ahead > CLOCK_OFF_MAX.as_secs() {
        warning(
            "broker time",
            format!("{ahead} s ahead of the server's wall clock"),
            "it was advanced, or the wall clock was set back; for tests use a fresh data directory",
        )
    } else {
        good("broker time", "agrees with the server's wall clock")
    })
}

async fn get(base: &Base, trust: &Trust, path: &str) -> Result<Answer, ClientError> {
    let client = Client::new(base.clone(), trust, real_reach())?;
    let request = Request::builder().method(Method::GET).uri(path).body(Bytes::new())?;
    client.send(request, PATIENCE).await
}

fn print(findings: &[Finding], output: Output) -> anyhow::Result<()> {
    if output.is_json() {
        let entry = |finding: &Finding| {
            let verdict = match finding.verdict {
                Verdict::Good => "good",
                Verdict::Warning => "warning",
                Verdict::Bad => "bad",
            };
            json!({ "check": finding.what, "verdict": verdict, "found": finding.found, "advice": finding.advice })
        };
        return Ok(output.json(&findings.iter().map(entry).collect())?);
    }
    for Finding { verdict, what, found, advice } in findings {
        let mark = match verdict {
            Verdict::Good => output.green("ok  "),
            Verdict::Warning => output.yellow("note"),
            Verdict::Bad => output.red("FAIL"),
        };
        output.line(format_args!("{mark}  {what}: {found}"))?;
        if !advice.is_empty() {
            output.line(format_args!("      {advice}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_is_a_note_with_the_next_step() {
        let parent = tempfile::tempdir().unwrap();
        let findings = check_directory(&DataDir::at(parent.path().join("none")));
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].verdict, Verdict::Warning);
        assert!(findings[0].advice.contains("gridwire serve"));
    }

    #[test]
    fn a_directory_open_to_others_fails() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        std::fs::set_permissions(parent.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let findings = check_directory(&DataDir::at(parent.path()));
        assert_eq!(findings[0].verdict, Verdict::Bad);
        assert!(findings[0].advice.starts_with("chmod 700"));
    }

    #[test]
    fn little_free_space_fails() {
        assert_eq!(check_free(1 << 20).verdict, Verdict::Bad);
        assert_eq!(check_free(1 << 34).verdict, Verdict::Good);
    }
}
