//! `gridwire subscription signing`: the keys that a subscription's deliveries are signed with.

use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};

use crate::arm::Subscription;
use crate::command::hint;
use crate::command::resources::{explained, list, text};
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
  gridwire subscription signing rotate orders/billing --overlap PT0S    after a leak: only the new one

Each delivery has the headers webhook-id, webhook-timestamp and webhook-signature of Standard Webhooks. Receivers
compare in constant time, refuse timestamps more than five minutes off, and drop an id that they have seen.")]
    Rotate {
        /// `orders/billing`, `shop/jobs/push` in a namespace, or `domain:malls/north/billing`
        subscription: String,
        /// How long the present keys go on to sign, at most P30D [default: PT24H]
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
    let (subscription, action, body) = match command {
        SigningCommand::List { subscription } => (subscription, "listSigningKeys", None),
        SigningCommand::Rotate { subscription, overlap } => {
            let body = overlap.as_ref().map(|overlap| json!({ "overlap": overlap }));
            (subscription, "rotateSigningKey", body)
        }
        SigningCommand::Remove { subscription } => (subscription, "removeSigningKeys", None),
    };
    let parsed = Subscription::parse(subscription)?;
    let answer = target.management.act_with(&parsed.id(&target.scope), action, body.as_ref()).await;
    let answer = answer.with_context(|| format!("failed to look at the signing keys of `{subscription}`"));
    let answer = explained(answer, hint::missing_subscription(&parsed, target)).await?;
    let none = Vec::new();
    let keys: &Vec<Value> = answer["value"].as_array().unwrap_or(&none);
    if keys.is_empty() && !output.is_json() {
        output.line(format_args!(
            "deliveries of {subscription} are not signed; to begin: gridwire subscription signing rotate {subscription}"
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
