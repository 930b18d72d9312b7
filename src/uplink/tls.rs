//! Certificates of the uplink: rustls with ring.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ring::digest;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
};

use super::probable::without_links;
use super::{Remote, UplinkSettings};
use crate::net::tls::{PemFile, TlsError};
use crate::time::rfc3339;

/// Why TLS with a remote failed, and what a person can do.
pub(super) fn explained(error: &io::Error, remote: &Remote) -> String {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let scheme = if remote.scheme == super::Scheme::Wss {
        "ws://"
    } else {
        "mqtt://"
    };
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(error) => of_library(error, scheme),
        None if matches!(
            error.kind(),
            UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe
        ) =>
        {
            format!(
                "the remote closed the connection during the handshake; it probably speaks no TLS on this port: write {scheme} in `to`, or the port of TLS, mostly 8883"
            )
        }
        None => format!("{}; check `to` and the network", without_links(error)),
    }
}

/// The TLS failure behind an error of an established connection, if there is one.
pub(super) fn of_connection(error: &io::Error) -> Option<String> {
    let error = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())?;
    Some(of_library(error, "mqtt://"))
}

fn of_library(error: &Error, scheme: &str) -> String {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    let day = |time: UnixTime| {
        rfc3339(i64::try_from(time.as_secs().saturating_mul(1000)).unwrap_or(i64::MAX))
    };
    match error {
        Error::InvalidCertificate(Bad::ExpiredContext { not_after, .. }) => format!(
            "the certificate of the remote has expired on {}; its operator must renew it, if the clock of this machine is right",
            day(*not_after)
        ),
        Error::InvalidCertificate(Bad::Expired) => {
            "the certificate of the remote has expired; its operator must renew it, if the clock of this machine is right".to_owned()
        }
        Error::InvalidCertificate(Bad::NotValidYetContext { not_before, .. }) => {
            format!("the certificate of the remote is not valid before {}; check the clock of this machine", day(*not_before))
        }
        Error::InvalidCertificate(Bad::NotValidYet) => {
            "the certificate of the remote is not valid yet; check the clock of this machine".to_owned()
        }
        Error::InvalidCertificate(Bad::UnknownIssuer) => {
            "an authority that this gateway does not know has signed the certificate of the remote (UnknownIssuer); check `ca`".to_owned()
        }
        Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "the certificate of the remote is for another name; check the host of `to`".to_owned()
        }
        Error::AlertReceived(
            alert @ (Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::UnknownCA
            | Alert::AccessDenied
            | Alert::NoCertificate
            | Alert::CertificateRequired),
        ) => format!(
            "the remote does not accept the certificate of this gateway ({alert:?}); check `cert` and `key`, and that it has not expired"
        ),
        Error::AlertReceived(Alert::NoApplicationProtocol) => "the remote takes none of the protocols in `alpn`; check `alpn`".to_owned(),
        Error::InvalidMessage(_) => format!(
            "what answers there speaks no TLS, a plain MQTT broker perhaps; write {scheme} in `to`, or the port of TLS, mostly 8883"
        ),
        other => format!("{}; check `ca`, `cert`, `key` and the clock of this machine", without_links(other)),
    }
}

/// True if a certificate can be for this name or address.
pub fn is_server_name(name: &str) -> bool {
    ServerName::try_from(name).is_ok()
}

/// The content of the files, and the configuration made of it.
///
/// Sessions are resumed by connections of the same configuration (rustls keeps the tickets in
/// memory): a reconnect then costs a fraction of the bytes of the first one. So files that hold
/// what they held before make no new configuration.
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
    pub(super) fn of(settings: &UplinkSettings) -> Result<Self, TlsError> {
        if !settings.remotes.iter().any(Remote::is_tls) {
            return Ok(Self::default());
        }
        let material = Material::read(settings)?;
        Ok(Self {
            made: Some(material.make(&settings.alpn)?),
        })
    }

    pub(super) fn connector(&self) -> Option<&TlsConnector> {
        self.made.as_ref().map(|made| &made.connector)
    }

    /// Reads the files again, on a thread that may wait.
    pub(super) async fn read_again(&mut self, settings: &UplinkSettings) -> Result<(), TlsError> {
        let files = settings.clone();
        let read = tokio::task::spawn_blocking(move || Material::read(&files)).await;
        let material = read.map_err(|error| TlsError::Client(error.to_string()))??;
        if self
            .made
            .as_ref()
            .is_none_or(|made| made.of != material.digest(&settings.alpn))
        {
            self.made = Some(material.make(&settings.alpn)?);
        }
        Ok(())
    }
}

fn pem<'a>(path: &'a Path, setting: &'static str) -> PemFile<'a> {
    PemFile { path, setting }
}

/// The content of the files.
struct Material {
    authorities: Vec<CertificateDer<'static>>,
    /// The file that holds them, if it is not that of the machine.
    ca: Option<PathBuf>,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

impl Material {
    fn read(settings: &UplinkSettings) -> Result<Self, TlsError> {
        let authorities = match &settings.ca {
            Some(path) => pem(path, "uplinks[].ca").certificates()?,
            None => rustls_native_certs::load_native_certs().certs,
        };
        let identity = settings.identity.as_ref().map(|(cert, key)| {
            let chain = pem(cert, "uplinks[].cert").certificates()?;
            Ok((chain, pem(key, "uplinks[].key").private_key()?))
        });
        Ok(Self {
            authorities,
            ca: settings.ca.clone(),
            identity: identity.transpose()?,
        })
    }

    /// The same for the same content.
    fn digest(&self, alpn: &[String]) -> Digest {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        self.authorities
            .iter()
            .for_each(|certificate| add(certificate));
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
        let roots = match self.ca {
            Some(path) => pem(&path, "uplinks[].ca").authorities(self.authorities)?,
            None => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(self.authorities);
                roots
            }
        };
        if roots.is_empty() {
            return Err(TlsError::NoAuthorities);
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|e| TlsError::Client(e.to_string()))?
            .with_root_certificates(roots);
        let mut config = match self.identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => builder
                .with_client_auth_cert(chain, key)
                .map_err(|e| TlsError::Client(e.to_string()))?,
        };
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(Made {
            of,
            connector: TlsConnector::from(Arc::new(config)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn an_expired_certificate_is_told_by_its_date_and_the_same_each_second() {
        let told = |now: u64| {
            let (time, not_after) = (
                UnixTime::since_unix_epoch(Duration::from_secs(now)),
                Duration::from_secs(1_769_847_330),
            );
            let bad = CertificateError::ExpiredContext {
                time,
                not_after: UnixTime::since_unix_epoch(not_after),
            };
            of_library(&Error::InvalidCertificate(bad), "mqtt://")
        };
        assert_eq!(told(1_800_000_000), told(1_800_000_001));
        assert!(
            told(1_800_000_000).contains("2026-01-31"),
            "{}",
            told(1_800_000_000)
        );
    }
}
