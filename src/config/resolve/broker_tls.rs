//! Certificates of the local broker.

use std::path::{Path, PathBuf};

use super::{Check, at, credentials};
use crate::broker::net::{ClientCertificates, Listen, TlsSettings};
use crate::config::file;

/// True if a listener refuses clients without a certificate in the handshake.
pub(super) fn needs_certificate(file: &file::BrokerConfig, listen: &Listen) -> bool {
    let is_required = |tls: &file::TlsConfig| {
        tls.client_ca.is_some()
            && matches!(
                tls.client_certificates,
                None | Some(ClientCertificates::Required)
            )
    };
    listen.is_encrypted() && file.tls.as_ref().is_some_and(is_required)
}

/// Files and rules for encrypted listeners.
pub(super) fn tls(check: &mut Check<'_>, file: &file::BrokerConfig) -> Option<TlsSettings> {
    let tls = file.tls.as_ref()?;
    let default = if tls.client_ca.is_some() {
        ClientCertificates::Required
    } else {
        ClientCertificates::None
    };
    let client_certificates = tls.client_certificates.unwrap_or(default);
    let certificate_is_login = tls.login == file::LoginMethod::Certificate;
    let asks = client_certificates != ClientCertificates::None;
    let rows = [
        (
            asks && tls.client_ca.is_none(),
            "client_certificates",
            "client certificates need an authority; add `client_ca: <file>`",
        ),
        (
            certificate_is_login && !asks,
            "login",
            "without client certificates nobody can log in with one; add `client_ca: <file>`",
        ),
        (
            tls.crl.is_some() && !asks,
            "crl",
            "without client certificates nothing can be revoked; add `client_ca: <file>`",
        ),
    ];
    for (_, key, why) in rows.iter().filter(|(is_wrong, ..)| *is_wrong) {
        check.fault(&at!["broker", "tls", *key], *why);
    }
    check_files(check, tls);
    let path = |path: &PathBuf| check.path(path);
    Some(TlsSettings {
        cert: path(&tls.cert),
        key: path(&tls.key),
        client_ca: tls.client_ca.as_ref().map(path),
        crl: tls.crl.as_ref().map(path),
        client_certificates,
        certificate_is_login,
    })
}

/// Files that cannot be read, certificates that end soon.
fn check_files(check: &mut Check<'_>, tls: &file::TlsConfig) {
    let client_ca = tls.client_ca.as_deref();
    let files: [(&'static str, Option<&Path>); 4] = [
        ("cert", Some(&tls.cert)),
        ("key", Some(&tls.key)),
        ("client_ca", client_ca),
        ("crl", tls.crl.as_deref()),
    ];
    for (name, typed) in files {
        check.readable(&at!["broker", "tls", name], typed);
    }
    for (name, typed, role) in [
        ("cert", Some(tls.cert.as_path()), credentials::Role::Shown),
        ("client_ca", client_ca, credentials::Role::Trusted),
    ] {
        credentials::expiry(check, &at!["broker", "tls", name], typed, role);
    }
}
