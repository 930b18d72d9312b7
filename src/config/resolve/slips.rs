//! Uplinks that are correct and hardly meant: warnings.

use std::net::IpAddr;

use super::{Check, at};
use crate::config::file::UplinkConfig;
use crate::mqtt::TopicFilter;
use crate::uplink::{Remote, Scheme};

/// Warns of what is odd about the uplinks as typed.
pub(super) fn uplinks(check: &mut Check<'_>) {
    let file = check.file;
    for (index, uplink) in file
        .uplinks
        .iter()
        .enumerate()
        .filter(|(_, uplink)| uplink.enabled)
    {
        sends_nothing(check, index, uplink);
        prefixes(check, index, uplink);
        for remote in &uplink.to.0 {
            usual_port(check, index, remote);
            open_password(check, index, uplink, remote);
        }
    }
}

fn sends_nothing(check: &mut Check<'_>, index: usize, uplink: &UplinkConfig) {
    if uplink.send.is_empty() && !check.document.has_at(&at!["uplinks", index, "send"]) {
        let site = check.file.site.as_deref().unwrap_or("site");
        check.warn(
            &at!["uplinks", index],
            format!("nothing is sent through this uplink; add `send: [ {{ filter: '{site}/#' }} ]`, or `send: []` if that is intended"),
        );
    }
}

/// `strip` and `prefix` of rules, where a slash is missing or one too many.
fn prefixes(check: &mut Check<'_>, index: usize, uplink: &UplinkConfig) {
    let send = uplink.send.iter().enumerate().map(|(number, rule)| {
        let slip = slip(&rule.filter, &rule.strip, &rule.prefix)?;
        Some((
            at!["uplinks", index, "send", number, slip.key],
            slip.message,
        ))
    });
    let receive = uplink.receive.iter().enumerate().map(|(number, rule)| {
        let slip = slip(&rule.filter, &rule.strip, &rule.prefix)?;
        Some((
            at!["uplinks", index, "receive", number, slip.key],
            slip.message,
        ))
    });
    for (path, message) in send.chain(receive).flatten() {
        check.warn(&path, message);
    }
}

/// A key that was hardly meant so, and why.
struct Slip {
    key: &'static str,
    message: String,
}

fn slip(filter: &TopicFilter, strip: &str, prefix: &str) -> Option<Slip> {
    if strip.is_empty() && prefix.is_empty() {
        return None;
    }
    let rest = filter.plain().strip_prefix(strip)?;
    let (key, is_open) = if prefix.is_empty() {
        ("strip", true)
    } else {
        ("prefix", prefix.ends_with('/'))
    };
    let first = rest.split('/').next().unwrap_or_default();
    let level = if first.contains(['+', '#']) {
        "pump"
    } else {
        first
    };
    let message = match (rest.strip_prefix('/'), is_open) {
        (Some(_), true) if !strip.is_empty() => format!(
            "the slash behind `{strip}` stays, so topics get an empty level; write `strip: {strip}/`"
        ),
        (None, false) if !rest.is_empty() => format!(
            "the prefix has no slash at its end, so `{level}` becomes `{prefix}{level}`; write `{prefix}/` for a level of its own"
        ),
        _ => return None,
    };
    Some(Slip { key, message })
}

/// Ports that belong to the other scheme.
fn usual_port(check: &mut Check<'_>, index: usize, remote: &Remote) {
    let (what, other) = match (remote.scheme, remote.port) {
        (Scheme::Mqtt, 8883) => ("the port of MQTT over TLS", "mqtts"),
        (Scheme::Mqtts, 1883) => ("the port of MQTT without TLS", "mqtt"),
        (Scheme::Ws, 443) => ("the port of WebSocket over TLS", "wss"),
        (Scheme::Wss, 80) => ("the port of WebSocket without TLS", "ws"),
        _ => return,
    };
    let (port, host) = (remote.port, &remote.host);
    check.warn(
        &at!["uplinks", index, "to"],
        format!("{port} is {what}; write {other}://{host}:{port}, unless this remote is different"),
    );
}

fn open_password(check: &mut Check<'_>, index: usize, uplink: &UplinkConfig, remote: &Remote) {
    let is_open = matches!(remote.scheme, Scheme::Mqtt | Scheme::Ws);
    let has_password = uplink.password.is_some() || uplink.password_file.is_some();
    if is_open && has_password && !is_this_machine(&remote.host) {
        let key = if uplink.password.is_some() {
            "password"
        } else {
            "password_file"
        };
        let encrypted = if remote.scheme == Scheme::Ws {
            "wss"
        } else {
            "mqtts"
        };
        check.warn(
            &at!["uplinks", index, key],
            format!(
                "this password travels unencrypted to {}; write {encrypted}:// in `to`",
                remote.host
            ),
        );
    }
}

fn is_this_machine(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let is_name = matches!(
        host.as_str(),
        "localhost" | "ip6-localhost" | "ip6-loopback"
    ) || host.ends_with(".localhost");
    is_name
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.to_canonical().is_loopback())
}
