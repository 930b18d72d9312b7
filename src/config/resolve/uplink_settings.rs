//! Settings of one uplink: identity, timeouts, TCP, and what contradicts itself.

use std::time::Duration;

use super::{Check, at, credentials, routes};
use crate::broker::net::Listen;
use crate::config::file;
use crate::units::Span;
use crate::uplink;

pub(super) const DEFAULT_SAVE: Duration = Duration::from_millis(50);
const DEFAULT_WINDOW: u16 = 500;
/// A ping costs as much as a reading; a dead link is found when something is sent.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(240);
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);
const LONGEST_KEEP_ALIVE: Duration = Duration::from_secs(65_535);
/// A month without a link.
const DEFAULT_SESSION_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
const DEFAULT_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
const SHORTEST_RETRY: Duration = Duration::from_millis(10);
const DEFAULT_USER_TIMEOUT: Duration = Duration::from_secs(60);

/// The settings of an uplink that becomes the one at `position`; `None` if its login is faulty.
// A straight table: a line for each field of the settings.
pub(super) fn settings(
    check: &mut Check<'_>,
    index: usize,
    position: usize,
    uplink: &file::UplinkConfig,
) -> Option<uplink::UplinkSettings> {
    contradictions(check, index, uplink);
    let identity = credentials::certificates(check, index, uplink);
    let login = credentials::login(check, index, uplink);
    let keep_alive = keep_alive(check, index, uplink);
    let timeouts = timeouts(check, index, uplink);
    let retry = retry(check, index, uplink);
    let use_when = use_when(check, index, uplink).filter(|_| uplink.enabled);
    let site = || check.file.site.clone().unwrap_or_default();
    Some(uplink::UplinkSettings {
        name: uplink.name.clone(),
        index: position,
        remotes: uplink.to.0.clone(),
        proxy: uplink.proxy.clone(),
        resolve: uplink.resolve,
        own_listeners: own_listeners(check),
        protocol: uplink.protocol,
        client_id: uplink.client_id.clone().unwrap_or_else(site),
        ca: uplink.ca.as_ref().map(|path| check.path(path)),
        identity,
        server_name: uplink.server_name.clone(),
        headers: headers(check, index, uplink),
        session_expiry: session_expiry(check, index, uplink),
        alpn: uplink.alpn.clone(),
        login: login.ok()?,
        content: credentials::content(check, uplink),
        receive: routes::receive(check, index),
        // Known with the rules.
        presence: None,
        keep_alive,
        connect_within: timeouts.connect,
        dial_within: timeouts.dial,
        lookup_within: timeouts.dial,
        answer_within: timeouts.answer,
        write_within: timeouts.write,
        tcp: tcp(uplink, timeouts.user),
        max_packet: uplink
            .max_packet
            .map(|size| u32::try_from(size.0).unwrap_or(u32::MAX)),
        window: uplink.window.unwrap_or(DEFAULT_WINDOW),
        retry,
        longest_silence: uplink.retry.as_ref().map(|retry| retry.longest.0),
        numbered: uplink.number_messages,
        save_every: check
            .file
            .outbox
            .save
            .every
            .map_or(DEFAULT_SAVE, |span| span.0),
        use_when,
        cloud: None,
    })
}

fn keep_alive(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) -> Duration {
    let keep_alive = uplink.keep_alive.map_or(DEFAULT_KEEP_ALIVE, |span| span.0);
    if !(SHORTEST_KEEP_ALIVE..=LONGEST_KEEP_ALIVE).contains(&keep_alive) {
        check.fault(
            &at!["uplinks", index, "keep_alive"],
            "write a duration from 5s to 18h, such as 4m",
        );
    }
    keep_alive
}

/// First and longest pause between attempts to connect.
fn retry(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) -> (Duration, Duration) {
    let (first, longest) = uplink
        .retry
        .as_ref()
        .map_or(DEFAULT_RETRY, |retry| (retry.first.0, retry.longest.0));
    if first < SHORTEST_RETRY || longest < first {
        check.fault(
            &at!["uplinks", index, "retry"],
            "`first` is at least 10ms and `longest` not shorter than it",
        );
    }
    (first, longest)
}

