//! `gridwire publish`: events from an argument, a file or standard input.

use std::io::Read;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use gridwire_core::time::Timestamp;
use gridwire_outside::Rng;
use gridwire_outside::system::SystemRng;
use http::{Method, Request, header};
use serde_json::{Map, Value, json};

use super::hint;
use crate::arm::{ManagementError, Refusal, Scope, Topic};
use crate::client::{ANSWER_TIMEOUT, Client};
use crate::command::resources::topic_resource;
use crate::output::Output;
use crate::target::{Target, TargetArgs};

pub(crate) const HELP: &str = r#"Examples:
  gridwire publish orders '{"id": 7}' --type order.paid --subject /orders/7
  gridwire publish shop/jobs --file job.json --type job.created --count 100
  echo '{"n": 1}' | gridwire publish shop/jobs -
  gridwire publish orders --event --file event.json       a whole event, or an array of them
  gridwire publish domain:malls/north '{"id": 7}' --type order.paid

DATA that is JSON is sent as JSON, anything else as a string."#;

/// Events of one request; well below what the service takes, and small enough to be fast.
const BATCH_EVENTS_MAX: usize = 100;
/// Bytes of one request.
const BATCH_BYTES_MAX: usize = 512 << 10;
const COUNT_MAX: usize = 1_000_000;

#[derive(Clone, Debug, Args)]
pub(crate) struct PublishArgs {
    /// `orders`, `shop/jobs` in a namespace, `domain:malls/north` for a topic of a domain, or `domain:malls`
    /// with whole events that say which topic they are for
    topic: String,
    /// The event's data; `-` reads standard input [default: {}]
    data: Option<String>,
    /// Read the data from a file
    #[arg(long, value_name = "FILE", conflicts_with = "data")]
    file: Option<PathBuf>,
    /// The data is a whole event, or an array of whole events, of the topic's schema
    #[arg(long)]
    event: bool,
    /// The event's type
    #[arg(long = "type", value_name = "TYPE", default_value = "gridwire.test")]
    event_type: String,
    /// What the event is about
    #[arg(long)]
    subject: Option<String>,
    /// Where the event comes from; of a domain's `CloudEvents`, the domain topic
    #[arg(long, default_value = "/gridwire/cli")]
    source: String,
    /// The event's id; with --count, the number is appended [default: a random one]
    #[arg(long)]
    id: Option<String>,
    /// What the topic's events look like [default: asked from the server; without a management token, what
    /// --event gives, or `CloudEvents`]
    #[arg(long, value_enum)]
    schema: Option<Schema>,
    /// How many events to publish
    #[arg(long, default_value_t = 1)]
    count: usize,
    /// Access key of the topic, domain or namespace; with it, no management token is needed
    /// [default: asked from the server]
    #[arg(long, value_name = "KEY", env = "GRIDWIRE_KEY", hide_env_values = true)]
    key: Option<String>,
}

/// The schema of a topic's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Schema {
    /// `CloudEvents` 1.0
    CloudEvents,
    /// The Event Grid event schema
    EventGrid,
    /// The topic's own: the data is a whole event
    Custom,
}

impl Schema {
    fn name(self) -> &'static str {
        match self {
            Self::CloudEvents => "CloudEvents",
            Self::EventGrid => "events of the Event Grid schema",
            Self::Custom => "events of the topic's own schema",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::CloudEvents => "application/cloudevents-batch+json; charset=utf-8",
            Self::EventGrid | Self::Custom => "application/json; charset=utf-8",
        }
    }
}

pub(crate) async fn run(args: &PublishArgs, target: &TargetArgs, output: Output) -> anyhow::Result<()> {
    ensure!((1..=COUNT_MAX).contains(&args.count), "--count takes 1 to {COUNT_MAX}");
    let topic = Topic::parse(&args.topic)?;
    let text = read_data(args)?;
    let target = target.find_with(args.key.as_ref())?;
    match publish(args, &topic, &text, &target, output).await {
        Ok(()) => Ok(()),
        Err(error) => Err(hint::explain(error, hint::missing_topic(&topic, &target).await)),
    }
}

