//! The local broker: listeners, certificates, users and limits.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::users::access;
use super::{Check, at, credentials};
use crate::broker::access::{Pattern, Rules};
use crate::broker::admission::AdmissionLimits;
use crate::broker::engine::Limits;
use crate::broker::net::{ClientCertificates, Listen, Origin, Origins, TlsSettings};
use crate::config::document::Step;
use crate::config::{Broker, file};
use crate::units::Size;

const MOST_LISTENERS: usize = 100;
const MOST_CONNECTIONS: usize = 100_000;
const SMALLEST_PACKET: usize = 1000;
const LARGEST_PACKET: usize = 64 << 20;
const SMALLEST_SESSION: usize = 16_000;
/// What the usual size of all sessions has room for.
const BYTES_PER_SESSION: usize = 12 << 10;
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) fn broker(check: &mut Check<'_>) -> Option<Broker> {
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
    Some(Broker {
        listen: file.listen.0.clone(),
        origins: Arc::new(origins(check, file)),
        tls: tls(check, file),
        access: Arc::new(access),
        admission,
        limits,
        is_durable: file.keep == file::BrokerKeep::Disk,
    })
}

fn origins(check: &mut Check<'_>, file: &file::Broker) -> Origins {
    let mut listed = Vec::new();
    for (index, text) in file.allow_origins.iter().enumerate() {
        match text.parse::<Origin>() {
            Ok(origin) => listed.push(origin),
            Err(why) => check.fault(&at!["broker", "allow_origins", index], why),
        }
    }
    Origins::new(listed)
}

