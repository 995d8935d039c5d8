//! A webhook's certificates in a file, against what a GET shows of them.
//!
//! A GET shows fingerprints, so it is by these that a certificate in the file is known to be the one that is there. Its
//! key cannot be looked at, and need not be: a key belongs to its certificate, and only a pair that fits was ever taken.

use std::fmt::Write as _;

use ring::digest::{SHA256, digest};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Map, Value};

/// What a GET has instead of the certificates.
const SHOWN: &str = "tls";
const CERTIFICATES: [&str; 2] = ["caCertificates", "clientCertificate"];
/// Whose certificate is the second of those.
const KEY: &str = "clientKey";

/// Puts into the properties of a destination as it is the certificates of the `wanted` one that it has already.
pub(super) fn recognise(wanted: &Map<String, Value>, current: &mut Map<String, Value>) {
    let Some(Value::Object(mut shown)) = current.remove(SHOWN) else { return };
    for name in CERTIFICATES {
        let same = wanted.get(name).and_then(Value::as_str).and_then(fingerprints).is_some_and(|wanted| {
            let list = shown.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            list.iter().map(|one| one["sha256"].as_str()).eq(wanted.iter().map(|one| Some(one.as_str())))
        });
        if same {
            shown.remove(name);
            for name in [Some(name), (name == CERTIFICATES[1]).then_some(KEY)].into_iter().flatten() {
                if let Some(text) = wanted.get(name) {
                    current.insert(name.to_owned(), text.clone());
                }
            }
        }
    }
    // What is left is not wanted, or not so.
    if !shown.is_empty() {
        current.insert(SHOWN.to_owned(), shown.into());
    }
}

/// The SHA-256 of each certificate of a PEM text, as the server writes it; `None` when it is no such text.
fn fingerprints(pem: &str) -> Option<Vec<String>> {
    let certificates = CertificateDer::pem_slice_iter(pem.as_bytes());
    certificates.map(|certificate| certificate.ok().map(|der| hex(digest(&SHA256, &der).as_ref()))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    use super::*;

    fn certificate() -> String {
        let key = KeyPair::generate().unwrap();
        CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem()
    }

    fn shown(pem: &str) -> Value {
        let list = fingerprints(pem).unwrap();
        list.into_iter()
            .map(|sha256| json!({ "sha256": sha256, "notAfter": "2049-01-01T00:00:00Z" }))
            .collect()
    }

    fn check(wanted: &Value, current: Value, expected: &Value) {
        let Value::Object(mut current) = current else { panic!("an object") };
        recognise(wanted.as_object().unwrap(), &mut current);
        assert_eq!(&Value::Object(current), expected);
    }

    #[test]
    fn certificates_are_known_by_their_fingerprints_and_keys_by_their_certificates() {
        let (one, other) = (certificate(), certificate());
        let both = format!("{one}{other}");
        let wanted = json!({ "caCertificates": both, "clientCertificate": one, "clientKey": "k" });
        let tls = |authorities: &str, client: &str| json!({ "tls": { "caCertificates": shown(authorities), "clientCertificate": shown(client) } });
        check(&wanted, tls(&both, &one), &wanted);
        // Others, fewer, and in another order.
        check(&wanted, tls(&one, &other), &tls(&one, &other));
        check(&wanted, tls(&format!("{other}{one}"), &other), &tls(&format!("{other}{one}"), &other));
        let half = json!({ "caCertificates": both, "tls": { "clientCertificate": shown(&other) } });
        check(&wanted, tls(&both, &other), &half);
        check(&json!({}), tls(&both, &one), &tls(&both, &one));
        check(&json!({ "caCertificates": "x" }), tls(&one, &one), &tls(&one, &one));
        check(&wanted, json!({ "a": 1 }), &json!({ "a": 1 }));
    }
}
