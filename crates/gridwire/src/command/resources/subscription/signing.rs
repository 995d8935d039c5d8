//! `gridwire subscription signing`: the keys that a subscription's deliveries are signed with.

use anyhow::{Context as _, ensure};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::arm::Subscription;
use crate::command::hint;
use crate::command::resources::{explained, list, text};
use crate::dev::span;
use crate::output::Output;
use crate::target::Target;

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum SigningCommand {
    /// Show the keys that sign now, with their secrets
    List {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
    /// Sign with a new key, and with the present ones for a while; the first time, begin to sign
    #[command(after_help = "\
Examples:
  gridwire subscription signing rotate orders/billing                   both keys sign for a day
  gridwire subscription signing rotate orders/billing --overlap 0s    after a leak: only the new one

Each delivery has the headers webhook-id, webhook-timestamp and webhook-signature of Standard Webhooks. Receivers
compare in constant time, refuse timestamps more than five minutes off, and drop an id that they have seen.")]
    Rotate {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
        /// How long the present keys go on to sign, at most 30d: `1h`, `2d`, `PT1H` [default: 24h]
        #[arg(long, value_name = "DURATION")]
        overlap: Option<String>,
    },
    /// Sign no more
    Remove {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
    },
}

pub(super) async fn signing(command: &SigningCommand, target: &Target, output: Output) -> anyhow::Result<()> {
    let (subscription, action, verb, body) = match command {
        SigningCommand::List { subscription } => (subscription, "listSigningKeys", "list", None),
        SigningCommand::Rotate { subscription, overlap } => {
            let body = match overlap {
                Some(overlap) => Some(json!({ "overlap": iso(overlap)? })),
                None => None,
            };
            (subscription, "rotateSigningKey", "rotate", body)
        }
        SigningCommand::Remove { subscription } => (subscription, "removeSigningKeys", "remove", None),
    };
    let parsed = Subscription::parse(subscription)?;
    let answer = target.management.act_with(&parsed.id(&target.scope), action, body.as_ref()).await;
    let answer = answer.with_context(|| format!("failed to {verb} the signing keys of `{subscription}`"));
    let answer = explained(answer, hint::missing_subscription(&parsed, target)).await?;
    let none = Vec::new();
    let keys: &Vec<Value> = answer["value"].as_array().unwrap_or(&none);
    if keys.is_empty() && !output.is_json() {
        output.line(format_args!(
            "deliveries of {subscription} are not signed; to begin: gridwire subscription signing rotate {subscription}{}",
            target.flags
        ))?;
        return Ok(());
    }
    let row = |key: &Value| {
        let until = text(key, "/signsUntil");
        let until = if until.is_empty() { "replaced".to_owned() } else { until };
        vec![text(key, "/key"), text(key, "/createdAt"), until]
    };
    list(keys, &["key", "created", "signs until"], row, output)
}

/// A span of time in either writing as the management API takes it, which is ISO 8601.
fn iso(text: &str) -> anyhow::Result<String> {
    let span =
        span(text).with_context(|| format!("`{text}` is not a span of time such as 1h, 2d or PT24H"))?;
    ensure!(span.subsec_nanos() == 0, "`{text}` is no whole number of seconds");
    Ok(format!("PT{}S", span.as_secs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlap_is_taken_in_both_writings() {
        for (text, expected) in [("1h", "PT3600S"), ("PT1H", "PT3600S"), ("0s", "PT0S"), ("P1D", "PT86400S")]
        {
            assert_eq!(iso(text).unwrap(), expected, "{text}");
        }
        assert!(iso("soon").unwrap_err().to_string().contains("such as 1h"));
        assert!(iso("500ms").is_err(), "half a second is not at once");
    }
}
