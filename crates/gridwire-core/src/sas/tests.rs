//! Which tokens open which targets.

use super::*;

const HOST: &str = "orders.example:8443";
const PATH: &str = "/sub/rg/topics/orders/api/events";
const EXPIRY: &str = "11/23/2026 8:19:38 PM";

fn keys() -> [AccessKey; 2] {
    [AccessKey::new(STANDARD.encode([1; 32])), AccessKey::new(STANDARD.encode([2; 32]))]
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse_rfc3339(text).unwrap()
}

#[track_caller]
fn check(token: &str, expected: Result<(), SasError>) {
    assert_eq!(verify(token, &keys(), HOST, PATH, at("2026-11-23T20:00:00Z")), expected, "{token}");
}

/// A token over exactly this text.
fn signed(text: &str) -> String {
    let signature = STANDARD.encode(sign_bytes(text, &keys()[0]));
    format!("{text}&s={}", percent::component(&signature))
}

#[test]
fn either_key_makes_a_token() {
    let [first, second] = keys();
    let resource = format!("https://{HOST}{PATH}?apiVersion=2018-01-01");
    check(&sign(&resource, EXPIRY, &first), Ok(()));
    check(&sign(&resource, EXPIRY, &second), Ok(()));
    check(&sign(&resource, EXPIRY, &AccessKey::new(STANDARD.encode([3; 32]))), Err(SasError::WrongSignature));
    let plain = [AccessKey::new("not base64!"), AccessKey::new("*")];
    let token = sign(&resource, EXPIRY, &plain[1]);
    assert_eq!(verify(&token, &plain, HOST, PATH, Timestamp::ZERO), Ok(()));
}

#[test]
fn a_known_token_has_the_known_signature() {
    // Computed with another implementation of HMAC-SHA256.
    let token = sign("https://h/api/events", "2026-01-02 03:04:05+00:00", &keys()[0]);
    assert_eq!(
        token,
        "r=https%3A%2F%2Fh%2Fapi%2Fevents&e=2026-01-02%2003%3A04%3A05%2B00%3A00&s=N0qBB54K1AcwCvxEeW42iJr%2FAwtKKGNFz%2BNboudlf1Q%3D"
    );
}

#[test]
fn the_signature_covers_the_text_as_it_was_sent() {
    let lower = format!("r=https%3a%2f%2forders.example%3a8443{PATH}&e=11%2f23%2f2026+8%3a19%3a38+PM");
    check(&signed(&lower), Ok(()));
    let reencoded = signed(&lower).replace("%3a", "%3A");
    check(&reencoded, Err(SasError::WrongSignature));
    check(&signed(&format!("e=2026-11-23T21:00:00Z&r=https://{HOST}{PATH}")), Ok(()));
    check(&signed(&format!("r=https://{HOST}{PATH}&e=2026-11-23+21:00:00%2b00:00")), Ok(()));
    let raw_signature = format!("r=https://{HOST}{PATH}&e=2026-11-23T21:00:00Z");
    let base64 = STANDARD.encode(sign_bytes(&raw_signature, &keys()[1]));
    check(&format!("{raw_signature}&s={base64}"), Ok(()));
}

#[test]
fn a_token_of_another_form_is_malformed() {
    let r = format!("r=https%3A%2F%2F{HOST}{PATH}");
    let e = "e=2026-11-23T21%3A00%3A00Z";
    let s = "s=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for token in [
        String::new(),
        "&".to_owned(),
        "r".to_owned(),
        "r=&e=&s".to_owned(),
        r.clone(),
        format!("{r}&{e}"),
        format!("{r}&{s}"),
        format!("{e}&{s}"),
        format!("{s}&{r}&{e}"),
        format!("{r}&{r}&{e}&{s}"),
        format!("{r}&{e}&{e}&{s}"),
        format!("{r}&{e}&{s}&{s}"),
        format!("{r}&{e}&skn=RootKey&{s}"),
        format!("{r}&{e}&{s}&x=1"),
        format!("{r}&{e}&&{s}"),
        format!("R=1&{e}&{s}"),
        format!("{r}%&{e}&{s}"),
        format!("{r}%ff&{e}&{s}"),
        format!("{r}&{e}%4&{s}"),
        format!("{r}&{e}&{s}%zz"),
        format!("{r}&{e}{}&{s}", "0".repeat(TOKEN_BYTES_MAX)),
    ] {
        check(&token, Err(SasError::Malformed));
    }
}

