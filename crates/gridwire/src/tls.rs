//! TLS without homework: a local authority and a server certificate, made at the first start.
//!
//! The authority (`tls/ca.pem`, ten years) is made once and kept, because people put it into trust stores.
//! The server's certificate is made again whenever it would not do: it ends within thirty days, the names it
//! must hold have changed, or it is not of this authority. A running server looks once in a while and changes
//! over without a restart ([`ServerCertificate::renew`]).

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use anyhow::{Context, bail};
use gridwire_core::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::data_dir::{DataDir, create_private_dir, read_if_there, write_private};

/// An authority outlives the trust stores it is put into.
const CA_DAYS: i64 = 3650;
/// What clients at most accept of a server's certificate, with room.
const SERVER_DAYS: i64 = 365;
/// A certificate with less left is made again.
const DAYS_LEFT_MIN: u64 = 30;

const DAY_MILLIS: u64 = 24 * 60 * 60 * 1000;

/// Where the server's certificate comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Made here, by the local authority, for these DNS names and addresses.
    Local { dir: DataDir, names: BTreeSet<String> },
    /// Files that somebody else keeps fresh: a PEM chain and its PEM key.
    Files { certificate: PathBuf, key: PathBuf },
}

/// A certificate ready to be served.
#[derive(Debug)]
pub(crate) struct Prepared {
    key: Arc<CertifiedKey>,
    /// When it ends.
    pub(crate) not_after: Timestamp,
    /// Why it was made just now; `None` when the one on file does.
    pub(crate) made_because: Option<String>,
}

/// The names every local certificate holds, and those of this configuration.
pub(crate) fn names(base_domain: Option<&str>, listen: IpAddr, extra: &[String]) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        ["localhost", "*.localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).collect();
    if let Some(base) = base_domain {
        names.insert(base.to_ascii_lowercase());
        names.insert(format!("*.{}", base.to_ascii_lowercase()));
    }
    if !listen.is_unspecified() {
        names.insert(listen.to_string());
    }
    names.extend(extra.iter().map(|name| name.to_ascii_lowercase()));
    names
}

impl Source {
    /// Brings the files up to date and loads them.
    pub(crate) fn prepare(&self, now: Timestamp) -> anyhow::Result<Prepared> {
        match self {
            Self::Local { dir, names } => prepare_local(dir, names, now),
            Self::Files { certificate, key } => {
                let (chain, key) = (read(certificate)?, read(key)?);
                load(&chain, &key, None).with_context(|| {
                    format!("failed to use the certificate `{}` with its key", certificate.display())
                })
            }
        }
    }
}

fn prepare_local(dir: &DataDir, names: &BTreeSet<String>, now: Timestamp) -> anyhow::Result<Prepared> {
    let tls = dir.tls_dir();
    create_private_dir(&tls).with_context(|| format!("failed to create `{}`", tls.display()))?;
    let authority = Authority::open_or_make(&tls, now)?;
    let (certificate_file, key_file) = (tls.join("server.pem"), tls.join("server.key"));
    let on_file = read_if_there(&certificate_file)?.zip(read_if_there(&key_file)?);
    let reason = match on_file {
        None => "there was none".to_owned(),
        Some((chain, key)) => match load(&chain, &key, None) {
            Err(error) => format!("the one on file could not be used: {error:#}"),
            Ok(prepared) => match shortcoming(&chain, names, &authority, now)? {
                None => return Ok(prepared),
                Some(reason) => reason,
            },
        },
    };
    let (chain, key) = authority.issue(names, now)?;
    // The key first: a crash in between leaves a pair that does not fit, and that is made again.
    write_private(&key_file, key.as_bytes())?;
    write_private(&certificate_file, chain.as_bytes())?;
    load(&chain, &key, Some(reason)).context("failed to use the certificate that was just made")
}

/// Why the certificate on file will not do; `None` when it will.
fn shortcoming(
    chain: &str,
    names: &BTreeSet<String>,
    authority: &Authority,
    now: Timestamp,
) -> anyhow::Result<Option<String>> {
    let der = first_certificate(chain)?;
    let certificate = parse(&der)?;
    let ca_der = first_certificate(&authority.pem)?;
    let ca = parse(&ca_der)?;
    if certificate.verify_signature(Some(ca.public_key())).is_err() {
        return Ok(Some("the one on file is not of this authority".to_owned()));
    }
    if not_after(&certificate) < Timestamp::from_millis(now.as_millis() + DAYS_LEFT_MIN * DAY_MILLIS) {
        return Ok(Some(format!("the one on file ends on {}", not_after(&certificate))));
    }
    if names_of(&certificate) != *names {
        return Ok(Some("the names it must hold have changed".to_owned()));
    }
    Ok(None)
}

