//! Certificates and logins of uplinks, certificates of the broker: their files must be usable, and
//! should be for a while.

use std::path::{Path, PathBuf};

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use super::{Check, at};
use crate::config::document::PathStep;
use crate::config::file;
use crate::files;
use crate::time::{clock_is_set, rfc3339, unix_ms};
use crate::uplink::cloud::CloudName;
use crate::uplink::{Password, RemoteLogin, RemoteSecret};

/// A certificate that ends within this time is to be renewed, in days.
const SOON_DAYS: i64 = 30;
const DAY_SECONDS: i64 = 86_400;

/// Checks the files of certificates; returns certificate and key of this side.
pub(super) fn certificates(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Option<(PathBuf, PathBuf)> {
    let identity = match (&uplink.cert, &uplink.key) {
        (Some(cert), Some(key)) => Some((check.path(cert), check.path(key))),
        (None, None) => None,
        _ => {
            check.fault(
                &at!["uplinks", index],
                "a client certificate needs both `cert` and `key`",
            );
            None
        }
    };
    for (key, path) in [
        ("ca", &uplink.ca),
        ("cert", &uplink.cert),
        ("key", &uplink.key),
    ] {
        check.readable(
            &at!["uplinks", index, key],
            path.as_deref().filter(|_| uplink.enabled),
        );
    }
    if uplink.enabled {
        expiry(
            check,
            &at!["uplinks", index, "cert"],
            uplink.cert.as_deref(),
            Role::Shown,
        );
        expiry(
            check,
            &at!["uplinks", index, "ca"],
            uplink.ca.as_deref(),
            Role::Trusted,
        );
    }
    identity
}

/// The purpose of a file of certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A chain: it is worth nothing when one of it has expired.
    Shown,
    /// Authorities: one that is valid is enough.
    Trusted,
}

/// Warns of certificates that have expired, or will soon. Files that cannot be read are faults
/// elsewhere.
pub(super) fn expiry(check: &mut Check<'_>, at: &[PathStep], typed: Option<&Path>, role: Role) {
    let Some(path) = typed.map(|typed| check.path(typed)) else {
        return;
    };
    let Ok(content) = files::bytes(&path, files::LARGEST_TEXT) else {
        return;
    };
    let ends = CertificateDer::pem_slice_iter(&content)
        .filter_map(Result::ok)
        .filter_map(|certificate| {
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).ok()?;
            Some(parsed.validity().not_after.timestamp())
        });
    let end = match role {
        Role::Shown => ends.min(),
        Role::Trusted => ends.max(),
    };
    // Without a clock nothing has an age.
    let Some(end) = end.filter(|_| clock_is_set()) else {
        return;
    };
    if let Some(warning) = warning(end, unix_ms() / 1000, role) {
        check.warn(at, format!("{}: {warning}", path.display()));
    }
}

/// The warning for a certificate that ends at `end`, seen at `at`, both in seconds since the epoch.
fn warning(end: i64, at: i64, role: Role) -> Option<String> {
    let left = end - at;
    let date = rfc3339(end.saturating_mul(1000));
    let date = date.split('T').next().unwrap_or_default();
    let effect = match role {
        Role::Shown => "the other side refuses connections with it",
        Role::Trusted => "what it has signed is not trusted",
    };
    if left < 0 {
        Some(format!(
            "the certificate has expired on {date}, and {effect}; renew it"
        ))
    } else if left < SOON_DAYS * DAY_SECONDS {
        Some(format!(
            "the certificate expires on {date}, in {} days, and after that {effect}; renew it",
            left / DAY_SECONDS
        ))
    } else {
        None
    }
}

