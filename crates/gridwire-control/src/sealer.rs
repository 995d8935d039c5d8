//! Secrets at rest: sealed with an AEAD under a master key that the store never sees.
//!
//! A sealed text is `{key id}.{base64 of nonce and ciphertext}`. The key id tells which master key opens it, so
//! that a new master key can seal while an older one still opens. The place where a secret is kept is
//! authenticated with it: a sealed text copied to another resource or member does not open there.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use gridwire_outside::Rng;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{Context, SHA256};

/// Why a sealed text did not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the text is not a sealed secret")]
    Malformed,
    #[error("the secret is sealed under a master key that is not known here")]
    UnknownKey,
    #[error("the sealed secret was changed, or belongs to another place")]
    Broken,
}

/// Seals and opens secrets.
pub struct Sealer {
    /// The first seals; all open.
    keys: Vec<(String, LessSafeKey)>,
}

impl Sealer {
    pub fn new(master: [u8; 32]) -> Self {
        Self { keys: vec![key(&master)] }
    }

    /// Also opens what was sealed under an earlier master key.
    #[must_use]
    pub fn with_earlier(mut self, master: [u8; 32]) -> Self {
        self.keys.push(key(&master));
        self
    }

    /// Seals `secret` for `place`, e.g. a resource's key and the member's name.
    pub fn seal(&self, rng: &dyn Rng, place: &str, secret: &[u8]) -> String {
        let (id, key) = self.keys.first().expect("a sealer is made with a key");
        let mut nonce = [0; NONCE_LEN];
        rng.fill(&mut nonce);
        let mut sealed = secret.to_vec();
        key.seal_in_place_append_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(place.as_bytes()),
            &mut sealed,
        )
        .expect("a secret is far below the cipher's length limit");
        let mut bytes = nonce.to_vec();
        bytes.append(&mut sealed);
        format!("{id}.{}", STANDARD_NO_PAD.encode(bytes))
    }

    /// Opens what [`Sealer::seal`] made for the same `place`.
    pub fn open(&self, place: &str, sealed: &str) -> Result<Vec<u8>, SealError> {
        let (id, text) = sealed.split_once('.').ok_or(SealError::Malformed)?;
        let bytes = STANDARD_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_LEN>().ok_or(SealError::Malformed)?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == id).ok_or(SealError::UnknownKey)?;
        let mut opened = ciphertext.to_vec();
        let length = key
            .open_in_place(Nonce::assume_unique_for_key(*nonce), Aad::from(place.as_bytes()), &mut opened)
            .map_err(|_| SealError::Broken)?
            .len();
        opened.truncate(length);
        Ok(opened)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer(***)")
    }
}

fn key(master: &[u8; 32]) -> (String, LessSafeKey) {
    // The id is a digest of the key under a label of its own: it tells keys apart and says nothing about them.
    let mut context = Context::new(&SHA256);
    context.update(b"gridwire master key id");
    context.update(master);
    let digest = context.finish();
    let (id, _) = digest.as_ref().split_first_chunk().expect("a SHA-256 digest has 32 bytes");
    let id = format!("{:08x}", u32::from_be_bytes(*id));
    let key = UnboundKey::new(&CHACHA20_POLY1305, master).expect("the key has the cipher's length");
    (id, LessSafeKey::new(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestRng;

    #[test]
    fn a_secret_opens_only_in_its_place_and_under_its_key() {
        let rng = TestRng;
        let old = Sealer::new([1; 32]);
        let sealed = old.seal(&rng, "a/key1", b"secret");
        assert!(!sealed.contains("secret"));
        assert_eq!(old.open("a/key1", &sealed).as_deref(), Ok(&b"secret"[..]));
        assert_eq!(old.open("a/key2", &sealed), Err(SealError::Broken));
        assert_eq!(Sealer::new([2; 32]).open("a/key1", &sealed), Err(SealError::UnknownKey));
        let new = Sealer::new([2; 32]).with_earlier([1; 32]);
        assert_eq!(new.open("a/key1", &sealed).as_deref(), Ok(&b"secret"[..]));
        assert!(!new.seal(&rng, "a/key1", b"secret").starts_with(sealed.split('.').next().unwrap()));
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_text() {
        let rng = TestRng;
        let sealer = Sealer::new([1; 32]);
        assert_ne!(sealer.seal(&rng, "a", b"x"), sealer.seal(&rng, "a", b"x"));
    }

    #[test]
    fn a_changed_or_foreign_text_does_not_open() {
        let rng = TestRng;
        let sealer = Sealer::new([1; 32]);
        let good = sealer.seal(&rng, "a", b"secret");
        let id = good.split('.').next().unwrap();
        for (text, error) in [
            (String::new(), SealError::Malformed),
            ("plain".into(), SealError::Malformed),
            (format!("{id}.AAAA"), SealError::Malformed),
            (format!("{id}.!"), SealError::Malformed),
            (format!("{}A", &good[..good.len() - 1]), SealError::Broken),
        ] {
            if text != good {
                assert_eq!(sealer.open("a", &text), Err(error), "{text}");
            }
        }
    }
}