/// The local authority and its key.
struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authority {
    fn open_or_make(tls: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let (pem_file, key_file) = (tls.join("ca.pem"), tls.join("ca.key"));
        match (read_if_there(&pem_file)?, read_if_there(&key_file)?) {
            (Some(pem), Some(key)) => {
                let key = KeyPair::from_pem(&key)
                    .with_context(|| format!("failed to understand `{}`", key_file.display()))?;
                let der = first_certificate(&pem)?;
                let ends = not_after(&parse(&der)?);
                if ends < Timestamp::from_millis(now.as_millis() + DAYS_LEFT_MIN * DAY_MILLIS) {
                    tracing::warn!(
                        file = %pem_file.display(), %ends,
                        "the local authority ends soon: remove ca.pem and ca.key, restart, and hand out the new one"
                    );
                }
                Ok(Self { pem, key })
            }
            // Never silently replaced: people trust the file by hand.
            (Some(_), None) => bail!(
                "`{}` has lost its key `{}`: restore the key, or remove both for a new authority",
                pem_file.display(),
                key_file.display()
            ),
            (None, _) => Self::make(&pem_file, &key_file, now),
        }
    }

    fn make(pem_file: &Path, key_file: &Path, now: Timestamp) -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("failed to make the authority's key")?;
        let mut params = CertificateParams::default();
        // A mark of its own, for whoever meets two of them in one trust store.
        let mark =
            key.public_key_raw().iter().rev().take(4).fold(0u32, |mark, byte| (mark << 8) | u32::from(*byte));
        params.distinguished_name.push(DnType::CommonName, format!("Gridwire local authority {mark:08x}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        set_validity(&mut params, now, CA_DAYS)?;
        let pem = params.self_signed(&key).context("failed to sign the authority")?.pem();
        write_private(key_file, key.serialize_pem().as_bytes())?;
        write_private(pem_file, pem.as_bytes())?;
        Ok(Self { pem, key })
    }

    /// A certificate for `names` with the authority behind it, and its key, both PEM.
    fn issue(&self, names: &BTreeSet<String>, now: Timestamp) -> anyhow::Result<(String, String)> {
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).context("failed to use the authority")?;
        let key = KeyPair::generate().context("failed to make the server's key")?;
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())
            .context("failed to put a name into the certificate")?;
        params.distinguished_name.push(DnType::CommonName, "Gridwire");
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, now, SERVER_DAYS)?;
        let certificate = params.signed_by(&key, &issuer).context("failed to sign the certificate")?;
        Ok((format!("{}{}", certificate.pem(), self.pem), key.serialize_pem()))
    }
}

/// Makes it valid from yesterday (clocks differ) for `days`.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> anyhow::Result<()> {
    let today = now.to_civil().context("the clock is out of its range")?.date();
    let at = |days: i64| -> anyhow::Result<(i32, u8, u8)> {
        let span = jiff::Span::new().try_days(days).context("too many days")?;
        let date = today.checked_add(span).context("the clock is out of its range")?;
        let month = u8::try_from(date.month()).context("a month is positive")?;
        let day = u8::try_from(date.day()).context("a day is positive")?;
        Ok((i32::from(date.year()), month, day))
    };
    let ((year, month, day), end) = (at(-1)?, at(days)?);
    params.not_before = rcgen::date_time_ymd(year, month, day);
    params.not_after = rcgen::date_time_ymd(end.0, end.1, end.2);
    Ok(())
}

fn first_certificate(pem: &str) -> anyhow::Result<CertificateDer<'static>> {
    CertificateDer::from_pem_slice(pem.as_bytes()).context("failed to find a PEM certificate")
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> anyhow::Result<X509Certificate<'a>> {
    let (_, certificate) = X509Certificate::from_der(der).context("failed to understand a certificate")?;
    Ok(certificate)
}

fn not_after(certificate: &X509Certificate<'_>) -> Timestamp {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

/// The DNS names and addresses of a certificate.
fn names_of(certificate: &X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
            _ => <[u8; 16]>::try_from(*bytes).ok().map(|octets| IpAddr::from(octets).to_string()),
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(name).collect()
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read `{}`", path.display()))
}

fn load(chain: &str, key: &str, made_because: Option<String>) -> anyhow::Result<Prepared> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain.as_bytes())
        .collect::<Result<_, _>>()
        .context("failed to read a PEM certificate")?;
    let leaf = chain.first().context("there is no PEM certificate")?;
    let not_after = not_after(&parse(leaf)?);
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).context("failed to read the PEM key")?;
    let signing = rustls::crypto::ring::sign::any_supported_type(&key).context("failed to use the key")?;
    let key = CertifiedKey::new(chain, signing);
    key.keys_match().context("the key is not the certificate's")?;
    Ok(Prepared { key: Arc::new(key), not_after, made_because })
}

/// The certificate in use. New connections meet the newest one.
#[derive(Debug)]
pub(crate) struct ServerCertificate {
    source: Source,
    current: RwLock<Arc<CertifiedKey>>,
}

