//! What receivers and the server say to each other, as far as a receiver needs it
//! (`pull-delivery` contract).

use std::borrow::Cow;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

/// The answer to a receive. Of the events no more than their ids are read.
#[derive(Debug, Deserialize)]
pub(crate) struct Received<'a> {
    #[serde(borrow)]
    pub(crate) value: Vec<Delivery<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Delivery<'a> {
    #[serde(borrow, rename = "brokerProperties")]
    pub(crate) broker_properties: BrokerProperties<'a>,
    #[serde(borrow, default)]
    pub(crate) event: Option<Event<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Event<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BrokerProperties<'a> {
    #[serde(borrow, rename = "lockToken")]
    pub(crate) lock_token: Cow<'a, str>,
}

/// The body of an acknowledge.
#[derive(Debug, Serialize)]
pub(crate) struct Acknowledge<'a> {
    #[serde(rename = "lockTokens")]
    pub(crate) lock_tokens: Vec<Cow<'a, str>>,
}

/// Its answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Settled {
    #[serde(rename = "succeededLockTokens")]
    pub(crate) succeeded: Vec<IgnoredAny>,
    #[serde(rename = "failedLockTokens")]
    pub(crate) failed: Vec<IgnoredAny>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tokens_of_a_receive_are_acknowledged_as_they_came() {
        let answer = r#"{"value":[{"brokerProperties":{"lockToken":"a\"b","deliveryCount":1},"event":{"id":"1"}},
            {"event":null,"brokerProperties":{"deliveryCount":2,"lockToken":"c"}}]}"#;
        let received: Received<'_> = serde_json::from_str(answer).unwrap();
        assert_eq!(received.value[0].event.as_ref().unwrap().id, "1");
        assert!(received.value[1].event.is_none());
        let lock_tokens = received.value.into_iter().map(|one| one.broker_properties.lock_token).collect();
        let body = serde_json::to_string(&Acknowledge { lock_tokens }).unwrap();
        assert_eq!(body, r#"{"lockTokens":["a\"b","c"]}"#);
        let settled: Settled =
            serde_json::from_str(r#"{"failedLockTokens":[{"lockToken":"c"}],"succeededLockTokens":["a"]}"#)
                .unwrap();
        assert_eq!((settled.succeeded.len(), settled.failed.len()), (1, 1));
    }
}
