//! Percent-encoding, strict on the way in and complete on the way out.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// What the `CloudEvents` HTTP binding encodes in a header value: space, double quote, percent sign, and
/// whatever is not printable ASCII.
const HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');

/// Everything but the characters that RFC 3986 calls unreserved.
const COMPONENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Decodes `text`; `None` when a `%` is not followed by two hexadecimal digits or the result is not UTF-8.
pub(crate) fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !escapes_are_whole(text) {
        return None;
    }
    percent_decode_str(text).decode_utf8().ok()
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(crate) fn escapes_are_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    memchr::memchr_iter(b'%', bytes).all(|at| {
        bytes.get(at + 1).is_some_and(u8::is_ascii_hexdigit)
            && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit)
    })
}

/// `text` as a header value: printable ASCII without spaces, so no CR, LF or NUL.
pub(crate) fn header_value(text: &str) -> String {
    utf8_percent_encode(text, HEADER).to_string()
}

/// `text` as part of a query, a form or a fragment.
pub(crate) fn component(text: &str) -> String {
    utf8_percent_encode(text, COMPONENT).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_takes_whole_escapes_of_utf_8_only() {
        for (text, expected) in [
            ("a", Some("a")),
            ("a%20b+c", Some("a b+c")),
            ("%e2%82%AC", Some("€")),
            ("€", Some("€")),
            ("", Some("")),
        ] {
            assert_eq!(decode(text).as_deref(), expected, "{text}");
        }
        for text in ["%", "%2", "a%zz", "%+1", "%ff", "%e2%82"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_header_value_is_printable_ascii_and_decodes_to_what_it_was() {
        for text in ["", "plain", "a\r\nb\0c", "50% \"off\"", "Euro € 😀", "tab\there", "\u{7f}\u{85}"] {
            let encoded = header_value(text);
            assert!(encoded.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{encoded}");
            assert_eq!(decode(&encoded).as_deref(), Some(text));
        }
    }
}
