//! Shared access signatures: tokens that a holder of an access key makes for others (`publish` contract 7.1).
//!
//! `r={resource}&e={expiry}&s={signature}`, each part percent-encoded. The signature covers the text before
//! `&s=` exactly as it was sent, for clients encode differently and none of them can be told so by us.

mod expiry;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use subtle::{Choice, ConstantTimeEq};

use crate::percent;
use crate::routing::AccessKey;
use crate::time::Timestamp;

/// How far a client's clock may be ahead of ours, in milliseconds.
const LEEWAY_MILLIS: u64 = 60_000;
/// Longer tokens are not looked at. The longest real one is a resource of some hundred bytes, encoded.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// Bytes of an HMAC-SHA256.
const SIGNATURE_BYTES: usize = 32;

/// Why a token is not accepted. For the log: a client is told 400 with the documented text for
/// [`SasError::Malformed`], and for all the others one and the same 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SasError {
    #[error("the token is not `r=…&e=…&s=…`")]
    Malformed,
    #[error("the token's signature is not 32 bytes of base64")]
    SignatureForm,
    #[error("the token's signature fits neither key")]
    WrongSignature,
    #[error("the token's expiry is in none of the accepted forms")]
    ExpiryForm,
    #[error("the token has expired")]
    Expired,
    #[error("the token is for another resource")]
    OtherResource,
}

/// Judges `token` for a request to `target_path` (no query) of `target_host` (as in `Host`, port included).
///
/// Both keys are always tried, and nothing the token says is believed before its signature fits one.
pub fn verify(
    token: &str,
    keys: &[AccessKey; 2],
    target_host: &str,
    target_path: &str,
    now: Timestamp,
) -> Result<(), SasError> {
    let parts = Parts::split(token).ok_or(SasError::Malformed)?;
    let signature = STANDARD.decode(parts.signature.as_bytes()).map_err(|_| SasError::SignatureForm)?;
    if signature.len() != SIGNATURE_BYTES {
        return Err(SasError::SignatureForm);
    }
    let fits = keys.iter().fold(Choice::from(0), |fits, key| {
        fits | sign_bytes(parts.signed, key).as_ref().ct_eq(signature.as_slice())
    });
    if !bool::from(fits) {
        return Err(SasError::WrongSignature);
    }
    let expiry = expiry::parse(&parts.expiry).ok_or(SasError::ExpiryForm)?;
    if now.as_millis() > expiry.as_millis().saturating_add(LEEWAY_MILLIS) {
        return Err(SasError::Expired);
    }
    if !covers(&parts.resource, target_host, target_path) {
        return Err(SasError::OtherResource);
    }
    Ok(())
}

/// Makes a token for `resource` (a URL) that ends at `expiry`, a text in one of the accepted forms.
pub fn sign(resource: &str, expiry: &str, key: &AccessKey) -> String {
    let signed = format!("r={}&e={}", percent::component(resource), percent::component(expiry));
    let signature = STANDARD.encode(sign_bytes(&signed, key));
    format!("{signed}&s={}", percent::component(&signature))
}

/// A key that is not base64 counts by its characters, so that it still makes and checks tokens.
fn sign_bytes(text: &str, key: &AccessKey) -> hmac::Tag {
    let bytes = STANDARD.decode(key.reveal()).unwrap_or_else(|_| key.reveal().as_bytes().to_vec());
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &bytes), text.as_bytes())
}

/// A token, taken apart. Only the signature ends it; resource and expiry may change places.
struct Parts<'a> {
    signed: &'a str,
    resource: String,
    expiry: String,
    signature: String,
}

impl<'a> Parts<'a> {
    /// `None` when a field is missing, repeated or unknown, or is not percent-encoded UTF-8.
    fn split(token: &'a str) -> Option<Self> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let (signed, signature) = token.split_once("&s=")?;
        let (mut resource, mut expiry) = (None, None);
        for field in signed.split('&') {
            let (name, value) = field.split_once('=')?;
            let slot = match name {
                "r" => &mut resource,
                "e" => &mut expiry,
                _ => return None,
            };
            if slot.replace(percent::decode(value)?.into_owned()).is_some() {
                return None;
            }
        }
        if signature.contains('&') {
            return None;
        }
        let signature = percent::decode(signature)?.into_owned();
        Some(Self { signed, resource: resource?, expiry: expiry?, signature })
    }
}

/// Whether `resource`, a URL whose query does not count, is the target or above it.
fn covers(resource: &str, target_host: &str, target_path: &str) -> bool {
    let Some((scheme, rest)) = resource.split_once("://") else { return false };
    let default_port = if scheme.eq_ignore_ascii_case("https") {
        ":443"
    } else if scheme.eq_ignore_ascii_case("http") {
        ":80"
    } else {
        return false;
    };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let bare = |host: &str| host.strip_suffix(default_port).unwrap_or(host).to_ascii_lowercase();
    if host.is_empty() || bare(host) != bare(target_host) {
        return false;
    }
    match target_path.strip_prefix(path.trim_end_matches('/')) {
        // A namespace's operation follows the topic or subscription it is about: `topics/orders:publish`.
        Some(below) => below.is_empty() || below.starts_with(['/', ':']),
        None => false,
    }
}

#[cfg(test)]
mod tests;
