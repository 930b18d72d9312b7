//! TLS for clients: rustls with ring. Certificates can be read again while it runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::files;

/// What is asked of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificates {
    /// No certificate.
    #[default]
    None,
    /// One if they have it.
    Optional,
    /// One without exception.
    Required,
}

/// Files and rules of the encrypted listeners.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate of this broker, with those between it and the authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// Who signs the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Certificates of clients that are revoked: a list of each authority that signs them.
    pub crl: Option<PathBuf>,
    /// Whether they need one.
    pub client_certificates: ClientCertificates,
    /// The common name in it is their user name, and no password is needed.
    pub certificate_is_login: bool,
}

/// A person's mistake: a file that is missing or is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be used.
    #[error(
        "{path}: {what}; `broker.tls.{key}` must name a PEM file that the user who runs wellhead can read"
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The key of the YAML.
        key: &'static str,
        /// What is wrong.
        what: String,
    },
    /// Certificate and key do not fit, or the authorities are none.
    #[error("the certificates do not fit: {0}; check `broker.tls`")]
    Unfit(String),
}

/// What encrypted listeners share.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    current: RwLock<Current>,
}

/// What new connections are made with.
#[derive(Debug)]
struct Current {
    acceptor: Arc<ServerConfig>,
    /// Differs when a file holds something else.
    content: u32,
}

impl Tls {
    /// Reads the files.
    pub fn new(settings: TlsSettings) -> Result<Self, TlsError> {
        let current = Current {
            content: content(&settings),
            acceptor: config(&settings)?,
        };
        Ok(Self {
            settings,
            current: RwLock::new(current),
        })
    }

    /// Reads the files again: for connections from now on. Returns whether they hold something else. After an error the old ones stay
    /// in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let new = Current {
            content: content(&self.settings),
            acceptor: config(&self.settings)?,
        };
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        let is_different = new.content != current.content;
        *current = new;
        Ok(is_different)
    }

    /// Shakes hands. Returns the user name if the client's certificate is its login.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(
        impl AsyncRead + AsyncWrite + Send + Unpin + use<>,
        Option<ByteString>,
    )> {
        let acceptor = TlsAcceptor::from(
            self.current
                .read()
                .unwrap_or_else(PoisonError::into_inner)
                .acceptor
                .clone(),
        );
        let stream = acceptor.accept(stream).await?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(<[_]>::first);
        let name = certificate
            .filter(|_| self.settings.certificate_is_login)
            .and_then(|certificate| common_name(certificate));
        Ok((Box::new(stream), name))
    }
}

fn certificates(path: &Path, key: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let fail = |what: String| TlsError::File {
        path: path.to_owned(),
        key,
        what,
    };
    let content = files::bytes(path, files::LARGEST_TEXT).map_err(|e| fail(e.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|e| fail(e.to_string()))?;
    if found.is_empty() {
        Err(fail("holds no certificate".to_owned()))
    } else {
        Ok(found)
    }
}

fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let fail = |what: String| TlsError::File {
        path: path.to_owned(),
        key: "crl",
        what,
    };
    let content = files::bytes(path, files::LARGEST_TEXT).map_err(|e| fail(e.to_string()))?;
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&content).collect();
    let found = found.map_err(|e| fail(e.to_string()))?;
    if found.is_empty() {
        Err(fail("holds no revocation list".to_owned()))
    } else {
        Ok(found)
    }
}

/// A value that differs when a file holds something else.
fn content(settings: &TlsSettings) -> u32 {
    let files = [
        Some(&settings.cert),
        Some(&settings.key),
        settings.client_ca.as_ref(),
        settings.crl.as_ref(),
    ];
    // What cannot be read is told by who needs it.
    files.into_iter().flatten().fold(0, |sum, file| {
        crc32c::crc32c_append(
            sum,
            &files::bytes(file, files::LARGEST_TEXT).unwrap_or_default(),
        )
    })
}

fn config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&e))?;
    let builder = match (&settings.client_ca, settings.client_certificates) {
        (Some(path), ClientCertificates::Optional | ClientCertificates::Required) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "client_ca")? {
                roots.add(certificate).map_err(|e| TlsError::File {
                    path: path.clone(),
                    key: "client_ca",
                    what: e.to_string(),
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            // As with mosquitto, the client's own certificate counts; one of an authority without a list is refused.
            let verifier = match &settings.crl {
                Some(path) => verifier
                    .with_crls(revocations(path)?)
                    .only_check_end_entity_revocation(),
                None => verifier,
            };
            let is_optional = settings.client_certificates == ClientCertificates::Optional;
            let verifier = if is_optional {
                verifier.allow_unauthenticated()
            } else {
                verifier
            };
            builder.with_client_cert_verifier(verifier.build().map_err(|e| unfit(&e))?)
        }
        _ => builder.with_no_client_auth(),
    };
    let unusable = |what: String| TlsError::File {
        path: settings.key.clone(),
        key: "key",
        what,
    };
    let content =
        files::bytes(&settings.key, files::LARGEST_TEXT).map_err(|e| unusable(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&content).map_err(|e| unusable(e.to_string()))?;
    let mut config = builder
        .with_single_cert(certificates(&settings.cert, "cert")?, key)
        .map_err(|e| unfit(&e))?;
    config.alpn_protocols = vec![b"mqtt".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|e| unfit(&e))?;
    Ok(Arc::new(config))
}

/// The common name in the subject of a certificate; `None` if there is none, or it is no user name.
fn common_name(certificate: &CertificateDer<'_>) -> Option<ByteString> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| ByteString::from(name))
}
