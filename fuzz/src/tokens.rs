//! Shared access signatures and lock tokens.

use gridwire_core::lock_token::LockTokens;
use gridwire_core::routing::AccessKey;
use gridwire_core::sas;
use gridwire_core::time::Timestamp;

/// A token to be judged; or, after a NUL, an expiry to be signed and judged.
pub fn sas(data: &[u8]) {
    let keys = [AccessKey::new("Zmlyc3Qga2V5"), AccessKey::new("c2Vjb25kIGtleQ==")];
    let Ok(text) = std::str::from_utf8(data) else { return };
    let judge = |token: &str, at| sas::verify(token, &keys, "h", "/api/events", Timestamp::from_millis(at));
    match text.split_once('\0') {
        // Nobody guesses a signature.
        None => assert!(judge(text, 0).is_err()),
        Some((resource, expiry)) => {
            let token = sas::sign(resource, expiry, &keys[1]);
            if judge(&token, 0).is_ok() {
                assert!(judge(&token, u64::MAX).is_err(), "every token ends");
                assert!(judge(&token.replace("&s=", "x&s="), 0).is_err(), "what is signed can't be changed");
            }
        }
    }
}

pub fn lock_token(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let tokens = LockTokens::new(&[7; 32]);
    if let Some(token) = tokens.open(text) {
        assert_eq!(tokens.seal(token), text, "one token has one form");
    }
}
