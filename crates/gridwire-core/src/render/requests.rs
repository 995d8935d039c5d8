//! How events share delivery requests (`push-delivery` contract, section 4).
//!
//! The shard has chosen events that may travel together; here is what only their bytes and attributes can tell:
//! whether the body stays within its size, and whether one head is true for all of them.

use super::{DeliveryContext, attribute_value, delivery};
use crate::event::{DeliverySchema, Event};
use crate::routing::{AttributeSource, Batching};

/// A body is begun with room for one ordinary event.
const BODY_BYTES: usize = 512;

/// The body and the particular headers of one delivery request.
#[derive(Debug)]
pub struct DeliveryRequest {
    /// Which of the events it carries; at least one.
    pub events: Vec<usize>,
    pub body: Vec<u8>,
    /// The delivery attributes: each with its value, which is the same for all of its events.
    pub attributes: Vec<(String, String)>,
}

/// Writes the request that delivers the first of `events`, with as many of the others as have a place in it, in their
/// order. `None` without events.
///
/// Event Grid and custom events always travel in an array, a `CloudEvent` only when the subscription batches. A body
/// is larger than `bytes_max` only for an event that is larger by itself.
pub fn delivery_request(
    events: &[(&Event<'_>, DeliveryContext<'_>)],
    schema: DeliverySchema,
    attributes: &[(String, AttributeSource)],
    batching: Option<Batching>,
) -> Option<DeliveryRequest> {
    let ((first, context), others) = events.split_first()?;
    let array = batching.is_some() || schema != DeliverySchema::CloudEvent;
    let mut body = Vec::with_capacity(BODY_BYTES);
    if array {
        body.push(b'[');
    }
    delivery(first, schema, *context, &mut body);
    let mut request = DeliveryRequest { events: vec![0], body, attributes: values(first, attributes) };
    if let Some(batching) = batching {
        for (index, (event, context)) in (1..).zip(others) {
            if u64::from(batching.events_max) <= request.events.len() as u64 {
                break;
            }
            if values(event, attributes) != request.attributes {
                continue;
            }
            let end = request.body.len();
            request.body.push(b',');
            delivery(event, schema, *context, &mut request.body);
            // The array's end is still to come.
            if batching.bytes_max <= request.body.len() {
                request.body.truncate(end);
                break;
            }
            request.events.push(index);
        }
    }
    if array {
        request.body.push(b']');
    }
    Some(request)
}

