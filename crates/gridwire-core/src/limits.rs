//! Every limit, each with the reason for its value. Sources: `docs/compatibility.md` lists what the hosted
//! service documents; the rest bounds memory or time.

use std::time::Duration;

/// Largest single event, in bytes of its JSON. The service says "1 MB" without defining it; 2^20 is the
/// reading that refuses nothing the service accepts.
pub const EVENT_BYTES_MAX: usize = 1 << 20;
/// Largest publish request body. Same figure as for one event: the service documents both as 1 MB.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Largest body of a management request; far above any resource, far below what would hurt.
pub const MANAGEMENT_BYTES_MAX: usize = 1 << 20;
/// Events per publish request to a custom topic or domain (service limit).
pub const BASIC_EVENTS_MAX: usize = 5_000;
/// Events per publish request to a namespace topic (service limit).
pub const NAMESPACE_EVENTS_MAX: usize = 1_000;
/// Nesting depth of a JSON body; deeper bodies are refused as `too_complex` before anything recurses.
pub const JSON_DEPTH_MAX: usize = 64;
/// Members of an event's envelope.
pub const ENVELOPE_MEMBERS_MAX: usize = 10_000;
/// Bytes of one context attribute's value.
pub const ATTRIBUTE_BYTES_MAX: usize = 4096;
/// Characters of an attribute name in binary mode (service) and in structured mode (generous).
pub const ATTRIBUTE_NAME_BINARY_MAX: usize = 20;
pub const ATTRIBUTE_NAME_STRUCTURED_MAX: usize = 64;

/// Advanced filters of one subscription (service limit).
pub const ADVANCED_FILTERS_MAX: usize = 25;
/// Filter values over all advanced filters of one subscription (service limit); a range counts as one.
pub const FILTER_VALUES_MAX: usize = 25;
/// Characters of one string in a filter (service limit).
pub const FILTER_STRING_CHARS_MAX: usize = 512;
/// Members in a filter key such as `data.a.b`; bounds the walk into an event.
pub const FILTER_KEY_DEPTH_MAX: usize = 8;
/// Topics of one domain, and subscriptions to all of a domain (service limits).
pub const DOMAIN_TOPICS_MAX: usize = 100_000;
pub const DOMAIN_SUBSCRIPTIONS_MAX: usize = 50;
/// Subscriptions of one topic or domain topic (service limit).
pub const SUBSCRIPTIONS_PER_TOPIC_MAX: usize = 500;

/// `maxEvents` of one receive (service limit).
pub const RECEIVE_EVENTS_MAX: u32 = 100;
/// Seconds a receive may wait: bounds of `maxWaitTime` (service limits).
pub const RECEIVE_WAIT_MIN: Duration = Duration::from_secs(10);
pub const RECEIVE_WAIT_MAX: Duration = Duration::from_secs(120);
/// Bytes of events in one answer to receive, whatever `maxEvents` says; one event always fits. Below the
/// payload limit of a cluster's transport and small enough to build in memory.
pub const RECEIVE_ANSWER_BYTES_MAX: u64 = 4 << 20;
/// Lock tokens in one acknowledge, release, reject or renewLock: what ten full receives hand out.
pub const LOCK_TOKENS_MAX: usize = 1_000;
/// Receives waiting for events on one subscription; more are answered 429.
pub const RECEIVERS_WAITING_MAX: usize = 1_000;
/// A lock can be renewed until this long after it was first granted (service limit).
pub const LOCK_RENEWAL_WINDOW: Duration = Duration::from_secs(3600);
pub const LOCK_DURATION_MIN: Duration = Duration::from_secs(60);
pub const LOCK_DURATION_MAX: Duration = Duration::from_secs(300);

/// Positions a subscription holds ready in memory; the rest of its backlog is only a cursor.
pub const READY_MAX: usize = 1_024;
/// Events of one subscription that were released, failed or timed out; at the limit new ones wait.
pub const TROUBLE_MAX: usize = 100_000;
/// The same of all subscriptions of a shard together (`storage` contract): at the limit new ones wait of those with
/// more than their share.
pub const SHARD_TROUBLE_MAX: usize = 1_000_000;
/// Events of one pull subscription locked at once; at the limit a receive finds nothing until some settle.
pub const LEASES_MAX: usize = 100_000;

/// How long a webhook has for its answer (service limit).
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read of a webhook's answer; the rest is dropped.
pub const RESPONSE_BYTES_MAX: usize = 64 << 10;
/// Addresses of one endpoint name that are tried.
pub const ADDRESSES_MAX: usize = 16;
/// `Retry-After` of an endpoint is believed up to here.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// A start that finds the newest record older than this may stand after a forward step of the wall clock, which
/// cannot be told from downtime. Far above a restart, and the shortest time to live there is.
pub const TIME_GAP_MAX: Duration = Duration::from_secs(60);
/// How long nothing expires then: long enough for an operator to see the line in the log, and for receivers to
/// fetch what a wrong clock would have taken from them.
pub const EXPIRY_HOLD: Duration = Duration::from_secs(600);
