//! The requests we send, and what may stand in their headers.
//!
//! Header values come from publishers (an event's id) and subscription owners (names), so none is trusted:
//! what could end a header or the request is rewritten, and a value out of bounds is left out rather than
//! failing the delivery for ever.

use std::borrow::Cow;
use std::fmt::Write;

use bytes::Bytes;
use gridwire_core::signing::Signed;
use http::header::{CONTENT_TYPE, HOST, ORIGIN, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use http_body_util::Full;

use super::endpoint::Endpoint;

/// The name of the header that says who would like to post, and then who posts.
pub(crate) const REQUEST_ORIGIN: HeaderName = HeaderName::from_static("webhook-request-origin");

/// Longest header value; twice what a context attribute can be, and what common servers take.
const VALUE_BYTES_MAX: usize = 8 << 10;

pub(crate) type Outgoing = Request<Full<Bytes>>;

/// Writes `POST` with a body.
pub(crate) fn post(
    host: &HeaderValue,
    target: &PathAndQuery,
    content_type: &'static str,
    body: Bytes,
) -> Outgoing {
    let mut request = request(Method::POST, host, target, body);
    request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    request
}

/// Writes the `OPTIONS` that asks for consent.
pub(crate) fn options(endpoint: &Endpoint, origin: &HeaderValue) -> Outgoing {
    let host = endpoint.key.host_header();
    let mut request = request(Method::OPTIONS, &host, &endpoint.path_and_query, Bytes::new());
    request.headers_mut().insert(REQUEST_ORIGIN, origin.clone());
    request
}

fn request(method: Method, host: &HeaderValue, target: &PathAndQuery, body: Bytes) -> Outgoing {
    let mut request = Request::new(Full::new(body));
    *request.method_mut() = method;
    *request.uri_mut() = target.clone().into();
    let headers = request.headers_mut();
    headers.reserve(16); // All that a delivery carries, without growing on the way.
    headers.insert(HOST, host.clone());
    // Many a firewall turns nameless clients away.
    headers.insert(USER_AGENT, HeaderValue::from_static("gridwire"));
    request
}

/// Says who posts. Once an endpoint has consented, each delivery repeats the name it consented to: the
/// service's documents call the header `Origin`, the specification `WebHook-Request-Origin`.
pub(crate) fn sign_origin(headers: &mut HeaderMap, origin: &HeaderValue) {
    headers.insert(ORIGIN, origin.clone());
    headers.insert(REQUEST_ORIGIN, origin.clone());
}

/// Adds the signature of a delivery.
pub(crate) fn add_signature(headers: &mut HeaderMap, id: &str, signed: &Signed) {
    add_header(headers, "webhook-id", id);
    add_header(headers, "webhook-timestamp", signed.timestamp.as_str());
    add_header(headers, "webhook-signature", signed.signature.as_str());
}

/// Adds a header whose value is somebody else's text, and whose name too unless it is borrowed: then it is ours, in
/// lower case. An impossible name, one that belongs to the request itself, or a value that is too long is left out.
pub(crate) fn add_header(
    headers: &mut HeaderMap,
    name: impl Into<Cow<'static, str>>,
    value: impl Into<String>,
) {
    let name = match name.into() {
        Cow::Borrowed(ours) => Ok(HeaderName::from_static(ours)),
        Cow::Owned(theirs) => HeaderName::from_bytes(theirs.as_bytes()),
    };
    if let (Ok(name), Some(value)) = (name, header_value(value))
        && !frames_the_request(&name)
    {
        headers.insert(name, value);
    }
}

/// What decides where a request ends and who takes it is ours alone.
fn frames_the_request(name: &HeaderName) -> bool {
    matches!(name.as_str(), "host" | "connection" | "content-length" | "transfer-encoding" | "upgrade" | "te")
}

/// Everything but printable ASCII is percent-encoded, so that no text can end the header it stands in.
pub(crate) fn header_value(text: impl Into<String>) -> Option<HeaderValue> {
    let text = text.into();
    if VALUE_BYTES_MAX < text.len() {
        return None;
    }
    if text.bytes().all(is_plain) {
        return HeaderValue::try_from(text).ok();
    }
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if is_plain(byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes everything");
        }
    }
    HeaderValue::try_from(encoded).ok()
}

fn is_plain(byte: u8) -> bool {
    (b' '..=b'~').contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, sent: Option<&str>) {
        let value = header_value(text);
        assert_eq!(value.as_ref().map(|value| value.to_str().expect("ASCII")), sent, "{text:?}");
    }

    #[test]
    fn no_text_ends_the_header_it_stands_in() {
        check("b06f9a3e-1", Some("b06f9a3e-1"));
        check("two words, 100%", Some("two words, 100%"));
        check("", Some(""));
        check("a\r\nHost: other", Some("a%0D%0AHost: other"));
        check("nul\0 tab\t del\x7f", Some("nul%00 tab%09 del%7F"));
        check("naïve", Some("na%C3%AFve"));
        check(&"a".repeat(VALUE_BYTES_MAX), Some(&"a".repeat(VALUE_BYTES_MAX)));
        check(&"a".repeat(VALUE_BYTES_MAX + 1), None);
    }

    #[test]
    fn a_header_that_cannot_be_sent_is_left_out() {
        let mut headers = HeaderMap::new();
        for name in ["", "a b", "a:b", "a\r\nb", "naïve", "Host", "content-length", "Transfer-Encoding"] {
            add_header(&mut headers, name.to_owned(), "x");
        }
        assert!(headers.is_empty(), "{headers:?}");
        add_header(&mut headers, "aeg-event-type", "Notification");
        add_header(&mut headers, "X-Custom".to_owned(), "1");
        assert_eq!(headers.len(), 2);
    }
}
