//! The bounds of the control plane's own input, each with the reason for its value. What bounds events and
//! subscriptions in general is in `gridwire_core::limits`.

use std::ops::RangeInclusive;
use std::time::Duration;

/// Page sizes of a list, and the one used when `$top` is absent (service limits).
pub(crate) const TOP: RangeInclusive<i64> = 1..=100;
pub(crate) const TOP_DEFAULT: usize = 20;
/// Bytes and nesting of a `$filter`: far above any sensible one, small enough to parse by recursion.
pub(crate) const NAME_FILTER_BYTES_MAX: usize = 2048;
pub(crate) const NAME_FILTER_DEPTH_MAX: usize = 16;
/// Bytes of a request target (`reliability` contract section 3.1).
pub(crate) const TARGET_BYTES_MAX: usize = 8 << 10;
/// Bytes of a correlation or client request id that is given back; a GUID has 36.
pub(crate) const REQUEST_ID_BYTES_MAX: usize = 128;

/// Tags of a resource, and the bytes of their names and values (Resource Manager's limits).
pub(crate) const TAGS_MAX: usize = 50;
pub(crate) const TAG_NAME_BYTES_MAX: usize = 512;
pub(crate) const TAG_VALUE_BYTES_MAX: usize = 256;
/// Characters of a resource group's name (Resource Manager's limit) and of a location.
pub(crate) const RESOURCE_GROUP_CHARS_MAX: usize = 90;
pub(crate) const LOCATION_CHARS_MAX: usize = 64;

/// Bytes of a webhook's URL: room for long secrets in the query, still one header line for any proxy.
pub(crate) const ENDPOINT_URL_BYTES_MAX: usize = 4096;
/// Bytes of a certificate bundle or key in PEM, and certificates of a bundle: a chain has two to four, and a company's
/// authorities are a dozen. Connections are set up with all of them.
pub(crate) const PEM_BYTES_MAX: usize = 64 << 10;
pub(crate) const CERTIFICATES_MAX: usize = 32;
/// Custom headers of one subscription, and bytes of a static value (service limits).
pub(crate) const DELIVERY_ATTRIBUTES_MAX: usize = 10;
pub(crate) const DELIVERY_ATTRIBUTE_BYTES_MAX: usize = 4096;
/// Bytes of a storage account's resource id; Resource Manager's own ids stay below.
pub(crate) const RESOURCE_ID_BYTES_MAX: usize = 1024;
/// Labels of a subscription and bytes of one: only for the user's own order, so generous but bounded.
pub(crate) const LABELS_MAX: usize = 100;
pub(crate) const LABEL_BYTES_MAX: usize = 256;

/// How long a custom topic keeps an undelivered event: its subscriptions' time to live ends there (service
/// limit).
pub(crate) const CUSTOM_TOPIC_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// Least time to live of a namespace subscription (service limit).
pub(crate) const TIME_TO_LIVE_MIN: Duration = Duration::from_secs(60);

/// How often a change is planned again because the resource changed during a webhook's handshake. A user's
/// tools do not race that often; one that does is told so with a 409.
pub(crate) const PLANS_MAX: usize = 3;
/// How long a client should wait when the store or the broker cannot take a change now.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);
/// At most one refused login in this time is written to the audit log, so that guessing cannot flood it.
pub(crate) const REFUSED_AUDIT_INTERVAL: Duration = Duration::from_secs(1);
/// Changes under way at once, each perhaps in a webhook's handshake; more are answered 503.
pub(crate) const CHANGES_MAX: usize = 256;
