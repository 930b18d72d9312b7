//! Files of certificates and keys, for listeners and for uplinks.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};

use crate::files;

/// A person's mistake: a file that is missing or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be used.
    #[error(
        "{path}: {what}; `{setting}` must name a PEM file that the user who runs wellhead can read"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The setting of the YAML that names it.
        setting: &'static str,
        /// The problem.
        what: String,
    },
    /// The machine has no authorities.
    #[error(
        "no certificate authorities on this machine; install the package ca-certificates or set `uplinks[].ca`"
    )]
    NoAuthorities,
    /// Certificate and key of an uplink do not fit.
    #[error(
        "client certificate and key do not fit: {0}; check `uplinks[].cert` and `uplinks[].key`"
    )]
    Client(String),
    /// Certificate and key of the listeners do not fit, or the authorities are none.
    #[error("the certificates do not fit: {0}; check `broker.tls`")]
    Listeners(String),
}

/// A PEM file, and the setting of the YAML that names it.
#[derive(Debug, Clone, Copy)]
pub struct PemFile<'a> {
    /// The file.
    pub path: &'a Path,
    /// Such as `broker.tls.cert`.
    pub setting: &'static str,
}

impl PemFile<'_> {
    /// Its certificates, of which there is one at least.
    pub fn certificates(self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        self.all("holds no certificate")
    }

    /// Its revocation lists, of which there is one at least.
    pub fn revocation_lists(self) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
        self.all("holds no revocation list")
    }

    /// Its private key.
    pub fn private_key(self) -> Result<PrivateKeyDer<'static>, TlsError> {
        let content = self.content()?;
        PrivateKeyDer::from_pem_slice(&content).map_err(|error| self.unusable(&error))
    }

    /// The authorities that these certificates of the file are of.
    pub fn authorities(
        self,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates {
            let added = roots.add(certificate);
            added.map_err(|error| self.unusable(&error))?;
        }
        Ok(roots)
    }

    fn all<T: PemObject>(self, without: &str) -> Result<Vec<T>, TlsError> {
        let content = self.content()?;
        let found: Result<Vec<T>, _> = T::pem_slice_iter(&content).collect();
        let found = found.map_err(|error| self.unusable(&error))?;
        if found.is_empty() {
            Err(self.unusable(&without))
        } else {
            Ok(found)
        }
    }

    fn content(self) -> Result<Vec<u8>, TlsError> {
        files::bytes(self.path, files::LARGEST_TEXT).map_err(|error| self.unusable(&error))
    }

    fn unusable(self, what: &dyn std::fmt::Display) -> TlsError {
        TlsError::File {
            path: self.path.to_owned(),
            setting: self.setting,
            what: what.to_string(),
        }
    }
}
