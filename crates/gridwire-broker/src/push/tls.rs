//! The encryption of outgoing connections: TLS 1.2 or later, verified against this machine's certificate
//! authorities and those the operator added. There is no way to turn the verification off.

use std::io;
use std::sync::Arc;

use gridwire_outside::Stream;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::sync::OnceCell;
use tokio_rustls::TlsConnector;

/// The configuration shared by all outgoing connections. Made at the first of them: reading a machine's
/// authorities takes long enough to be felt at the start of a broker that has no webhooks.
#[derive(Debug)]
pub(crate) struct Tls {
    extra_roots: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
}

impl Tls {
    pub(crate) fn new(extra_roots: Vec<CertificateDer<'static>>) -> Self {
        Self { extra_roots, config: OnceCell::new() }
    }

    /// Opens a session over `stream` with whoever can prove to be `name`.
    pub(crate) async fn connect(
        &self,
        name: ServerName<'static>,
        stream: Box<dyn Stream>,
    ) -> io::Result<Box<dyn Stream>> {
        let config = self.config.get_or_try_init(|| self.load()).await?;
        let session = TlsConnector::from(Arc::clone(config)).connect(name, stream).await?;
        Ok(Box::new(session))
    }

    async fn load(&self) -> io::Result<Arc<ClientConfig>> {
        let extra_roots = self.extra_roots.clone();
        // Reads files, so not on a thread that serves connections.
        let loaded = tokio::task::spawn_blocking(move || client_config(extra_roots));
        loaded.await.map_err(io::Error::other)?.map_err(io::Error::other)
    }
}

fn client_config(extra_roots: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "failed to read a certificate authority of this machine");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(native.certs.into_iter().chain(extra_roots));
    tracing::debug!(added, ignored, "loaded certificate authorities");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
