//! Who an https endpoint claims to be: at first the truth, later a lie.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::TlsAcceptor;

/// A name that no endpoint here is called by.
const ANOTHER: &str = "another.example";

/// Which lie an endpoint tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// The trusted authority's certificate, but for another name.
    Name,
    /// The right name, by the word of an authority that nobody trusts.
    Authority,
}

/// An authority of the run's own: the server under test is told to trust it.
#[derive(Debug)]
pub(crate) struct Authority {
    pem: String,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn make() -> anyhow::Result<Self> {
        let key = KeyPair::generate().context("failed to make an authority's key")?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Gridwire bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let pem = params.self_signed(&key).context("failed to sign an authority")?.pem();
        Ok(Self { pem, key })
    }

    /// For those who shall trust it.
    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    fn acceptor(&self, name: &str) -> anyhow::Result<TlsAcceptor> {
        let issuer = Issuer::from_ca_cert_pem(&self.pem, &self.key).context("failed to use an authority")?;
        let key = KeyPair::generate().context("failed to make a key")?;
        let params = CertificateParams::new(vec![name.to_owned()]).context("a name for a certificate")?;
        let certificate = params.signed_by(&key, &issuer).context("failed to sign a certificate")?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// For the endpoint at `address`: the session that it agrees to its subscription over, and that of all later
    /// ones. They share nothing, so that no client can take up the first again and believe the second.
    pub(crate) fn acceptors(&self, address: IpAddr, lie: Lie) -> anyhow::Result<Acceptors> {
        let name = address.to_string();
        let lying = match lie {
            Lie::Name => self.acceptor(ANOTHER)?,
            Lie::Authority => Self::make()?.acceptor(&name)?,
        };
        Ok(Acceptors { honest: self.acceptor(&name)?, lying })
    }
}

/// Both faces of an endpoint.
#[derive(Clone)]
pub(crate) struct Acceptors {
    pub(crate) honest: TlsAcceptor,
    pub(crate) lying: TlsAcceptor,
}