fn listener(check: &mut Check<'_>, file: &file::Broker, index: usize, listen: &Listen) {
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

/// True if nobody without a certificate gets as far as MQTT.
pub(super) fn needs_certificate(file: &file::Broker, listen: &Listen) -> bool {
    let is_required = |tls: &file::Tls| {
        tls.client_ca.is_some()
            && matches!(
                tls.client_certificates,
                None | Some(ClientCertificates::Required)
            )
    };
    listen.is_encrypted() && file.tls.as_ref().is_some_and(is_required)
}

fn tls(check: &mut Check<'_>, file: &file::Broker) -> Option<TlsSettings> {
    let tls = file.tls.as_ref()?;
    let usual = if tls.client_ca.is_some() {
        ClientCertificates::Required
    } else {
        ClientCertificates::None
    };
    let client_certificates = tls.client_certificates.unwrap_or(usual);
    let asks = client_certificates != ClientCertificates::None;
    if asks && tls.client_ca.is_none() {
        check.fault(
            &at!["broker", "tls", "client_certificates"],
            "client certificates need an authority; add `client_ca: <file>`",
        );
    }
    let certificate_is_login = tls.login == file::Login::Certificate;
    if certificate_is_login && !asks {
        check.fault(
            &at!["broker", "tls", "login"],
            "without client certificates nobody can log in with one; add `client_ca: <file>`",
        );
    }
    let path = |path: &std::path::Path| check.path(path);
    let (cert, key) = (path(&tls.cert), path(&tls.key));
    let client_ca = tls.client_ca.as_deref().map(path);
    let crl = tls.crl.as_deref().map(path);
    if crl.is_some() && !asks {
        check.fault(
            &at!["broker", "tls", "crl"],
            "without client certificates nothing can be revoked; add `client_ca: <file>`",
        );
    }
    let files = [
        ("cert", Some(&tls.cert)),
        ("key", Some(&tls.key)),
        ("client_ca", tls.client_ca.as_ref()),
        ("crl", tls.crl.as_ref()),
    ];
    for (name, typed) in files {
        check.readable(
            &at!["broker", "tls", name],
            typed.map(std::path::PathBuf::as_path),
        );
    }
    credentials::expiry(
        check,
        &at!["broker", "tls", "cert"],
        Some(&tls.cert),
        credentials::Role::Shown,
    );
    credentials::expiry(
        check,
        &at!["broker", "tls", "client_ca"],
        tls.client_ca.as_deref(),
        credentials::Role::Trusted,
    );
    Some(TlsSettings {
        cert,
        key,
        client_ca,
        crl,
        client_certificates,
        certificate_is_login,
    })
}

/// Without any list somebody may do everything; with one, what the lists say.
pub(super) fn rules(check: &mut Check<'_>, typed: &file::Rules, at: &[Step]) -> Rules {
    let lists = [
        ("read", &typed.read),
        ("write", &typed.write),
        ("subscribe", &typed.subscribe),
    ];
    let allows_all = lists.iter().all(|(_, list)| list.is_none());
    let [read, write, subscribe] =
        lists.map(|(key, list)| patterns(check, list.as_deref().unwrap_or_default(), at, &[key]));
    let deny = typed.deny.clone().unwrap_or_default();
    Rules {
        read,
        write,
        subscribe,
        deny_read: patterns(
            check,
            deny.read.as_deref().unwrap_or_default(),
            at,
            &["deny", "read"],
        ),
        deny_write: patterns(
            check,
            deny.write.as_deref().unwrap_or_default(),
            at,
            &["deny", "write"],
        ),
        deny_subscribe: patterns(
            check,
            deny.subscribe.as_deref().unwrap_or_default(),
            at,
            &["deny", "subscribe"],
        ),
        allows_all,
    }
}

fn patterns(
    check: &mut Check<'_>,
    texts: &[String],
    at: &[Step],
    keys: &[&'static str],
) -> Vec<Pattern> {
    let mut patterns = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        match Pattern::new(text.as_str()) {
            Ok(pattern) => patterns.push(pattern),
            Err(error) => {
                let mut path = at.to_vec();
                path.extend(keys.iter().map(|key| Step::from(*key)));
                path.push(Step::from(index));
                check.fault(
                    &path,
                    format!("`{text}`: {error}; write a filter such as plant/+/flow or dev/%u/#"),
                );
            }
        }
    }
    patterns
}

fn admission(check: &mut Check<'_>, file: &file::Broker) -> AdmissionLimits {
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

fn bytes(size: Option<Size>, usual: usize) -> usize {
    size.map_or(usual, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
}

/// What sessions may hold, in bytes.
struct SessionSizes {
    session: usize,
    user: usize,
    all: usize,
}

/// The usual sizes follow what is typed: more sessions get more, and a smaller size is never above a larger one.
fn session_sizes(check: &mut Check<'_>, file: &file::Broker, max_sessions: usize) -> SessionSizes {
    let usual = Limits::default();
    let typed = |size: Option<Size>| bytes(size, 0);
    let least = typed(file.max_user_size).max(typed(file.max_session_size));
    let all = bytes(
        file.max_sessions_size,
        usual
            .max_sessions_bytes
            .max(max_sessions.saturating_mul(BYTES_PER_SESSION))
            .max(least),
    );
    let user = bytes(
        file.max_user_size,
        usual
            .max_user_bytes
            .max(all / 3)
            .max(typed(file.max_session_size))
            .min(all),
    );
    let session = bytes(file.max_session_size, usual.max_session_bytes.min(user));
    for (key, size, more, most) in [
        ("max_session_size", session, "max_user_size", user),
        ("max_user_size", user, "max_sessions_size", all),
    ] {
        if size > most {
            check.fault(
                &at!["broker", key],
                format!("this is more than `{more}`; write at most as much, or raise `{more}`"),
            );
        }
    }
    for (key, size) in [
        ("max_session_size", session),
        ("max_user_size", user),
        ("max_sessions_size", all),
    ] {
        if size < SMALLEST_SESSION {
            check.fault(
                &at!["broker", key],
                "too small for a session; write at least 16kB, such as 1MiB",
            );
        }
    }
    SessionSizes { session, user, all }
}

fn limits(check: &mut Check<'_>, file: &file::Broker) -> Limits {
    let usual = Limits::default();
    let max_sessions = file
        .max_sessions
        .unwrap_or(usual.max_sessions.max(file.max_connections.unwrap_or(0)));
    let sizes = session_sizes(check, file, max_sessions);
    let limits = Limits {
        max_packet: bytes(file.max_packet, usual.max_packet),
        max_connect: bytes(file.max_connect, usual.max_connect),
        max_sessions,
        max_session_bytes: sizes.session,
        max_user_bytes: sizes.user,
        max_sessions_bytes: sizes.all,
        max_queued: file.max_queued.unwrap_or(usual.max_queued),
        max_queued_bytes: bytes(file.max_queued_size, usual.max_queued_bytes),
        max_queued_total: bytes(file.max_queued_total, usual.max_queued_total),
        queue_full: file.when_queue_full,
        max_subscriptions: file.max_subscriptions.unwrap_or(usual.max_subscriptions),
        max_retained: file.max_retained.unwrap_or(usual.max_retained),
        max_retained_bytes: bytes(file.max_retained_size, usual.max_retained_bytes),
        receive_maximum: file.max_in_flight.unwrap_or(usual.receive_maximum),
        topic_aliases: file.topic_aliases.unwrap_or(usual.topic_aliases),
        connect_within: file
            .connect_within
            .map_or(usual.connect_within, |span| span.0),
        max_keep_alive: file.max_keep_alive.map(|span| span.0),
        failed_logins: file.failed_logins.unwrap_or(usual.failed_logins),
        max_session_expiry: file.max_session_expiry.map(|span| span.0),
        sys_every: file.sys_every.map_or(usual.sys_every, |span| {
            if span.0.is_zero() {
                span.0
            } else {
                span.0.max(Duration::from_millis(100))
            }
        }),
        ..usual
    };
    for (key, size) in [
        ("max_packet", limits.max_packet),
        ("max_connect", limits.max_connect),
    ] {
        if !(SMALLEST_PACKET..=LARGEST_PACKET).contains(&size) {
            check.fault(&at!["broker", key], "write a size from 1kB to 64MB");
        }
    }
    let numbers = [
        ("max_sessions", limits.max_sessions),
        ("max_queued", limits.max_queued),
        ("max_queued_size", limits.max_queued_bytes),
        ("max_queued_total", limits.max_queued_total),
        ("max_subscriptions", limits.max_subscriptions),
        ("max_in_flight", usize::from(limits.receive_maximum)),
    ];
    for (key, number) in numbers {
        if number == 0 {
            check.fault(
                &at!["broker", key],
                "type 1 or more; leave the key out for the default",
            );
        }
    }
    if limits.connect_within < Duration::from_secs(1) {
        check.fault(
            &at!["broker", "connect_within"],
            "nobody can log in that fast; write at least 1s, such as 10s",
        );
    }
    if limits
        .max_keep_alive
        .is_some_and(|span| span < SHORTEST_KEEP_ALIVE)
    {
        check.fault(
            &at!["broker", "max_keep_alive"],
            "write at least 5s, such as 10m",
        );
    }
    limits
}
