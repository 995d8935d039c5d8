//! Whom the connections of one webhook believe, and who they say they are.
//!
//! An identity is what was configured, checked and turned into DER; two that say the same are equal, and connections
//! may be shared exactly by those. Compared and printed by its fingerprint, so that no key gets into a log.

use std::fmt;
use std::hash::{Hash, Hasher};

use ring::digest::{Context, SHA256};

/// Certificates of authorities and a client's certificate. At least one of the two.
#[derive(Clone)]
pub struct TlsIdentity {
    /// Believed instead of those that the server believes; empty for the server's own.
    authorities: Vec<Vec<u8>>,
    client: Option<ClientCertificate>,
    fingerprint: [u8; 32],
}

/// What we show an endpoint that asks who we are.
#[derive(Clone)]
pub struct ClientCertificate {
    /// Its own certificate first, then those between it and its authority.
    pub chain: Vec<Vec<u8>>,
    /// Its private key, in any of the usual forms.
    pub key: Vec<u8>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientCertificate(***)")
    }
}

impl TlsIdentity {
    pub fn new(authorities: Vec<Vec<u8>>, client: Option<ClientCertificate>) -> Self {
        let mut context = Context::new(&SHA256);
        // Each part with its length, so that no two identities are one text.
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        add(&(authorities.len() as u64).to_be_bytes());
        for authority in &authorities {
            add(authority);
        }
        if let Some(ClientCertificate { chain, key }) = &client {
            for certificate in chain {
                add(certificate);
            }
            add(key);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        Self { authorities, client, fingerprint }
    }

    pub fn authorities(&self) -> &[Vec<u8>] {
        &self.authorities
    }

    pub fn client(&self) -> Option<&ClientCertificate> {
        self.client.as_ref()
    }
}

impl PartialEq for TlsIdentity {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for TlsIdentity {}

impl Hash for TlsIdentity {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.fingerprint.hash(state);
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second, third, fourth, ..] = self.fingerprint;
        write!(f, "TlsIdentity({first:02x}{second:02x}{third:02x}{fourth:02x})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(chain: &[&[u8]], key: &[u8]) -> ClientCertificate {
        ClientCertificate { chain: chain.iter().map(|one| one.to_vec()).collect(), key: key.to_vec() }
    }

    #[test]
    fn identities_are_equal_when_all_of_them_is() {
        let identity = |authorities: &[&[u8]], client| {
            TlsIdentity::new(authorities.iter().map(|one| one.to_vec()).collect(), client)
        };
        let all = [
            identity(&[b"a"], None),
            identity(&[b"a", b"b"], None),
            identity(&[b"ab"], None),
            identity(&[], Some(client(&[b"a"], b"b"))),
            identity(&[], Some(client(&[b"ab"], b""))),
            identity(&[], Some(client(&[b"a", b"b"], b""))),
            identity(&[b"a"], Some(client(&[b"a"], b"b"))),
            identity(&[b"a"], Some(client(&[b"a"], b"c"))),
        ];
        for (place, one) in all.iter().enumerate() {
            for (other, another) in all.iter().enumerate() {
                assert_eq!(one == another, place == other, "{place} {other}");
            }
        }
        assert_eq!(all[7], all[7].clone());
    }

    #[test]
    fn a_key_is_never_printed() {
        let identity = TlsIdentity::new(Vec::new(), Some(client(&[b"chain"], b"s3cret")));
        let printed = format!("{identity:?}");
        assert!(printed.starts_with("TlsIdentity(") && printed.len() == "TlsIdentity(01234567)".len());
        assert_eq!(format!("{:?}", identity.client()), "Some(ClientCertificate(***))");
    }
}
