//! Values as they are written: each function takes the text of one, and `None` is that it is not allowed.

use std::path::PathBuf;
use std::time::Duration;

use crate::client::Base;

pub(super) fn switch(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// Empty means none.
pub(super) fn path(text: &str) -> Option<PathBuf> {
    (!text.is_empty()).then(|| PathBuf::from(text))
}

#[expect(clippy::option_option, reason = "the outer is whether the text is allowed, the inner the value")]
pub(super) fn domain(text: &str) -> Option<Option<String>> {
    if text.is_empty() {
        return Some(None);
    }
    (is_name(text) && !text.starts_with('*')).then(|| Some(text.to_ascii_lowercase()))
}

/// The base URL of a listener with this scheme.
#[expect(clippy::option_option, reason = "the outer is whether the text is allowed, the inner the value")]
pub(super) fn public(text: &str, tls: bool) -> Option<Option<Base>> {
    if text.is_empty() {
        return Some(None);
    }
    text.parse::<Base>().ok().filter(|base| base.tls == tls).map(Some)
}

pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

/// `10.0.0.0/8`, `fd00::/8`, or one address.
pub(super) fn is_network(text: &str) -> bool {
    let (address, prefix) =
        text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
    let Ok(address) = address.parse::<std::net::IpAddr>() else { return false };
    let bits: u8 = if address.is_ipv4() { 32 } else { 128 };
    prefix.is_none_or(|prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits))
}

/// A DNS name, perhaps with a leading `*.`, or an IP address.
pub(super) fn is_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let name = text.strip_prefix("*.").unwrap_or(text);
    text.parse::<std::net::IpAddr>().is_ok() || (name.len() <= 253 && name.split('.').all(label))
}

/// `500ms`, `10s`, `2m`, `4h`; at most a day.
pub(super) fn duration(text: &str) -> Option<Duration> {
    week(text).filter(|duration| *duration <= Duration::from_secs(24 * 3600))
}

/// The same, at most a week: longer than that no event is kept.
pub(super) fn week(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let millis = match unit {
        "ms" => number,
        "s" => number.checked_mul(1000)?,
        "m" => number.checked_mul(60_000)?,
        "h" => number.checked_mul(3_600_000)?,
        _ => return None,
    };
    (millis <= 7 * 24 * 3_600_000).then(|| Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expect) in [
            ("500ms", Some(500)),
            ("2m", Some(120_000)),
            ("25h", None),
            ("10", None),
            ("99999h", None),
            ("", None),
        ] {
            assert_eq!(duration(text).map(|duration| duration.as_millis()), expect, "{text}");
        }
        assert_eq!([week("168h"), week("169h")], [Some(Duration::from_secs(7 * 86_400)), None]);
    }
}
