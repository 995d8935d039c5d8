//! `gridwire subscription endpoint`: how a push subscription's endpoint is treated, and by which rule.

use anyhow::Context;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::output::{Output, printable};
use crate::target::Target;

/// Shows the endpoint of the subscription with this resource id, which the user called `name`.
pub(crate) async fn run(id: &str, name: &str, target: &Target, output: Output) -> anyhow::Result<()> {
    let status = target.management.read(&path(id)).await;
    let status = status.with_context(|| format!("failed to read how the endpoint of `{name}` is treated"))?;
    if output.is_json() {
        return Ok(output.json(&status)?);
    }
    for line in describe(&status) {
        output.line(line)?;
    }
    Ok(())
}

fn path(id: &str) -> String {
    format!("/gridwire/v1/subscriptions/{}/endpoint", utf8_percent_encode(id, NON_ALPHANUMERIC))
}

fn describe(status: &Value) -> Vec<String> {
    let text = |member: &str| match &status[member] {
        Value::String(text) => printable(text),
        other => other.to_string(),
    };
    let mut lines = vec![format!("{}: {}", text("rule"), text("detail"))];
    if !status["until"].is_null() {
        lines.push(format!("  until {}, after {}", text("until"), text("lastOutcome")));
    } else if !status["lastOutcome"].is_null() {
        lines.push(format!("  last outcome: {}", text("lastOutcome")));
    }
    if !status["lastReason"].is_null() {
        lines.push(format!("  it was not called: {}", text("lastReason")));
    }
    if let (Some(rate), Some(by)) = (status["requestsPerMinute"].as_u64(), status["paceBy"].as_str())
        && 0 < rate
    {
        lines.push(format!("  requests a minute: at most {rate}, by the {}", printable(by)));
    }
    lines.push(format!(
        "  requests in flight: {} of at most {}; failures in a row: {}",
        text("requestsInFlight"),
        text("requestsMax"),
        text("failuresInARow"),
    ));
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_rule_that_applies_comes_first() {
        let mut status = json!({ "rule": "free", "detail": "Nothing.", "until": null, "lastOutcome": null,
                                 "failuresInARow": 0, "requestsInFlight": 1, "requestsMax": 64 });
        let free = "  requests in flight: 1 of at most 64; failures in a row: 0";
        assert_eq!(describe(&status), ["free: Nothing.", free]);
        status["rule"] = "probation".into();
        status["until"] = "2026-11-22T20:19:38.054Z".into();
        status["lastOutcome"] = "Busy".into();
        let until = "  until 2026-11-22T20:19:38.054Z, after Busy";
        assert_eq!(describe(&status), ["probation: Nothing.", until, free]);
        let mut refused = status.clone();
        refused["until"] = Value::Null;
        refused["lastOutcome"] = "Forbidden".into();
        refused["lastReason"] = "its scheme is not `https`".into();
        let reason = "  it was not called: its scheme is not `https`";
        assert_eq!(describe(&refused), ["probation: Nothing.", "  last outcome: Forbidden", reason, free]);
        status["requestsPerMinute"] = 300.into();
        status["paceBy"] = "operator".into();
        let pace = "  requests a minute: at most 300, by the operator";
        assert_eq!(describe(&status), ["probation: Nothing.", until, pace, free]);
        let paused = json!({ "rule": "paused", "detail": "It is.", "requestsPerMinute": 0, "paceBy": "operator",
                             "failuresInARow": 0, "requestsInFlight": 1, "requestsMax": 64 });
        assert_eq!(describe(&paused), ["paused: It is.", free]);
    }
}