/// The other uplink of a backup, by its place among those that are used.
fn use_when(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Option<uplink::UseWhen> {
    let file::UseWhenConfig(wanted, down_for) = uplink.use_when.as_ref()?;
    let at = at!["uplinks", index, "use_when"];
    // One that is switched off may stand in for another one that is.
    let used: Vec<&file::UplinkConfig> = check
        .file
        .uplinks
        .iter()
        .filter(|other| other.enabled || !uplink.enabled)
        .collect();
    let Some(position) = used.iter().position(|other| other.name == *wanted) else {
        let known: Vec<String> = used
            .iter()
            .filter(|other| other.use_when.is_none())
            .map(|other| other.name.clone())
            .collect();
        check.unknown(&at, "uplink", wanted, &known);
        return None;
    };
    let is_backup =
        |other: &&file::UplinkConfig| other.name == uplink.name || other.use_when.is_some();
    if used.get(position).is_some_and(is_backup) {
        check.fault(&at, "an uplink cannot stand in for itself, nor for another backup; name one that is always used");
        return None;
    }
    Some(uplink::UseWhen {
        uplink: position,
        down_for: down_for.0,
    })
}

/// Settings of an uplink that contradict each other, apart from those with a function of their own.
fn contradictions(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) {
    let is_tls = uplink.to.0.iter().any(uplink::Remote::is_tls);
    let rows = [
        (
            uplink.to.0.is_empty(),
            "to",
            "an uplink needs an address; write mqtts://<host>",
        ),
        (
            (uplink.ca.is_some() || uplink.cert.is_some()) && !is_tls,
            "to",
            "certificates are for mqtts:// and wss://; change `to` or remove `ca`, `cert` and `key`",
        ),
        (
            leads_back(check, uplink),
            "to",
            "the broker of this gateway listens at this address: each message would come back and be sent again without end; write the address of the remote broker",
        ),
        (
            uplink.client_id.as_ref().is_some_and(String::is_empty),
            "client_id",
            "the remote knows the session by this name; type one or remove `client_id`",
        ),
        (
            uplink.server_name.is_some() && !is_tls,
            "server_name",
            "a name is checked with mqtts:// and wss:// only; change `to`, or remove `server_name`",
        ),
        (
            uplink.max_packet.is_some_and(|size| size.0 < 1000),
            "max_packet",
            "hardly a message would fit; write at least 1kB, such as 128kB",
        ),
        (
            uplink.window == Some(0),
            "window",
            "at least one message must be in flight; write 1 or more, such as 500",
        ),
    ];
    for (_, key, why) in rows.iter().filter(|(is_wrong, ..)| *is_wrong) {
        check.fault(&at!["uplinks", index, *key], *why);
    }
    if let Some(name) = &uplink.server_name
        && is_tls
        && !uplink::is_server_name(name)
    {
        check.fault(
            &at!["uplinks", index, "server_name"],
            format!("`{name}` is not a name that a certificate can be for; write a host name such as cloud.example.net"),
        );
    }
    let mut before = check.file.uplinks.iter().take(index);
    if before.any(|other| is_same_session(other, uplink)) {
        check.fault(
            &at!["uplinks", index],
            "two uplinks to one remote with one `client_id` would disconnect each other; give this one another `client_id`",
        );
    }
}

fn is_same_session(one: &file::UplinkConfig, other: &file::UplinkConfig) -> bool {
    one.enabled && other.enabled && one.to == other.to && one.client_id == other.client_id
}

/// True if an uplink would connect to a listener of the gateway itself.
fn leads_back(check: &Check<'_>, uplink: &file::UplinkConfig) -> bool {
    // The localhost of a proxy is not this machine.
    if !uplink.enabled || uplink.proxy.is_some() {
        return false;
    }
    let own = own_listeners(check);
    let mut remotes = uplink.to.0.iter();
    remotes.any(|remote| uplink::leads_back(&remote.host, remote.port, &own))
}

fn tcp(uplink: &file::UplinkConfig, user_timeout: Duration) -> uplink::Tcp {
    uplink::Tcp {
        nodelay: uplink.tcp.nodelay.unwrap_or(true),
        user_timeout,
        interface: uplink.tcp.interface.clone(),
        congestion: uplink.tcp.congestion.clone(),
    }
}

/// The listeners that an uplink could come back to.
fn own_listeners(check: &Check<'_>) -> Vec<uplink::OwnListener> {
    let listens = check.file.broker.iter().flat_map(|broker| &broker.listen.0);
    let own = |listen: &Listen| match listen {
        Listen::Port { host, port, .. } => Some(uplink::OwnListener {
            host: host.clone(),
            port: *port,
        }),
        Listen::Unix(_) => None,
    };
    listens.filter_map(own).collect()
}

/// How long the remote keeps the session, in seconds.
fn session_expiry(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) -> u32 {
    let at = at!["uplinks", index, "max_session_expiry"];
    let typed = uplink.max_session_expiry.map(|span| span.0);
    if typed.is_some() && uplink.protocol == uplink::Protocol::V311 {
        check.fault(&at, "MQTT 3.1.1 cannot tell a remote how long to keep the session; remove it, or write `protocol: 5`");
    } else if typed.is_some_and(|span| span < Duration::from_secs(60)) {
        check.fault(
            &at,
            "messages of QoS 2 could come twice after each cut; write at least 1m, such as 7d",
        );
    }
    u32::try_from(typed.unwrap_or(DEFAULT_SESSION_EXPIRY).as_secs()).unwrap_or(u32::MAX)
}

/// The headers of a WebSocket.
fn headers(
    check: &mut Check<'_>,
    index: usize,
    uplink: &file::UplinkConfig,
) -> Vec<(String, uplink::RemoteSecret)> {
    let at = at!["uplinks", index, "headers"];
    let is_web_socket =
        |remote: &uplink::Remote| matches!(remote.scheme, uplink::Scheme::Ws | uplink::Scheme::Wss);
    if !uplink.headers.is_empty() && !uplink.to.0.iter().any(is_web_socket) {
        check.fault(
            &at,
            "headers are for ws:// and wss://; MQTT itself has none: change `to`, or remove them",
        );
    }
    for (name, value) in &uplink.headers {
        if let Err(why) = uplink::header(name, value) {
            check.fault(&at!["uplinks", index, "headers", name], why);
        }
    }
    uplink
        .headers
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// How long an uplink waits: for a session, for TCP alone, for answers, for writes, and in the
/// kernel.
struct Timeouts {
    connect: Duration,
    dial: Duration,
    answer: Duration,
    write: Duration,
    user: Duration,
}

fn timeouts(check: &mut Check<'_>, index: usize, uplink: &file::UplinkConfig) -> Timeouts {
    let mut timeout = |key: &'static str, typed: Option<Span>, default: u64| {
        if typed.is_some_and(|span| span.0 < Duration::from_millis(100)) {
            check.fault(
                &at!["uplinks", index, key],
                format!("no remote answers that fast; write at least 100ms, such as {default}s"),
            );
        }
        typed.map_or(Duration::from_secs(default), |span| span.0)
    };
    let timeouts = Timeouts {
        connect: timeout("connect_within", uplink.connect_within, 30),
        dial: timeout("dial_within", uplink.dial_within, 8),
        answer: timeout("answer_within", uplink.answer_within, 30),
        write: timeout("write_within", uplink.write_within, 30),
        user: uplink
            .tcp
            .user_timeout
            .map_or(DEFAULT_USER_TIMEOUT, |span| span.0),
    };
    if timeouts.user < Duration::from_secs(1) {
        check.fault(
            &at!["uplinks", index, "tcp", "user_timeout"],
            "write at least 1s, such as 60s",
        );
    }
    timeouts
}
