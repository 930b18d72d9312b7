//! Certificates of the uplink: rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::Settings;
use crate::files;

/// A person's mistake: a file that is missing or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be used.
    #[error("{path}: {what}; `uplinks[].{key}` must name a PEM file that the user who runs wellhead can read")]
    File {
        /// The file.
        path: PathBuf,
        /// The key of the YAML.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// The machine has no authorities.
    #[error("no certificate authorities on this machine; install the package ca-certificates or set `uplinks[].ca`")]
    NoAuthorities,
    /// Certificate and key do not fit.
    #[error("client certificate and key do not fit: {0}; check `uplinks[].cert` and `uplinks[].key`")]
    Identity(String),
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |what: String| TlsError::File { path: path.to_owned(), key, what };
    let content = files::bytes(path, files::LARGEST_TEXT).map_err(|e| fail(e.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|e| fail(e.to_string()))?;
    if found.is_empty() { Err(fail("holds no certificate".to_owned())) } else { Ok(found) }
}

fn authorities(ca: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(path) => {
            for certificate in certificates(path, "ca")? {
                roots.add(certificate).map_err(|e| TlsError::File { path: path.to_owned(), key: "ca", what: e.to_string() })?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() { Err(TlsError::NoAuthorities) } else { Ok(roots) }
}

/// The client side of a TLS connection as configured.
///
/// Sessions are resumed by connections of the same configuration (rustls keeps the tickets in memory): a reconnect then costs a
/// fraction of the bytes of the first one.
pub(super) fn client_config(settings: &Settings) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = authorities(settings.ca.as_deref())?;
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError::Identity(e.to_string()))?
        .with_root_certificates(roots);
    let mut config = match &settings.identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = certificates(cert, "cert")?;
            let unusable = |what: String| TlsError::File { path: key.clone(), key: "key", what };
            let content = files::bytes(key, files::LARGEST_TEXT).map_err(|e| unusable(e.to_string()))?;
            let key = PrivateKeyDer::from_pem_slice(&content).map_err(|e| unusable(e.to_string()))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Identity(e.to_string()))?
        }
    };
    config.alpn_protocols = settings.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
