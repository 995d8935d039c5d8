//! The bodies that are published: made once, then copied and stamped for each request.
//!
//! Every event carries the moment it was meant to be sent, in text that no other part of the event can be
//! mistaken for. A webhook finds it again in whatever form the event is delivered.

use bytes::Bytes;

use super::args::Schema;
use super::stopwatch::Moment;

/// What stands before the stamp in an event's data.
const MARK: &[u8] = b"gridwire-bench-sent:";
/// The source of a `CloudEvent`, as long as the name of a domain topic so that one fits in the other's place.
const SOURCE: &[u8] = b"/bench";
const STAMP_DIGITS: usize = 20;
const ID_DIGITS: usize = 16;

/// A request body with holes for each event's id and stamp.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    bytes: Vec<u8>,
    /// Where each event's id and stamp go.
    holes: Vec<(usize, usize)>,
    pub(crate) content_type: &'static str,
}

impl Template {
    /// A body of `batch` events of `size` bytes each; `size` grows to what an empty event needs.
    ///
    /// One `CloudEvent` goes alone as an object; several, and all Event Grid events, go in an array.
    pub(crate) fn new(schema: Schema, batch: u32, size: usize) -> Self {
        let (content_type, array) = match schema {
            Schema::Cloudevents if batch == 1 => ("application/cloudevents+json; charset=utf-8", false),
            Schema::Cloudevents => ("application/cloudevents-batch+json; charset=utf-8", true),
            Schema::Eventgrid => ("application/json; charset=utf-8", true),
        };
        let (event, id, stamp) = event(schema, size);
        let mut bytes = Vec::new();
        let mut holes = Vec::new();
        if array {
            bytes.push(b'[');
        }
        for index in 0..batch {
            if index > 0 {
                bytes.push(b',');
            }
            holes.push((bytes.len() + id, bytes.len() + stamp));
            bytes.extend_from_slice(&event);
        }
        if array {
            bytes.push(b']');
        }
        Self { bytes, holes, content_type }
    }

    /// Sends each `CloudEvent` of the body to a topic of a domain: to the one numbered by `topic`.
    #[must_use]
    pub(crate) fn addressed(mut self, topic: impl Fn(u32) -> u32) -> Self {
        let places: Vec<usize> = memchr::memmem::find_iter(&self.bytes, SOURCE).collect();
        for (event, at) in (0..).zip(places) {
            let name = domain_topic(topic(event));
            self.bytes[at..at + SOURCE.len()].copy_from_slice(name.as_bytes());
        }
        self
    }

    /// Events in each body.
    pub(crate) fn events(&self) -> u64 {
        self.holes.len() as u64
    }

    /// Bytes of each body.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// A body whose events are numbered from `first` on and stamped with `sent`.
    pub(crate) fn render(&self, first: u64, sent: Moment) -> Bytes {
        let mut bytes = self.bytes.clone();
        let mut stamp = [0; STAMP_DIGITS];
        put_decimal(&mut stamp, sent.as_nanos());
        for (number, &(id_at, stamp_at)) in (first..).zip(&self.holes) {
            put_decimal(&mut bytes[id_at..id_at + ID_DIGITS], number);
            bytes[stamp_at..stamp_at + STAMP_DIGITS].copy_from_slice(&stamp);
        }
        bytes.into()
    }
}

/// One event, and where in it the id and the stamp begin.
fn event(schema: Schema, size: usize) -> (Vec<u8>, usize, usize) {
    let id = "0".repeat(ID_DIGITS);
    let stamp = "0".repeat(STAMP_DIGITS);
    let mark = String::from_utf8_lossy(MARK);
    let (head, tail) = match schema {
        Schema::Cloudevents => (
            format!(
                r#"{{"specversion":"1.0","id":"{id}","type":"bench.measured","source":"/bench","subject":"bench","time":"2026-01-01T00:00:00Z","datacontenttype":"application/json","data":{{"sent":"{mark}{stamp}","padding":""#
            ),
            r#""}}"#,
        ),
        Schema::Eventgrid => (
            format!(
                r#"{{"id":"{id}","eventType":"bench.measured","subject":"bench","eventTime":"2026-01-01T00:00:00Z","dataVersion":"1.0","data":{{"sent":"{mark}{stamp}","padding":""#
            ),
            r#""}}"#,
        ),
    };
    let mut bytes = head.into_bytes();
    let id_at = memchr::memmem::find(&bytes, id.as_bytes()).expect("the id was just written");
    let stamp_at = memchr::memmem::find(&bytes, MARK).expect("the mark was just written") + MARK.len();
    let padding = size.saturating_sub(bytes.len() + tail.len());
    bytes.extend((b'a'..=b'z').cycle().take(padding));
    bytes.extend_from_slice(tail.as_bytes());
    (bytes, id_at, stamp_at)
}

/// The name of a domain topic by its number: always of the same length.
pub(crate) fn domain_topic(number: u32) -> String {
    format!("t{number:05}")
}

/// Fills `out` with the last digits of `value`.
fn put_decimal(out: &mut [u8], mut value: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + u8::try_from(value % 10).expect("a digit");
        value /= 10;
    }
}

/// The stamps of all events in `body`, in order.
pub(crate) fn stamps(body: &[u8]) -> impl Iterator<Item = Moment> + '_ {
    memchr::memmem::find_iter(body, MARK).filter_map(|at| {
        let digits = body.get(at + MARK.len()..)?.get(..STAMP_DIGITS)?;
        let nanos = std::str::from_utf8(digits).ok()?.parse().ok()?;
        Some(Moment::from_nanos(nanos))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_event_of_a_body_can_be_sent_to_another_topic() {
        let body = Template::new(Schema::Cloudevents, 3, 300).addressed(|event| event * 40_000);
        let events: Vec<serde_json::Value> = serde_json::from_slice(&body.bytes).unwrap();
        let sources: Vec<_> = events.iter().map(|event| event["source"].as_str().unwrap()).collect();
        assert_eq!(sources, ["t00000", "t40000", "t80000"]);
    }

    fn check(schema: Schema, batch: u32, size: usize) {
        let template = Template::new(schema, batch, size);
        let sent = Moment::from_nanos(1_234_567_890);
        let body = template.render(41, sent);
        assert_eq!(body.len(), template.len());
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let events = match &value {
            serde_json::Value::Array(events) => events.clone(),
            single => vec![single.clone()],
        };
        assert_eq!(events.len() as u64, template.events());
        assert_eq!(value.is_array(), batch > 1 || schema == Schema::Eventgrid);
        for (number, event) in (41..).zip(&events) {
            assert_eq!(event["id"].as_str().unwrap().parse::<u64>().unwrap(), number);
            let bytes = event.to_string().len();
            assert!(bytes == size || size < 300, "{bytes} bytes instead of {size}");
        }
        assert_eq!(stamps(&body).collect::<Vec<_>>(), vec![sent; batch as usize]);
    }

    #[test]
    fn bodies_are_valid_numbered_stamped_and_as_large_as_asked() {
        check(Schema::Cloudevents, 1, 1024);
        check(Schema::Cloudevents, 100, 1024);
        check(Schema::Eventgrid, 1, 2048);
        check(Schema::Eventgrid, 3, 0);
    }

    #[test]
    fn a_body_without_stamps_yields_none() {
        for body in [&b""[..], MARK, b"gridwire-bench-sent:12", b"gridwire-bench-sent:1234567890123456789x"] {
            assert_eq!(stamps(body).count(), 0);
        }
    }
}