impl ServerCertificate {
    pub(crate) fn new(source: Source, prepared: &Prepared) -> Arc<Self> {
        Arc::new(Self { source, current: RwLock::new(Arc::clone(&prepared.key)) })
    }

    /// Looks at the files again and changes over. Blocks on files.
    pub(crate) fn renew(&self, now: Timestamp) -> anyhow::Result<()> {
        let prepared = self.source.prepare(now)?;
        if let Some(reason) = &prepared.made_because {
            tracing::info!(reason, until = %prepared.not_after, "made a new server certificate");
        }
        *self.current.write().expect("no panic while the certificate is held") = prepared.key;
        Ok(())
    }

    /// What the https listener needs: TLS 1.2 and up, HTTP/2 and HTTP/1.1.
    pub(crate) fn acceptor(self: &Arc<Self>) -> anyhow::Result<gridwire_http::TlsAcceptor> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("failed to set TLS up")?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(self) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(gridwire_http::TlsAcceptor::from(Arc::new(config)))
    }
}

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.read().expect("no panic while the certificate is held")))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn day(day: u64) -> Timestamp {
        Timestamp::from_millis(1_795_465_178_054 + day * DAY_MILLIS)
    }

    /// Prepares twice, on day 0 for the plain names and then as told, and expects the second's reason.
    fn check(second: &BTreeSet<String>, on: u64, between: impl Fn(&DataDir), expect: Option<&str>) {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        let first = prepare_local(&dir, &names(None, LOOPBACK, &[]), day(0)).unwrap();
        assert_eq!(first.made_because.as_deref(), Some("there was none"));
        let ca = fs::read_to_string(dir.ca_file()).unwrap();
        between(&dir);
        let made = prepare_local(&dir, second, day(on)).unwrap();
        match (made.made_because.as_deref(), expect) {
            (None, None) => {}
            (Some(reason), Some(part)) => assert!(reason.contains(part), "{reason}"),
            (got, expect) => panic!("{got:?} instead of {expect:?}"),
        }
        if expect != Some("not of this authority") {
            assert_eq!(fs::read_to_string(dir.ca_file()).unwrap(), ca, "the authority is kept");
        }
        assert!(made.not_after >= Timestamp::from_millis(day(on).as_millis() + DAYS_LEFT_MIN * DAY_MILLIS));
    }

    #[test]
    fn a_good_certificate_is_kept() {
        check(&names(None, LOOPBACK, &[]), 300, |_| (), None);
    }

    #[test]
    fn a_certificate_is_made_again_before_it_ends() {
        check(&names(None, LOOPBACK, &[]), 340, |_| (), Some("ends on"));
    }

    #[test]
    fn a_certificate_is_made_again_when_its_names_change() {
        check(&names(Some("Events.Example"), LOOPBACK, &[]), 1, |_| (), Some("names"));
    }

    #[test]
    fn a_damaged_certificate_is_made_again() {
        let damage = |dir: &DataDir| fs::write(dir.tls_dir().join("server.pem"), "nonsense").unwrap();
        check(&names(None, LOOPBACK, &[]), 1, damage, Some("could not be used"));
    }

    #[test]
    fn a_key_that_does_not_fit_is_made_again() {
        let damage = |dir: &DataDir| {
            let other = KeyPair::generate().unwrap().serialize_pem();
            fs::write(dir.tls_dir().join("server.key"), other).unwrap();
        };
        check(&names(None, LOOPBACK, &[]), 1, damage, Some("could not be used"));
    }

    #[test]
    fn another_authority_needs_another_certificate() {
        let remove = |dir: &DataDir| {
            fs::remove_file(dir.ca_file()).unwrap();
            fs::remove_file(dir.tls_dir().join("ca.key")).unwrap();
        };
        check(&names(None, LOOPBACK, &[]), 1, remove, Some("not of this authority"));
    }

    #[test]
    fn an_authority_without_its_key_is_not_replaced_silently() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::at(parent.path());
        let names = names(None, LOOPBACK, &[]);
        prepare_local(&dir, &names, day(0)).unwrap();
        fs::remove_file(dir.tls_dir().join("ca.key")).unwrap();
        let error = prepare_local(&dir, &names, day(1)).unwrap_err();
        assert!(error.to_string().contains("has lost its key"), "{error}");
    }

    #[test]
    fn the_names_are_the_local_ones_the_base_domain_and_the_address() {
        let names = names(Some("grid.example"), "10.1.2.3".parse().unwrap(), &["Extra.example".into()]);
        let expect = [
            "*.grid.example",
            "*.localhost",
            "10.1.2.3",
            "127.0.0.1",
            "::1",
            "extra.example",
            "grid.example",
            "localhost",
        ];
        assert_eq!(names.into_iter().collect::<Vec<_>>(), expect);
    }
}