fn values(event: &Event<'_>, attributes: &[(String, AttributeSource)]) -> Vec<(String, String)> {
    let value = |(name, source): &(String, AttributeSource)| {
        attribute_value(event, source).map(|value| (name.clone(), value))
    };
    attributes.iter().filter_map(value).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::event::{Data, InputSchema};
    use crate::time::Timestamp;

    const TENANT: &str = "x-tenant";

    fn events(tenants: &[&str]) -> Vec<(Event<'static>, DeliveryContext<'static>)> {
        let context = DeliveryContext { topic_resource_id: "/topics/orders", published: Timestamp::ZERO };
        let event = |(number, tenant): (usize, &&str)| Event {
            schema: InputSchema::CloudEvent,
            id: number.to_string().into(),
            event_type: "t".into(),
            source: "/s".into(),
            subject: None,
            time: None,
            data_content_type: None,
            data_schema: None,
            extensions: Vec::new(),
            data: Data::Json(format!(r#"{{"tenant":"{tenant}"}}"#).into()),
        };
        tenants.iter().enumerate().map(|each| (event(each), context)).collect()
    }

    fn shown<'e>(
        events: &'e [(Event<'e>, DeliveryContext<'e>)],
    ) -> Vec<(&'e Event<'e>, DeliveryContext<'e>)> {
        events.iter().map(|(event, context)| (event, *context)).collect()
    }

    fn by_tenant() -> [(String, AttributeSource); 1] {
        [(TENANT.to_owned(), AttributeSource::Dynamic("data.tenant".to_owned()))]
    }

    fn batches(events_max: u32, bytes_max: usize) -> Batching {
        Batching { events_max, bytes_max }
    }

    /// One request after the other, each for what the ones before it have left.
    fn delivery_requests(
        events: &[(&Event<'_>, DeliveryContext<'_>)],
        schema: DeliverySchema,
        attributes: &[(String, AttributeSource)],
        batching: Option<Batching>,
    ) -> Vec<DeliveryRequest> {
        let (mut left, mut requests): (Vec<usize>, Vec<_>) = ((0..events.len()).collect(), Vec::new());
        loop {
            let shown: Vec<_> = left.iter().map(|&index| events[index]).collect();
            let Some(mut request) = delivery_request(&shown, schema, attributes, batching) else {
                return requests;
            };
            request.events = request.events.iter().map(|&place| left[place]).collect();
            left.retain(|index| !request.events.contains(index));
            requests.push(request);
        }
    }

    /// Ids in each request, as its body has them.
    fn ids(requests: &[DeliveryRequest]) -> Vec<Vec<String>> {
        let of = |request: &DeliveryRequest| {
            let body: Vec<Value> = serde_json::from_slice(&request.body).expect("an array");
            assert_eq!(body.len(), request.events.len());
            body.iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect()
        };
        requests.iter().map(of).collect()
    }

    #[test]
    fn without_batching_each_event_has_its_own_request() {
        let requests = delivery_requests(&shown(&events(&["a", "a"])), DeliverySchema::CloudEvent, &[], None);
        assert_eq!(requests.iter().map(|request| request.events[0]).collect::<Vec<_>>(), [0, 1]);
        for request in requests {
            let body: Value = serde_json::from_slice(&request.body).unwrap();
            assert_eq!(body["type"], "t", "one CloudEvent stands for itself");
        }
    }

    #[test]
    fn a_batch_is_an_array_of_at_most_so_many_events() {
        let events = events(&["a"; 5]);
        let requests =
            delivery_requests(&shown(&events), DeliverySchema::CloudEvent, &[], Some(batches(2, 1 << 20)));
        assert_eq!(ids(&requests), [vec!["0", "1"], vec!["2", "3"], vec!["4"]]);
        assert_eq!(requests[1].events, [2, 3]);
    }

    #[test]
    fn a_body_keeps_within_its_size_unless_one_event_is_larger() {
        let mut events = events(&["a"; 6]);
        let big = format!("\"{}\"", "x".repeat(500));
        events[2].0.data = Data::Json(big.into());
        let one = delivery_requests(
            &shown(&events[..1]),
            DeliverySchema::CloudEvent,
            &[],
            Some(batches(2, 1 << 20)),
        );
        // Two events, the comma and both brackets: not a byte more.
        let two = 2 * (one[0].body.len() - 2) + 3;
        let requests =
            delivery_requests(&shown(&events), DeliverySchema::CloudEvent, &[], Some(batches(100, two)));
        assert_eq!(ids(&requests), [vec!["0", "1"], vec!["2"], vec!["3", "4"], vec!["5"]]);
        assert_eq!(requests[0].body.len(), two);
        assert!(two < requests[1].body.len());
        let requests = delivery_requests(
            &shown(&events[..2]),
            DeliverySchema::CloudEvent,
            &[],
            Some(batches(100, two - 1)),
        );
        assert_eq!(ids(&requests), [["0"], ["1"]]);
    }

    #[test]
    fn events_share_a_request_only_when_its_head_is_true_for_all() {
        let events = events(&["a", "b", "a", "b", "a"]);
        let batching = batches(2, 1 << 20);
        let requests =
            delivery_requests(&shown(&events), DeliverySchema::CloudEvent, &by_tenant(), Some(batching));
        assert_eq!(ids(&requests), [vec!["0", "2"], vec!["1", "3"], vec!["4"]]);
        let tenants: Vec<&str> = requests.iter().map(|request| &*request.attributes[0].1).collect();
        assert_eq!(tenants, ["a", "b", "a"]);
        let same = [("x-y".to_owned(), AttributeSource::Static("z".to_owned()))];
        let requests =
            delivery_requests(&shown(&events), DeliverySchema::CloudEvent, &same, Some(batches(9, 1 << 20)));
        assert_eq!((requests.len(), requests[0].events.len()), (1, 5));
    }
}