/// User and password; `Err` if a fault was noted.
pub(super) fn login(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Result<Option<RemoteLogin>, ()> {
    let password = password(check, index, uplink)?;
    // A device of a hub has no user of its own.
    let is_azure = uplink.profile == Some(CloudName::AzureIotHub);
    let user = match &uplink.user {
        None if is_azure && password.is_some() => Some(String::new()),
        user => user.clone(),
    };
    match (user, password) {
        (Some(user), Some(password)) => Ok(Some(RemoteLogin { user, password })),
        (None, None) => Ok(None),
        (Some(_), None) => {
            check.fault(
                &at!["uplinks", index, "user"],
                "a user needs a password; add `password_file:`",
            );
            Err(())
        }
        (None, Some(_)) => {
            check.fault(
                &at!["uplinks", index],
                "a password needs a user; add `user:`",
            );
            Err(())
        }
    }
}

/// The one password; `Err` if there are several, or if it cannot be used.
fn password(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Result<Option<Password>, ()> {
    let given = uplink.password.clone().map(Password::Given);
    let file = uplink.password_file.as_ref();
    let file = file.map(|file| Password::File(check.path(file)));
    let command = uplink.password_command.as_ref();
    let command = command.map(|command| Password::Command(argv(command)));
    let mut passwords = [
        ("password", given),
        ("password_file", file),
        ("password_command", command),
    ]
    .into_iter()
    .filter_map(|(key, password)| Some((key, password?)));
    let Some((key, password)) = passwords.next() else {
        return Ok(None);
    };
    if passwords.next().is_some() {
        check.fault(
            &at!["uplinks", index, key],
            "keep one of `password`, `password_file` and `password_command`",
        );
        return Err(());
    }
    // The secret of an uplink that is switched off may not exist yet.
    if uplink.enabled {
        if let Some(file) = &uplink.password_file {
            check.secret(&at!["uplinks", index, "password_file"], file)?;
        }
        if let Password::Command(command) = &password {
            usable_command(check, index, command)?;
        }
    }
    Ok(Some(password))
}

/// A password as far as it can be known without running a command.
pub(super) fn secret_of(password: &Password) -> Option<RemoteSecret> {
    match password {
        Password::Given(secret) => Some(secret.clone()),
        Password::File(path) => files::first_line(path)
            .ok()
            .map(|secret| RemoteSecret(secret.text)),
        Password::Command(_) => None,
    }
}

fn argv(command: &file::PasswordCommand) -> Vec<String> {
    match command {
        file::PasswordCommand::Text(text) if text.trim().is_empty() => Vec::new(),
        file::PasswordCommand::Text(text) => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()]
        }
        file::PasswordCommand::List(list) => list.clone(),
    }
}

fn usable_command(check: &mut Check<'_>, index: usize, command: &[String]) -> Result<(), ()> {
    let program = command.first().map(String::as_str).unwrap_or_default();
    let is_missing = program.contains('/') && !Path::new(program).is_file();
    if program.is_empty() || is_missing {
        check.fault(
            &at!["uplinks", index, "password_command"],
            format!("the program `{program}` does not exist; write a command that prints the password in its first line, such as [ /usr/local/bin/token ]"),
        );
        return Err(());
    }
    Ok(())
}

/// A value that differs when the files of an uplink hold something else. What cannot be read counts
/// as empty.
pub(super) fn content(check: &Check<'_>, uplink: &file::UplinkConfig) -> u32 {
    let named = [&uplink.ca, &uplink.cert, &uplink.key, &uplink.password_file];
    let used = named.into_iter().flatten().filter(|_| uplink.enabled);
    used.fold(0, |sum, file| {
        crc32c::crc32c_append(
            sum,
            &files::bytes(&check.path(file), files::LARGEST_TEXT).unwrap_or_default(),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_told_of_thirty_days_before_its_end() {
        let at = 1_800_000_000;
        let check = |days: i64, expected: &str| {
            let warning = warning(at + days * DAY_SECONDS, at, Role::Shown).unwrap_or_default();
            assert!(
                warning.contains(expected) && warning.is_empty() == expected.is_empty(),
                "{days}: {warning}"
            );
        };
        check(31, "");
        check(30, "");
        check(29, "in 29 days");
        check(0, "in 0 days");
        check(-1, "has expired on");
        assert!(
            warning(at, at + 1, Role::Trusted)
                .unwrap()
                .contains("2027-01-15")
        );
    }
}
