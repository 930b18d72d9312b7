//! The local broker: listeners, web origins and admission.

use std::net::IpAddr;
use std::sync::Arc;

use super::broker_limits::limits;
use super::broker_tls::{needs_certificate, tls};
use super::users::access;
use super::{Check, at};
use crate::broker::admission::AdmissionLimits;
use crate::broker::net::{Listen, Origins, PageOrigin};
use crate::config::{BrokerSetup, file};

const MOST_LISTENERS: usize = 100;
const MOST_CONNECTIONS: usize = 100_000;

pub(super) fn broker(check: &mut Check<'_>) -> Option<BrokerSetup> {
    let file = check.file.broker.as_ref()?;
    if file.listen.0.is_empty() {
        check.missing(
            &at!["broker", "listen"],
            "a broker needs a listener; write [ 'mqtt://127.0.0.1:1883' ]",
        );
    }
    if file.listen.0.len() > MOST_LISTENERS {
        check.fault(
            &at!["broker", "listen", MOST_LISTENERS],
            format!(
                "a broker has at most {MOST_LISTENERS} listeners; remove those from this one on"
            ),
        );
    }
    for (index, listen) in file.listen.0.iter().enumerate().take(MOST_LISTENERS) {
        listener(check, file, index, listen);
    }
    let access = access(check, file);
    let admission = admission(check, file);
    let limits = limits(check, file);
    Some(BrokerSetup {
        listen: file.listen.0.clone(),
        origins: Arc::new(origins(check, file)),
        tls: tls(check, file),
        access: Arc::new(access),
        admission,
        limits,
        is_durable: file.keep == file::BrokerKeep::Disk,
    })
}

fn origins(check: &mut Check<'_>, file: &file::BrokerConfig) -> Origins {
    let mut listed = Vec::new();
    for (index, text) in file.allow_origins.iter().enumerate() {
        match text.parse::<PageOrigin>() {
            Ok(origin) => listed.push(origin),
            Err(why) => check.fault(&at!["broker", "allow_origins", index], why),
        }
    }
    Origins::new(listed)
}

fn listener(check: &mut Check<'_>, file: &file::BrokerConfig, index: usize, listen: &Listen) {
    let at = at!["broker", "listen", index];
    let has_login =
        !file.users.is_empty() || file.users_file.is_some() || needs_certificate(file, listen);
    if !listen.is_loopback() && !has_login && !file.allow_anonymous {
        check.fault(&at, format!("{listen} can be reached from other machines without a password; add `users:`, listen on 127.0.0.1, or write `allow_anonymous: true` if that is what you want"));
    }
    if let Listen::Port { host, .. } = listen
        && host != "localhost"
        && host.parse::<IpAddr>().is_err()
        && host.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.')
    {
        check.fault(&at, format!("`{host}` is neither an address nor a host name; write mqtt://127.0.0.1:1883 or mqtt://0.0.0.0:1883"));
    }
    if listen.is_encrypted() && file.tls.is_none() && !check.document.has_in("broker", "tls") {
        check.fault(&at, format!("{listen} needs a certificate; add `tls: {{ cert: server.crt, key: server.key }}` to `broker:`"));
    }
    if file
        .listen
        .0
        .iter()
        .take(index)
        .any(|other| other == listen && !listen.can_stand_twice())
    {
        check.fault(&at, format!("{listen} stands here twice; remove one"));
    }
}

fn admission(check: &mut Check<'_>, file: &file::BrokerConfig) -> AdmissionLimits {
    let usual = AdmissionLimits::default();
    let limits = AdmissionLimits {
        connections: file.max_connections.unwrap_or(usual.connections),
        per_address: file
            .max_connections_per_address
            .unwrap_or(usual.per_address.max(file.max_connections.unwrap_or(0) / 2)),
        rate: file.connection_rate.unwrap_or(usual.rate),
        failed_logins: file.failed_logins.unwrap_or(usual.failed_logins),
    };
    let numbers = [
        ("max_connections", limits.connections),
        ("max_connections_per_address", limits.per_address),
        ("connection_rate", limits.rate as usize),
        ("failed_logins", limits.failed_logins as usize),
    ];
    for (key, number) in numbers {
        if !(1..=MOST_CONNECTIONS).contains(&number) {
            check.fault(
                &at!["broker", key],
                format!("write a number from 1 to {MOST_CONNECTIONS}"),
            );
        }
    }
    limits
}
