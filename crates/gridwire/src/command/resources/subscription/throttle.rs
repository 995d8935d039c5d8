//! `gridwire subscription pause`, `resume` and `rate`: what the operator decides of a subscription's deliveries.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::arm::Subscription;
use crate::command::hint;
use crate::command::resources::explained;
use crate::output::Output;
use crate::target::Target;

/// Requests a second; `None` for no cap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate(Option<u32>);

/// Reads `--per-second`. How much is too much is for the server to say.
pub(super) fn parse_rate(text: &str) -> Result<Rate, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Rate(None));
    }
    match text.parse() {
        Ok(rate) if 0 < rate => Ok(Rate(Some(rate))),
        _ => {
            Err("a whole number of requests from 1 on, or `none`; to stop deliveries there is `pause`"
                .to_owned())
        }
    }
}

/// Does one of the three and tells what holds now.
pub(super) async fn run(
    subscription: &str,
    action: &str,
    rate: Option<Rate>,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    let parsed = Subscription::parse(subscription)?;
    let body = rate.map(|Rate(rate)| json!({ "requestsPerSecond": rate }));
    let answer = target.management.act_with(&parsed.id(&target.scope), action, body.as_ref()).await;
    let answer = answer.with_context(|| format!("failed to change the deliveries of `{subscription}`"));
    let now = explained(answer, hint::missing_subscription(&parsed, target)).await?;
    if output.is_json() {
        return Ok(output.json(&now)?);
    }
    Ok(output.line(describe(subscription, &now))?)
}

fn describe(subscription: &str, now: &Value) -> String {
    let cap = match now["requestsPerSecond"].as_u64() {
        None => "without a cap".to_owned(),
        Some(1) => "at most 1 request a second".to_owned(),
        Some(rate) => format!("at most {rate} requests a second"),
    };
    if now["paused"] == true {
        return format!("{subscription} is paused; {cap} once it is resumed");
    }
    format!("{subscription} is delivered; {cap}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_from_one_on_or_none() {
        assert_eq!(parse_rate("20"), Ok(Rate(Some(20))));
        assert_eq!(parse_rate("None"), Ok(Rate(None)));
        for wrong in ["0", "-1", "1.5", "", "all", "20/s", "99999999999"] {
            assert!(parse_rate(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_holds_now_is_told_in_a_line() {
        let now = |paused, rate: Option<u32>| json!({ "paused": paused, "requestsPerSecond": rate });
        assert_eq!(describe("a/b", &now(false, None)), "a/b is delivered; without a cap");
        assert_eq!(describe("a/b", &now(false, Some(1))), "a/b is delivered; at most 1 request a second");
        assert_eq!(
            describe("a/b", &now(true, Some(9))),
            "a/b is paused; at most 9 requests a second once it is resumed"
        );
    }
}
