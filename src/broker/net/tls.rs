//! TLS for clients: rustls with ring. Certificates can be read again while it runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytestring::ByteString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use crate::files;
use crate::net::tls::{PemFile, TlsError};

/// Whether clients must have certificates.
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
    /// The authorities that sign the certificates of clients.
    pub client_ca: Option<PathBuf>,
    /// Certificates of clients that are revoked: a list of each authority that signs them.
    pub crl: Option<PathBuf>,
    /// Whether they need one.
    pub client_certificates: ClientCertificates,
    /// The common name in it is their user name, and no password is needed.
    pub certificate_is_login: bool,
}

/// The certificates of the encrypted listeners.
#[derive(Debug)]
pub struct Tls {
    settings: TlsSettings,
    current: RwLock<Current>,
}

/// The configuration for new connections.
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

    /// Reads the files again: for connections from now on. Returns whether they hold something
    /// else. After an error the old ones stay in use.
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

fn pem<'a>(path: &'a Path, setting: &'static str) -> PemFile<'a> {
    PemFile { path, setting }
}

/// A value that differs when a file holds something else.
fn content(settings: &TlsSettings) -> u32 {
    let files = [
        Some(&settings.cert),
        Some(&settings.key),
        settings.client_ca.as_ref(),
        settings.crl.as_ref(),
    ];
    // A file that cannot be read is an error of its reader.
    files.into_iter().flatten().fold(0, |sum, file| {
        crc32c::crc32c_append(
            sum,
            &files::bytes(file, files::LARGEST_TEXT).unwrap_or_default(),
        )
    })
}

fn unfit(error: &dyn std::fmt::Display) -> TlsError {
    TlsError::Listeners(error.to_string())
}

fn config(settings: &TlsSettings) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| unfit(&e))?;
    let builder = match &settings.client_ca {
        Some(path) if settings.client_certificates != ClientCertificates::None => {
            builder.with_client_cert_verifier(client_verifier(settings, path, provider)?)
        }
        _ => builder.with_no_client_auth(),
    };
    let key = pem(&settings.key, "broker.tls.key").private_key()?;
    let chain = pem(&settings.cert, "broker.tls.cert").certificates()?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| unfit(&e))?;
    config.alpn_protocols = vec![b"mqtt".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = ring::Ticketer::new().map_err(|e| unfit(&e))?;
    Ok(Arc::new(config))
}

/// Checks the certificates of clients: signed by an authority in `client_ca`, and not revoked.
fn client_verifier(
    settings: &TlsSettings,
    client_ca: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let file = pem(client_ca, "broker.tls.client_ca");
    let roots = file.authorities(file.certificates()?)?;
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    // As with mosquitto, the client's own certificate counts; one of an authority without a list is
    // refused.
    if let Some(path) = &settings.crl {
        verifier = verifier
            .with_crls(pem(path, "broker.tls.crl").revocation_lists()?)
            .only_check_end_entity_revocation();
    }
    if settings.client_certificates == ClientCertificates::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(|e| unfit(&e))
}

/// The common name in the subject of a certificate; `None` if there is none, or it is no user name.
fn common_name(certificate: &CertificateDer<'_>) -> Option<ByteString> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    (!name.is_empty() && !name.contains('\0')).then(|| ByteString::from(name))
}