#[test]
fn a_signature_is_32_bytes_of_base64() {
    let text = format!("r=https://{HOST}{PATH}&e=2026-11-23T21:00:00Z");
    for signature in
        ["", "AAAA", "!", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", &STANDARD.encode([0; 33])]
    {
        check(&format!("{text}&s={signature}"), Err(SasError::SignatureForm));
    }
    check(&format!("{text}&s={}", STANDARD.encode([0; 32])), Err(SasError::WrongSignature));
}

#[test]
fn the_expiry_is_believed_only_under_a_good_signature() {
    let resource = format!("https://{HOST}{PATH}");
    let [key, _] = keys();
    for (expiry, expected) in [
        ("2026-11-23T20:00:00Z", Ok(())),
        ("2026-11-23T19:59:00Z", Ok(())),
        ("2026-11-23T19:58:59Z", Err(SasError::Expired)),
        ("11/23/2026 7:59:30 PM", Ok(())),
        ("11/23/2026 7:58:30 PM", Err(SasError::Expired)),
        ("2026-11-23 20:00:00.123456+00:00", Ok(())),
        ("", Err(SasError::ExpiryForm)),
        ("tomorrow", Err(SasError::ExpiryForm)),
        ("9999-12-31T23:59:59Z", Ok(())),
    ] {
        check(&sign(&resource, expiry, &key), expected);
        check(&sign(&resource, expiry, &AccessKey::new("other")), Err(SasError::WrongSignature));
    }
}

#[test]
fn a_resource_is_the_target_or_above_it() {
    let [key, _] = keys();
    let other = Err(SasError::OtherResource);
    for (resource, host, path, expected) in [
        ("https://h/a/b", "h", "/a/b", Ok(())),
        ("https://h/a/b/", "h", "/a/b", Ok(())),
        ("https://h/a/b?api-version=2018-01-01", "h", "/a/b", Ok(())),
        ("https://h/a#x", "h", "/a", Ok(())),
        ("https://h/a", "h", "/a/b", Ok(())),
        ("https://h", "h", "/a/b", Ok(())),
        ("https://h/", "h", "/a/b", Ok(())),
        ("HTTPS://H:443/a", "h", "/a", Ok(())),
        ("https://h/a", "H:443", "/a", Ok(())),
        ("http://h:80/a", "h", "/a", Ok(())),
        ("http://h:8080/a", "h:8080", "/a", Ok(())),
        ("https://[::1]:8443/a", "[::1]:8443", "/a", Ok(())),
        ("https://h/n/topics/t", "h", "/n/topics/t:publish", Ok(())),
        ("https://h/n/topics/t:publish", "h", "/n/topics/t:publish", Ok(())),
        ("https://h/topics/t", "h", "/topics/t/eventsubscriptions/s:receive", Ok(())),
        ("https://h/topics/t/eventsubscriptions/s", "h", "/topics/t/eventsubscriptions/s:receive", Ok(())),
        ("https://h/topics/t:publish", "h", "/topics/t/eventsubscriptions/s:receive", other),
        ("https://h/topics/t/eventsubscriptions/s", "h", "/topics/t:publish", other),
        ("https://h/topics/t", "h", "/topics/tt:publish", other),
        ("https://h/a", "h", "/ab", other),
        ("https://h/ab", "h", "/a", other),
        ("https://h/a/b", "h", "/a", other),
        ("https://h/A", "h", "/a", other),
        ("https://g/a", "h", "/a", other),
        ("https://h:8443/a", "h", "/a", other),
        ("https://h:80/a", "h", "/a", other),
        ("http://h:443/a", "h", "/a", other),
        ("https://u@h/a", "h", "/a", other),
        ("https://h.evil/a", "h", "/a", other),
        ("https://?/a", "h", "/a", other),
        ("https:///a", "", "/a", other),
        ("ftp://h/a", "h", "/a", other),
        ("h/a", "h", "/a", other),
        ("/a", "h", "/a", other),
        ("", "h", "/a", other),
        ("*", "h", "/a", other),
    ] {
        let token = sign(resource, EXPIRY, &key);
        assert_eq!(
            verify(&token, &keys(), host, path, Timestamp::ZERO),
            expected,
            "{resource} for {host}{path}"
        );
    }
}
