//! Certificates of the uplink: rustls with ring.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ring::digest;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::{Remote, Settings};
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

/// What was read from the files, and what it was made into.
///
/// Sessions are resumed by connections of the same configuration (rustls keeps the tickets in memory): a reconnect then costs a
/// fraction of the bytes of the first one. So files that hold what they held before make no new configuration.
#[derive(Debug, Default, Clone)]
pub(super) struct Certificates {
    made: Option<Made>,
}

#[derive(Clone)]
struct Made {
    of: Digest,
    connector: TlsConnector,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").finish_non_exhaustive()
    }
}

type Digest = [u8; 32];

impl Certificates {
    /// Reads the files of an uplink, if it needs any.
    pub(super) fn of(settings: &Settings) -> Result<Self, TlsError> {
        if !settings.remotes.iter().any(Remote::is_tls) {
            return Ok(Self::default());
        }
        let material = Material::read(settings)?;
        Ok(Self { made: Some(material.make(&settings.alpn)?) })
    }

    pub(super) fn connector(&self) -> Option<&TlsConnector> {
        self.made.as_ref().map(|made| &made.connector)
    }

    /// Reads the files again, on a thread that may wait.
    pub(super) async fn read_again(&mut self, settings: &Settings) -> Result<(), TlsError> {
        let files = settings.clone();
        let read = tokio::task::spawn_blocking(move || Material::read(&files)).await;
        let material = read.map_err(|error| TlsError::Identity(error.to_string()))??;
        if self.made.as_ref().is_none_or(|made| made.of != material.digest(&settings.alpn)) {
            self.made = Some(material.make(&settings.alpn)?);
        }
        Ok(())
    }
}

/// What the files hold.
struct Material {
    authorities: Vec<CertificateDer<'static>>,
    /// The file that holds them, if it is not that of the machine.
    ca: Option<PathBuf>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Material {
    fn read(settings: &Settings) -> Result<Self, TlsError> {
        let authorities = match &settings.ca {
            Some(path) => certificates(path, "ca")?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let identity = settings.identity.as_ref().map(|(cert, key)| {
            let unusable = |what: String| TlsError::File { path: key.clone(), key: "key", what };
            let chain = certificates(cert, "cert")?;
            let content = files::bytes(key, files::LARGEST_TEXT).map_err(|e| unusable(e.to_string()))?;
            Ok((chain, PrivateKeyDer::from_pem_slice(&content).map_err(|e| unusable(e.to_string()))?))
        });
        Ok(Self { authorities, ca: settings.ca.clone(), identity: identity.transpose()? })
    }

    /// The same for the same content.
    fn digest(&self, alpn: &[String]) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        self.authorities.iter().for_each(|certificate| add(certificate));
        if let Some((chain, key)) = &self.identity {
            chain.iter().for_each(|certificate| add(certificate));
            add(key.secret_der());
        }
        alpn.iter().for_each(|name| add(name.as_bytes()));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }

    /// The client side of a TLS connection.
    fn make(self, alpn: &[String]) -> Result<Made, TlsError> {
        let of = self.digest(alpn);
        let mut roots = RootCertStore::empty();
        match self.ca {
            Some(path) => {
                for certificate in self.authorities {
                    roots.add(certificate).map_err(|e| TlsError::File { path: path.clone(), key: "ca", what: e.to_string() })?;
                }
            }
            None => {
                roots.add_parsable_certificates(self.authorities);
            }
        }
        if roots.is_empty() {
            return Err(TlsError::NoAuthorities);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Identity(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(|e| TlsError::Identity(e.to_string()))?,
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Made { of, connector: TlsConnector::from(Arc::new(config)) })
    }
}
