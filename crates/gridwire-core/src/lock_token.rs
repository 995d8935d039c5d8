//! Lock tokens: opaque to clients, authenticated, and sufficient for any broker to find the lease.
//!
//! 41 bytes as URL-safe base64 without padding (55 characters): version 1, subscription, offset, delivery
//! number, nonce of the lease, and the first 16 bytes of an HMAC-SHA256 over all of that under a key of the
//! data directory. A token says which lease it belongs to; whether that lease is still current is for the
//! shard to say.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::ids::{Offset, SubscriptionNumber};

const VERSION: u8 = 1;
const BODY: usize = 1 + 4 + 8 + 4 + 8;
const TAG: usize = 16;
/// Characters of a token.
const TEXT: usize = (BODY + TAG).div_ceil(3) * 4 - (3 - (BODY + TAG) % 3) % 3;

/// What a token names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LockToken {
    pub subscription: SubscriptionNumber,
    pub offset: Offset,
    pub delivery: u32,
    pub nonce: u64,
}

/// Seals and opens lock tokens; one per data directory.
#[derive(Debug)]
pub struct LockTokens {
    key: hmac::Key,
}

impl LockTokens {
    /// `secret` must not change while locks live: it is kept in the data directory.
    pub fn new(secret: &[u8; 32]) -> Self {
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    pub fn seal(&self, token: LockToken) -> String {
        let mut text = Vec::with_capacity(TEXT);
        self.seal_into(token, &mut text);
        text.into_iter().map(char::from).collect()
    }

    /// Appends the text of [`LockTokens::seal`], which needs no escapes in JSON.
    pub fn seal_into(&self, token: LockToken, out: &mut Vec<u8>) {
        let mut bytes = [0u8; BODY + TAG];
        bytes[0] = VERSION;
        bytes[1..5].copy_from_slice(&token.subscription.0.to_le_bytes());
        bytes[5..13].copy_from_slice(&token.offset.0.to_le_bytes());
        bytes[13..17].copy_from_slice(&token.delivery.to_le_bytes());
        bytes[17..25].copy_from_slice(&token.nonce.to_le_bytes());
        let tag = hmac::sign(&self.key, &bytes[..BODY]);
        bytes[BODY..].copy_from_slice(&tag.as_ref()[..TAG]);
        let start = out.len();
        out.resize(start + TEXT, 0);
        URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..]).expect("the room was made to measure");
    }

    /// `None` for anything that [`LockTokens::seal`] did not make with this secret.
    pub fn open(&self, text: &str) -> Option<LockToken> {
        let mut bytes = [0u8; BODY + TAG];
        // The exact length first: decoding must not be made to work on a long text.
        if text.len() != TEXT {
            return None;
        }
        let len = URL_SAFE_NO_PAD.decode_slice(text, &mut bytes).ok()?;
        if len != bytes.len() || bytes[0] != VERSION {
            return None;
        }
        let tag = hmac::sign(&self.key, &bytes[..BODY]);
        if !bool::from(tag.as_ref()[..TAG].ct_eq(&bytes[BODY..])) {
            return None;
        }
        Some(LockToken {
            subscription: SubscriptionNumber(u32::from_le_bytes(bytes[1..5].try_into().ok()?)),
            offset: Offset(u64::from_le_bytes(bytes[5..13].try_into().ok()?)),
            delivery: u32::from_le_bytes(bytes[13..17].try_into().ok()?),
            nonce: u64::from_le_bytes(bytes[17..25].try_into().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens() -> (LockTokens, LockToken) {
        let token = LockToken {
            subscription: SubscriptionNumber(7),
            offset: Offset(1 << 40),
            delivery: 3,
            nonce: 99,
        };
        (LockTokens::new(&[1; 32]), token)
    }

    #[test]
    fn a_token_survives_the_way_to_the_client_and_back() {
        let (tokens, token) = tokens();
        let sealed = tokens.seal(token);
        assert_eq!((sealed.len(), tokens.open(&sealed)), (TEXT, Some(token)));
    }

    #[test]
    fn no_changed_token_is_believed() {
        let (tokens, token) = tokens();
        let sealed = tokens.seal(token);
        for position in 0..sealed.len() {
            let mut changed = sealed.clone().into_bytes();
            changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert_eq!(tokens.open(&changed), None, "position {position}");
        }
        assert_eq!(LockTokens::new(&[2; 32]).open(&sealed), None);
        for text in ["", "abc", &sealed[1..], &format!("{sealed}A")] {
            assert_eq!(tokens.open(text), None);
        }
    }
}
