//! A webhook's own TLS: the authorities that its certificate must be of, and the certificate that we show it.
//!
//! Gridwire's own members of a webhook destination, all PEM. What is written is kept as it is, sealed with its
//! destination; shown is only what tells one certificate from another and when it ends.

use std::sync::Arc;

use gridwire_core::api_error::ApiError;
use gridwire_core::time::Timestamp;
use gridwire_core::tls_identity::{ClientCertificate, TlsIdentity};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::limits::{CERTIFICATES_MAX, PEM_BYTES_MAX};
use crate::members::{Members, invalid};

const AUTHORITIES: &str = "caCertificates";
const CERTIFICATE: &str = "clientCertificate";
const KEY: &str = "clientKey";
/// What a GET has in their place.
pub(super) const SHOWN: &str = "tls";

/// What was configured.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct TlsSettings {
    /// As it was written, each.
    authorities: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    identity: Arc<TlsIdentity>,
    /// Of every certificate: the member it is in and when it ends.
    ends: Vec<(&'static str, Timestamp)>,
}

impl TlsSettings {
    /// Reads the members; `None` without any of them. Texts that are empty are none.
    pub(super) fn read(properties: &Members<'_>, https: bool) -> Result<Option<Self>, ApiError> {
        let given = |name| properties.text(name).map(|text| text.filter(|text| !text.trim().is_empty()));
        let (authorities, certificate, key) = (given(AUTHORITIES)?, given(CERTIFICATE)?, given(KEY)?);
        for (name, text) in [(AUTHORITIES, authorities), (CERTIFICATE, certificate), (KEY, key)] {
            let Some(text) = text else { continue };
            if !https {
                return Err(properties.wrong(name, "left out when `endpointUrl` is not an `https` URL"));
            }
            if PEM_BYTES_MAX < text.len() {
                return Err(properties.wrong(name, &format!("at most {PEM_BYTES_MAX} bytes long")));
            }
        }
        let mut ends = Vec::new();
        let mut certificates = |name, text: Option<&str>| match text {
            None => Ok(Vec::new()),
            Some(text) => read_certificates(properties, name, text, &mut ends),
        };
        let (roots, chain) =
            (certificates(AUTHORITIES, authorities)?, certificates(CERTIFICATE, certificate)?);
        let mut store = RootCertStore::empty();
        if roots.iter().any(|root| store.add(root.clone()).is_err()) {
            return Err(properties.wrong(AUTHORITIES, "certificates that can be trusted as authorities"));
        }
        let client = match (certificate, key) {
            (None, None) => None,
            (Some(_), Some(key)) => Some(read_client(properties, chain, key)?),
            (None, Some(_)) => return Err(properties.wrong(CERTIFICATE, "given with `clientKey`")),
            (Some(_), None) => return Err(properties.wrong(KEY, "given with `clientCertificate`")),
        };
        if authorities.is_none() && client.is_none() {
            return Ok(None);
        }
        let kept = |text: Option<&str>| text.map(str::to_owned);
        let roots = roots.iter().map(|root| root.to_vec()).collect();
        Ok(Some(Self {
            authorities: kept(authorities),
            certificate: kept(certificate),
            key: kept(key),
            identity: Arc::new(TlsIdentity::new(roots, client)),
            ends,
        }))
    }

    pub(super) fn identity(&self) -> Arc<TlsIdentity> {
        Arc::clone(&self.identity)
    }

    /// Refuses what has expired. Not asked of what is kept already.
    pub(super) fn admit(&self, now: Timestamp) -> Result<(), ApiError> {
        match self.ends.iter().find(|(_, end)| *end < now) {
            None => Ok(()),
            Some((name, end)) => {
                Err(invalid(format!("The property `{name}` holds a certificate that expired at {end}.")))
            }
        }
    }

    /// The members, or what may be shown of them.
    pub(super) fn put(&self, properties: &mut Map<String, Value>, secrets: bool) {
        if secrets {
            for (name, text) in
                [(AUTHORITIES, &self.authorities), (CERTIFICATE, &self.certificate), (KEY, &self.key)]
            {
                if let Some(text) = text {
                    properties.insert(name.into(), text.as_str().into());
                }
            }
            return;
        }
        let chain = self.identity.client().map_or(&[][..], |client| &client.chain);
        let all = self.identity.authorities().iter().chain(chain);
        let mut shown = Map::new();
        for (der, (name, end)) in all.zip(&self.ends) {
            let one = json!({ "sha256": hex(digest(&SHA256, der).as_ref()), "notAfter": end.to_string() });
            if let Value::Array(list) = shown.entry(*name).or_insert_with(|| json!([])) {
                list.push(one);
            }
        }
        properties.insert(SHOWN.into(), shown.into());
    }
}

/// The certificates of a PEM text, at least one, each with its end.
fn read_certificates(
    properties: &Members<'_>,
    name: &'static str,
    text: &str,
    ends: &mut Vec<(&'static str, Timestamp)>,
) -> Result<Vec<CertificateDer<'static>>, ApiError> {
    let wrong = || properties.wrong(name, &format!("one to {CERTIFICATES_MAX} certificates in PEM form"));
    let read = CertificateDer::pem_slice_iter(text.as_bytes()).take(CERTIFICATES_MAX + 1);
    let all: Vec<CertificateDer<'static>> = read.collect::<Result<_, _>>().map_err(|_| wrong())?;
    if all.is_empty() || CERTIFICATES_MAX < all.len() {
        return Err(wrong());
    }
    for der in &all {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| wrong())?;
        let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
        ends.push((name, Timestamp::from_millis(seconds.saturating_mul(1000))));
    }
    Ok(all)
}

/// A chain with its key, if the one belongs to the other.
fn read_client(
    properties: &Members<'_>,
    chain: Vec<CertificateDer<'static>>,
    key: &str,
) -> Result<ClientCertificate, ApiError> {
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|_| properties.wrong(KEY, "a private key in PEM form that is not encrypted"))?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| properties.wrong(KEY, "an RSA, ECDSA (P-256, P-384) or Ed25519 key"))?;
    let kept = chain.iter().map(|certificate| certificate.to_vec()).collect();
    CertifiedKey::new(chain, signing)
        .keys_match()
        .map_err(|_| properties.wrong(KEY, "the key of the first certificate in `clientCertificate`"))?;
    Ok(ClientCertificate { chain: kept, key: key.secret_der().to_vec() })
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