async fn publish(
    args: &PublishArgs,
    topic: &Topic,
    text: &str,
    target: &Target,
    output: Output,
) -> anyhow::Result<()> {
    let (schema, how) = schema(args, topic, text, target).await?;
    let key = match &args.key {
        Some(key) => key.clone(),
        None => first_key(topic, target).await?,
    };
    let rng = SystemRng::new();
    let mut events = make_events(args, text, schema, &rng, target.reach.clock.now())?;
    if let Topic::InDomain { topic, .. } = topic {
        address(&mut events, topic, schema)?;
    }
    let client = target.management.client();
    for batch in batches(&events) {
        let sent = send(client, topic, &target.scope, schema, &key, batch).await;
        if how == Found::Guessed {
            sent.context(
                "without a management token the topic's schema is not known: --schema says it if this was wrong",
            )?;
        } else {
            sent?;
        }
    }
    let ids: Vec<&str> = events.iter().filter_map(|event| event["id"].as_str()).collect();
    if output.is_json() {
        output.json(&json!({ "topic": topic.to_string(), "published": events.len(), "ids": ids }))?;
    } else {
        let count = events.len();
        let first = ids.first().map(|id| format!(", id {id}")).unwrap_or_default();
        let more = if ids.len() > 1 { " and following" } else { "" };
        output.line(format_args!(
            "published {count} event{} to {topic}{first}{more}",
            if count == 1 { "" } else { "s" }
        ))?;
        if how == Found::Guessed {
            output.line(format_args!(
                "sent as {}, by the look of it; --schema says otherwise",
                schema.name()
            ))?;
        }
    }
    Ok(())
}

fn read_data(args: &PublishArgs) -> anyhow::Result<String> {
    match (&args.file, args.data.as_deref()) {
        (Some(file), _) => {
            std::fs::read_to_string(file).with_context(|| format!("failed to read `{}`", file.display()))
        }
        (None, Some("-")) => {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("failed to read standard input")?;
            Ok(text)
        }
        (None, Some(text)) => Ok(text.to_owned()),
        (None, None) => Ok("{}".to_owned()),
    }
}

/// How a topic's schema came to be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Certainly,
    Guessed,
}

/// What the topic takes. Asks the server for custom topics and domains; namespace topics take `CloudEvents`.
/// Whoever has only an access key may not ask, and the events tell.
async fn schema(
    args: &PublishArgs,
    topic: &Topic,
    text: &str,
    target: &Target,
) -> anyhow::Result<(Schema, Found)> {
    if topic.is_namespace() {
        ensure!(
            args.schema.is_none_or(|schema| schema == Schema::CloudEvents),
            "topics of a namespace take CloudEvents only"
        );
        return Ok((Schema::CloudEvents, Found::Certainly));
    }
    if let Some(schema) = args.schema {
        return Ok((schema, Found::Certainly));
    }
    let resource = match topic_resource(topic, target).await {
        Err(error) if args.key.is_some() && is_refused(&error) => {
            return Ok((guess(args.event, text), Found::Guessed));
        }
        resource => resource?,
    };
    let schema = match resource["properties"]["inputSchema"].as_str() {
        Some("CloudEventSchemaV1_0") => Schema::CloudEvents,
        Some("CustomEventSchema") => Schema::Custom,
        _ => Schema::EventGrid,
    };
    Ok((schema, Found::Certainly))
}

/// Whether somebody, perhaps a proxy in front of the server, lets us ask nothing of management, be it only for now.
fn is_refused(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error| match error {
        ManagementError::Refused(refusal) => matches!(refusal.status.as_u16(), 401 | 403 | 404 | 429),
        _ => false,
    })
}

/// What data is, by the first of its events when it holds whole ones.
fn guess(whole: bool, text: &str) -> Schema {
    let events: Value = serde_json::from_str(text).unwrap_or_default();
    let first = events.get(0).unwrap_or(&events);
    match first {
        _ if !whole => Schema::CloudEvents,
        first if first.get("specversion").is_some() => Schema::CloudEvents,
        first if first.get("eventType").is_some() => Schema::EventGrid,
        _ => Schema::Custom,
    }
}

