//! Which topic of a domain an event goes to (`publish` contract, section 4).
//!
//! An event says so itself: by `topic` in the Event Grid schema, by what is mapped to `topic` in a custom one,
//! by `source` as a `CloudEvent`. The value is the domain topic's name or its full ARM id. No such resource need
//! exist: subscriptions to the whole domain get the event all the same.

use std::borrow::Cow;

use super::{refusal, shown};
use crate::api_error::{ApiError, ErrorCode};
use crate::event::{Event, InputSchema};

/// Characters of a domain topic's name (the rule for names of topics).
const NAME_CHARS_MIN: usize = 3;
const NAME_CHARS_MAX: usize = 50;
const TOPICS: &str = "/topics/";

/// Gives every event of a publish to the domain `domain_id` its domain topic, or refuses all of them.
///
/// What names the topic of an Event Grid or custom event becomes the domain topic's full ARM id, which is what
/// subscribers see and filters compare; a `CloudEvent` keeps its `source` as it was sent.
///
/// # Errors
///
/// 400 with detail `InputJsonInvalid` for an event that names no topic of this domain.
pub fn route_to_domain_topics(events: &mut [Event<'_>], domain_id: &str) -> Result<(), ApiError> {
    for (index, event) in events.iter_mut().enumerate() {
        let Some(name) = domain_topic(event, domain_id) else {
            return Err(nowhere(event, index));
        };
        if event.schema != InputSchema::CloudEvent {
            let mut id = String::with_capacity(domain_id.len() + TOPICS.len() + name.len());
            id.extend([domain_id, TOPICS, name]);
            event.source = Cow::Owned(id);
        }
    }
    Ok(())
}

/// The name of the domain topic that an event of the domain `domain_id` is for, in the publisher's case.
/// `None` when the event does not name one.
pub fn domain_topic<'a>(event: &'a Event<'_>, domain_id: &str) -> Option<&'a str> {
    let mut text: &str = &event.source;
    if event.schema == InputSchema::CloudEvent {
        // A source may say more than the topic behind a `#`, as users of the service do.
        text = text.split_once('#').map_or(text, |(before, _)| before);
    }
    let name = if text.starts_with('/') {
        let rest = strip_prefix(text, domain_id)?;
        strip_prefix(rest, TOPICS)?
    } else {
        text
    };
    let fits = (NAME_CHARS_MIN..=NAME_CHARS_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    fits.then_some(name)
}

/// Without case, as ARM ids are compared.
fn strip_prefix<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

/// The refusal in the hosted service's words, which say `topic` whatever the schema, and where it was looked for.
fn nowhere(event: &Event<'_>, index: usize) -> ApiError {
    let place = match event.schema {
        InputSchema::EventGrid => "property 'topic'",
        InputSchema::Custom => "property that is mapped to 'topic'",
        InputSchema::CloudEvent => "attribute 'source'",
    };
    let message = format!(
        "Required property 'topic' needs to either be a full resource id or should be just the name of the \
         domain topic. Found: {}. The event at index {index} names its domain topic by its {place}.",
        shown(&event.source)
    );
    refusal(ErrorCode::InvalidEvent, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Data;

    const DOMAIN: &str = "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.EventGrid/domains/Shops";

    fn event(schema: InputSchema, source: &str) -> Event<'_> {
        Event {
            schema,
            id: "1".into(),
            event_type: "t".into(),
            source: source.into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Absent,
        }
    }

    fn check(schema: InputSchema, source: &str, expected: Option<&str>) {
        let mut events = [event(schema, source)];
        assert_eq!(domain_topic(&events[0], DOMAIN), expected, "{source} of {schema:?}");
        let routed = route_to_domain_topics(&mut events, DOMAIN);
        assert_eq!(routed.is_ok(), expected.is_some(), "{source} of {schema:?}");
        if let Some(name) = expected {
            let kept = match schema {
                InputSchema::CloudEvent => source.to_owned(),
                InputSchema::EventGrid | InputSchema::Custom => format!("{DOMAIN}/topics/{name}"),
            };
            assert_eq!(events[0].source, kept);
            assert_eq!(domain_topic(&events[0], DOMAIN), expected, "what is stored says the same again");
        }
    }

    #[test]
    fn a_name_or_the_full_id_names_a_domain_topic() {
        let long = "a".repeat(NAME_CHARS_MAX + 1);
        for schema in [InputSchema::EventGrid, InputSchema::CloudEvent, InputSchema::Custom] {
            check(schema, "blue", Some("blue"));
            check(schema, "Blue-1", Some("Blue-1"));
            check(schema, &format!("{DOMAIN}/topics/blue"), Some("blue"));
            check(schema, &format!("{}/TOPICS/Blue", DOMAIN.to_uppercase()), Some("Blue"));
            for wrong in [
                "",
                "ab",
                &long,
                "a_b_c",
                "topics/blue",
                "/blue",
                "https://shop.example/",
                "urn:x",
                DOMAIN,
                &format!("{DOMAIN}/topics/"),
                &format!("{DOMAIN}/topics/blue/more"),
                &format!("{DOMAIN}2/topics/blue"),
                "/subscriptions/S/resourceGroups/Rg/providers/Microsoft.EventGrid/domains/Other/topics/blue",
                "blüe",
            ] {
                check(schema, wrong, None);
            }
        }
    }

    #[test]
    fn a_source_may_say_more_behind_a_fragment_sign() {
        check(InputSchema::CloudEvent, "blue#counter/7", Some("blue"));
        check(InputSchema::CloudEvent, &format!("{DOMAIN}/topics/blue#7"), Some("blue"));
        check(InputSchema::CloudEvent, "#7", None);
        check(InputSchema::EventGrid, "blue#counter/7", None);
    }

    #[test]
    fn one_event_without_a_topic_refuses_them_all() {
        let mut events = ["blue", "https://shop.example/", "red"].map(|at| event(InputSchema::EventGrid, at));
        let refused = route_to_domain_topics(&mut events, DOMAIN).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidEvent);
        assert!(
            refused.message.starts_with(
                "Required property 'topic' needs to either be a full resource id or should be just the name \
                 of the domain topic. Found: https://shop.example/. The event at index 1 "
            ),
            "{}",
            refused.message
        );
    }
}
