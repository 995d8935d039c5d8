//! The encryption of outgoing connections: TLS 1.2 or later, verified against this machine's certificate
//! authorities and those the operator added, or against a webhook's own. There is no way to turn the verification off.

use std::io;
use std::sync::Arc;

use gridwire_core::tls_identity::{ClientCertificate, TlsIdentity};
use gridwire_outside::Stream;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// What all outgoing connections share. Made at the first of them: reading a machine's authorities takes long enough
/// to be felt at the start of a broker that has no webhooks.
#[derive(Debug)]
pub(crate) struct Tls {
    extra_roots: Vec<CertificateDer<'static>>,
    roots: OnceCell<Arc<RootCertStore>>,
    /// For webhooks without terms of their own.
    config: OnceCell<Arc<ClientConfig>>,
}

/// The terms of the connections of one pool; the default are the server's own. Connections of different terms are never
/// one another's, and neither are their sessions: what can be resumed is kept with them.
#[derive(Debug, Default)]
pub(crate) struct Terms {
    identity: Option<Arc<TlsIdentity>>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Terms {
    pub(crate) fn of(identity: Option<Arc<TlsIdentity>>) -> Self {
        Self { identity, config: OnceCell::new() }
    }
}

impl Tls {
    pub(crate) fn new(extra_roots: Vec<CertificateDer<'static>>) -> Self {
        Self { extra_roots, roots: OnceCell::new(), config: OnceCell::new() }
    }

    /// Opens a session over `stream` with whoever can prove to be `name`.
    pub(crate) async fn connect(
        &self,
        terms: &Terms,
        name: ServerName<'static>,
        stream: Box<dyn Stream>,
    ) -> io::Result<Box<dyn Stream>> {
        let config = match &terms.identity {
            None => self.config.get_or_try_init(|| self.configure(None)).await?,
            Some(identity) => terms.config.get_or_try_init(|| self.configure(Some(identity))).await?,
        };
        let session = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Box::new(session))
    }

    async fn configure(&self, identity: Option<&TlsIdentity>) -> io::Result<Arc<ClientConfig>> {
        let own = identity.map(TlsIdentity::authorities).filter(|authorities| !authorities.is_empty());
        let roots = match own {
            Some(authorities) => {
                let mut roots = RootCertStore::empty();
                for authority in authorities {
                    roots.add(authority.as_slice().into()).map_err(io::Error::other)?;
                }
                Arc::new(roots)
            }
            None => Arc::clone(self.roots.get_or_try_init(|| self.load()).await?),
        };
        let client = identity.and_then(TlsIdentity::client);
        client_config(roots, client).map_err(io::Error::other)
    }

    async fn load(&self) -> io::Result<Arc<RootCertStore>> {
        let extra_roots = self.extra_roots.clone();
        // Reads files, so not on a thread that serves connections.
        let loaded = tokio::task::spawn_blocking(move || shared_roots(extra_roots));
        loaded.await.map_err(io::Error::other)
    }
}

fn shared_roots(extra_roots: Vec<CertificateDer<'static>>) -> Arc<RootCertStore> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "failed to read a certificate authority of this machine");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(native.certs.into_iter().chain(extra_roots));
    tracing::debug!(added, ignored, "loaded certificate authorities");
    Arc::new(roots)
}

fn client_config(
    roots: Arc<RootCertStore>,
    client: Option<&ClientCertificate>,
) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate { chain, key }) => {
            let chain = chain.iter().map(|certificate| certificate.clone().into()).collect();
            let key = PrivateKeyDer::try_from(key.clone())
                .map_err(|unknown| rustls::Error::General(unknown.to_owned()))?;
            builder.with_client_auth_cert(chain, key)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Whether a connection ended because the other side did not like our end of the session. With TLS 1.3 it says so only
/// after we have begun to use it: a client certificate that it misses or does not trust looks like a failed request.
pub(crate) fn was_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        // The source of an I/O error is that of what it carries, which so is passed over.
        let carried = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let refusal = match carried {
            Some(carried) => carried.downcast_ref::<rustls::Error>(),
            None => error.downcast_ref::<rustls::Error>(),
        };
        if matches!(refusal, Some(rustls::Error::AlertReceived(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}