/// The first access key, as management tells it.
pub(crate) async fn first_key(topic: &Topic, target: &Target) -> anyhow::Result<String> {
    let keys = target
        .management
        .act(&topic.key_holder(&target.scope), "listKeys")
        .await
        .with_context(|| format!("failed to get the access key for `{topic}`"))?;
    Ok(keys["key1"].as_str().context("the server returned no key")?.to_owned())
}

fn make_events(
    args: &PublishArgs,
    text: &str,
    schema: Schema,
    rng: &dyn Rng,
    now: Timestamp,
) -> anyhow::Result<Vec<Value>> {
    let data = match serde_json::from_str(text) {
        Ok(data) => data,
        // A slip of the quotes must not be published as a text.
        Err(error) if text.trim_start().starts_with(['{', '[', '"']) => {
            bail!("this looks like JSON but is not: {error}; to send it as a text, make it a JSON string")
        }
        Err(_) => Value::from(text.trim_end_matches('\n')),
    };
    let templates = match data {
        data if !args.event && schema != Schema::Custom => {
            vec![event(args, schema, data, now)]
        }
        Value::Array(events) => events,
        event => vec![event],
    };
    if let Some(wrong) = templates.iter().find(|event| !event.is_object()) {
        bail!("an event must be a JSON object, but this is {wrong}");
    }
    let mut events = Vec::with_capacity(templates.len() * args.count);
    for number in 0..args.count {
        for template in &templates {
            let mut event = template.clone();
            let id = match &args.id {
                Some(id) if args.count > 1 => format!("{id}{}", number + 1),
                Some(id) => id.clone(),
                None => rng.uuid(),
            };
            // A whole event keeps its own id; repeated, it needs one for each.
            if schema != Schema::Custom && (event.get("id").is_none() || args.count > 1) {
                event["id"] = Value::from(id);
            }
            events.push(event);
        }
    }
    Ok(events)
}

fn event(args: &PublishArgs, schema: Schema, data: Value, now: Timestamp) -> Value {
    let mut event = Map::new();
    let mut put = |name: &str, value: Value| event.insert(name.to_owned(), value);
    if schema == Schema::EventGrid {
        put("eventType", args.event_type.clone().into());
        put("subject", args.subject.clone().unwrap_or_else(|| args.source.clone()).into());
        put("eventTime", now.to_string().into());
        put("dataVersion", "1.0".into());
    } else {
        put("specversion", "1.0".into());
        put("type", args.event_type.clone().into());
        put("source", args.source.clone().into());
        put("time", now.to_string().into());
        if let Some(subject) = &args.subject {
            put("subject", subject.clone().into());
        }
    }
    put("data", data);
    Value::Object(event)
}

/// Says in each event which topic of its domain it is for. In a custom schema only the sender knows where.
fn address(events: &mut [Value], topic: &str, schema: Schema) -> anyhow::Result<()> {
    let member = match schema {
        Schema::CloudEvents => "source",
        Schema::EventGrid => "topic",
        Schema::Custom => bail!(
            "the domain has a custom schema: publish to the domain itself, with events that name their topic"
        ),
    };
    for event in events {
        event[member] = topic.into();
    }
    Ok(())
}

/// Cuts events into requests that stay within the limits of either tier.
fn batches(events: &[Value]) -> Vec<Vec<u8>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut count = 0;
    for event in events {
        let text = event.to_string();
        if count == BATCH_EVENTS_MAX || (count > 0 && batch.len() + text.len() > BATCH_BYTES_MAX) {
            batch.push(b']');
            batches.push(std::mem::take(&mut batch));
            count = 0;
        }
        batch.push(if count == 0 { b'[' } else { b',' });
        batch.extend_from_slice(text.as_bytes());
        count += 1;
    }
    if count > 0 {
        batch.push(b']');
        batches.push(batch);
    }
    batches
}

/// Publishes one request's worth of events, a JSON array.
pub(crate) async fn send(
    client: &Client,
    topic: &Topic,
    scope: &Scope,
    schema: Schema,
    key: &str,
    events: Vec<u8>,
) -> anyhow::Result<()> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(topic.publish_path(scope))
        .header(header::CONTENT_TYPE, schema.content_type());
    let request = if topic.is_namespace() {
        request.header(header::AUTHORIZATION, format!("SharedAccessKey {key}"))
    } else {
        request.header("aeg-sas-key", key)
    };
    let answer = client.send(request.body(Bytes::from(events))?, ANSWER_TIMEOUT).await?;
    if !answer.status.is_success() {
        let refusal = Refusal::of(&answer);
        bail!("failed to publish to `{topic}`: {refusal}{}", refusal.about_key());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        args: PublishArgs,
    }

    fn make(line: &str, text: &str, schema: Schema) -> anyhow::Result<Vec<Value>> {
        let args = Only::parse_from(line.split(' ')).args;
        make_events(&args, text, schema, &SystemRng::new(), Timestamp::from_millis(0))
    }

    #[test]
    fn data_that_is_json_is_sent_as_json_and_the_rest_as_text() {
        let event = &make("publish t --type a.b", r#"{"n":1}"#, Schema::CloudEvents).unwrap()[0];
        assert_eq!(event["data"]["n"], 1);
        assert_eq!(event["type"], "a.b");
        assert_eq!(event["specversion"], "1.0");
        assert!(event.get("subject").is_none(), "an absent attribute is left out");
        let event = &make("publish t", "hello there\n", Schema::EventGrid).unwrap()[0];
        assert_eq!(event["data"], "hello there");
        assert_eq!(event["eventTime"], "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn each_repeated_event_has_its_own_id() {
        let events = make("publish t --count 3 --id e", "1", Schema::CloudEvents).unwrap();
        let ids: Vec<_> = events.iter().map(|event| event["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["e1", "e2", "e3"]);
    }

    #[test]
    fn a_whole_event_is_sent_as_it_is() {
        let whole = r#"[{"id":"x","type":"t"},{"id":"y","type":"t"}]"#;
        let events = make("publish t --event", whole, Schema::CloudEvents).unwrap();
        assert_eq!(Value::from(events), serde_json::from_str::<Value>(whole).unwrap());
        assert!(make("publish t --event", "5", Schema::CloudEvents).is_err());
    }

    #[test]
    fn events_for_a_domain_topic_name_it() {
        let check = |schema, member: &str| {
            let mut events = make("publish t", "1", schema).unwrap();
            address(&mut events, "north", schema).unwrap();
            assert_eq!(events[0][member], "north");
        };
        check(Schema::CloudEvents, "source");
        check(Schema::EventGrid, "topic");
        assert!(address(&mut [json!({})], "north", Schema::Custom).is_err());
    }

    #[test]
    fn whole_events_tell_their_schema() {
        assert_eq!(guess(false, r#"{"eventType":"t"}"#), Schema::CloudEvents, "this is data");
        assert_eq!(guess(true, r#"{"specversion":"1.0"}"#), Schema::CloudEvents);
        assert_eq!(guess(true, r#"[{"eventType":"t"}]"#), Schema::EventGrid);
        assert_eq!(guess(true, r#"[{"kind":"t"}]"#), Schema::Custom);
    }

    #[test]
    fn requests_stay_within_their_limits() {
        let events = vec![json!({ "data": "x".repeat(1000) }); 1000];
        let batches = batches(&events);
        assert_eq!(batches.len(), 10);
        let sum: usize =
            batches.iter().map(|batch| serde_json::from_slice::<Vec<Value>>(batch).unwrap().len()).sum();
        assert_eq!(sum, 1000);
        let large = vec![json!({ "data": "x".repeat(400 << 10) }); 3];
        assert_eq!(super::batches(&large).len(), 3);
    }
}
