//! Outbox and uplinks.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::routes::{self, LocalTopics};
use super::{Check, at, cloud, credentials, presence};
use crate::broker::engine::MOST_TAPS;
use crate::broker::net::Listen;
use crate::config::{Tariff, Uplink, file};
use crate::{outbox, uplink};

const DEFAULT_FOLDER: &str = "/var/lib/wellhead";
const DEFAULT_SIZE: u64 = 1_000_000_000;
const SMALLEST_SIZE: u64 = 16_000_000;
const DEFAULT_SAVE: Duration = Duration::from_millis(50);
const DEFAULT_WINDOW: u16 = 500;
/// A ping costs as much as a reading; a dead link is found when something is sent.
const DEFAULT_KEEP_ALIVE: Duration = Duration::from_secs(240);
/// A month without a link.
const DEFAULT_SESSION_EXPIRY: Duration = Duration::from_secs(30 * 24 * 3600);
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) fn outbox(check: &mut Check<'_>) -> (PathBuf, outbox::Settings) {
    let file = &check.file.outbox;
    let folder = check
        .folder
        .join(file.folder.as_deref().unwrap_or(Path::new(DEFAULT_FOLDER)));
    let size = file.keep.size.map_or(DEFAULT_SIZE, |size| size.0);
    if size < SMALLEST_SIZE {
        check.fault(
            &at!["outbox", "keep", "size"],
            "an outbox needs at least 16MB",
        );
    }
    let save_every = file.save.every.map_or(DEFAULT_SAVE, |span| span.0);
    if save_every > Duration::from_secs(60) {
        check.fault(
            &at!["outbox", "save", "every"],
            "local clients would wait that long for every acknowledgement; write at most 60s, such as 50ms",
        );
    }
    let age = file.keep.age.map(|span| span.0);
    if age.is_some_and(|age| age < Duration::from_secs(60)) {
        check.fault(
            &at!["outbox", "keep", "age"],
            "messages would be dropped on the way; write at least 1m, such as 30d",
        );
    }
    (
        folder,
        outbox::Settings {
            save_every,
            total_bytes: size,
            age,
            when_full: file.when_full,
        },
    )
}

/// What the broker has taps for; one of them is that of instruments that are written to.
const MOST_UPLINKS: usize = MOST_TAPS - 1;

pub(super) fn uplinks(check: &mut Check<'_>, has_broker: bool, local: &LocalTopics) -> Vec<Uplink> {
    let file = check.file;
    check.unique(
        "uplinks",
        file.uplinks
            .iter()
            .map(|uplink| uplink.name.as_str())
            .enumerate(),
    );
    let mut resolved = Vec::new();
    if file.uplinks.len() > MOST_UPLINKS {
        let path = at!["uplinks", MOST_UPLINKS, "name"];
        check.fault(
            &path,
            format!("a gateway has at most {MOST_UPLINKS} uplinks; remove those from this one on, or give them to another gateway"),
        );
    }
    for (index, uplink) in file.uplinks.iter().enumerate().take(MOST_UPLINKS) {
        if uplink.name.contains(['/', '\\']) || uplink.name.starts_with('.') {
            check.fault(
                &at!["uplinks", index, "name"],
                "the name becomes a folder and a topic level; write letters, digits and dashes",
            );
        }
        if !uplink.receive.is_empty() && !has_broker && !check.document.has("broker") {
            check.fault(
                &at!["uplinks", index, "receive"],
                "what comes in needs a local broker to go to; add `broker:` or remove `receive`",
            );
        }
        let routes = routes::routes(check, index, local);
        let commands = routes::commands(check, index, &routes, local);
        if !commands.is_empty() && !has_broker && !check.document.has("broker") {
            check.fault(
                &at!["uplinks", index, "commands"],
                "commands go through the local broker; add `broker:` or remove `commands`",
            );
        }
        let mut settings = settings(check, index, resolved.len(), uplink);
        if let Some(settings) = &mut settings {
            settings.presence = presence::presence(check, (index, uplink), &routes.send, &resolved);
            cloud::apply(check, index, settings);
        }
        if let Some(mut settings) = settings.filter(|_| uplink.enabled) {
            settings.receive.extend(commands.iter().cloned());
            resolved.push(Uplink {
                settings,
                routes: Arc::new(routes),
                commands,
                own: Vec::new(),
                tariff: tariff(uplink),
            });
        }
    }
    resolved
}

fn tariff(uplink: &file::Uplink) -> Tariff {
    uplink
        .tariff
        .clone()
        .map_or_else(Tariff::default, |typed| Tariff {
            per_month: typed.per_month.map(|size| size.0),
            price: typed.price,
        })
}

/// The other uplink of a backup, by its place among those that are used.
fn use_when(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) -> Option<uplink::UseWhen> {
    let file::UseWhen(wanted, down_for) = uplink.use_when.as_ref()?;
    let at = at!["uplinks", index, "use_when"];
    // One that is switched off may stand in for another one that is.
    let used: Vec<&file::Uplink> = check
        .file
        .uplinks
        .iter()
        .filter(|other| other.enabled || !uplink.enabled)
        .collect();
    match used
        .iter()
        .position(|other| other.name == *wanted)
        .and_then(|position| Some((position, used.get(position)?)))
    {
        Some((_, other)) if other.name == uplink.name || other.use_when.is_some() => {
            check.fault(&at, "an uplink cannot stand in for itself, nor for another backup; name one that is always used");
            None
        }
        Some((position, _)) => Some(uplink::UseWhen {
            uplink: position,
            down_for: down_for.0,
        }),
        None => {
            let known: Vec<String> = used
                .iter()
                .filter(|other| other.use_when.is_none())
                .map(|other| other.name.clone())
                .collect();
            check.unknown(&at, "uplink", wanted, &known);
            None
        }
    }
}

/// What is impossible about an uplink, apart from what has a function of its own.
fn contradictions(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) {
    if uplink.to.0.is_empty() {
        check.fault(
            &at!["uplinks", index, "to"],
            "an uplink needs an address; write mqtts://<host>",
        );
    }
    if (uplink.ca.is_some() || uplink.cert.is_some())
        && !uplink.to.0.iter().any(uplink::Remote::is_tls)
    {
        check.fault(&at!["uplinks", index, "to"], "certificates are for mqtts:// and wss://; change `to` or remove `ca`, `cert` and `key`");
    }
    leads_elsewhere(check, index, uplink);
    if uplink.client_id.as_ref().is_some_and(String::is_empty) {
        check.fault(
            &at!["uplinks", index, "client_id"],
            "the remote knows the session by this name; type one or remove `client_id`",
        );
    }
    if let Some(name) = &uplink.server_name {
        let at = at!["uplinks", index, "server_name"];
        if !uplink.to.0.iter().any(uplink::Remote::is_tls) {
            check.fault(&at, "a name is checked with mqtts:// and wss:// only; change `to`, or remove `server_name`");
        } else if !uplink::is_server_name(name) {
            check.fault(&at, format!("`{name}` is not a name that a certificate can be for; write a host name such as cloud.example.net"));
        }
    }
    let same = |other: &&file::Uplink| {
        other.enabled
            && uplink.enabled
            && other.to == uplink.to
            && other.client_id == uplink.client_id
    };
    if check
        .file
        .uplinks
        .iter()
        .take(index)
        .any(|other| same(&other))
    {
        check.fault(
            &at!["uplinks", index],
            "two uplinks to one remote with one `client_id` would disconnect each other; give this one another `client_id`",
        );
    }
    if uplink.max_packet.is_some_and(|size| size.0 < 1000) {
        check.fault(
            &at!["uplinks", index, "max_packet"],
            "hardly a message would fit; write at least 1kB, such as 128kB",
        );
    }
    if uplink.window == Some(0) {
        check.fault(
            &at!["uplinks", index, "window"],
            "at least one message must be in flight; write 1 or more, such as 500",
        );
    }
}

fn settings(
    check: &mut Check<'_>,
    index: usize,
    position: usize,
    uplink: &file::Uplink,
) -> Option<uplink::Settings> {
    contradictions(check, index, uplink);
    let identity = credentials::certificates(check, index, uplink);
    let login = credentials::login(check, index, uplink);
    let keep_alive = uplink.keep_alive.map_or(DEFAULT_KEEP_ALIVE, |span| span.0);
    if keep_alive < SHORTEST_KEEP_ALIVE || keep_alive > Duration::from_secs(65_535) {
        check.fault(
            &at!["uplinks", index, "keep_alive"],
            "write a duration from 5s to 18h, such as 4m",
        );
    }
    let patience = patience(check, index, uplink);
    let retry = uplink
        .retry
        .as_ref()
        .map_or((Duration::from_secs(1), Duration::from_secs(60)), |retry| {
            (retry.first.0, retry.longest.0)
        });
    if retry.0 < Duration::from_millis(10) || retry.1 < retry.0 {
        check.fault(
            &at!["uplinks", index, "retry"],
            "`first` is at least 10ms and `longest` not shorter than it",
        );
    }
    let use_when = use_when(check, index, uplink).filter(|_| uplink.enabled);
    let [
        connect_within,
        dial_within,
        answer_within,
        write_within,
        user_timeout,
    ] = patience;
    Some(uplink::Settings {
        name: uplink.name.clone(),
        index: position,
        remotes: uplink.to.0.clone(),
        proxy: uplink.proxy.clone(),
        resolve: uplink.resolve,
        own_listeners: own_listeners(check),
        protocol: uplink.protocol,
        client_id: uplink
            .client_id
            .clone()
            .unwrap_or_else(|| check.file.site.clone().unwrap_or_default()),
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
        connect_within,
        dial_within,
        lookup_within: dial_within,
        answer_within,
        write_within,
        tcp: tcp(uplink, user_timeout),
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

fn tcp(uplink: &file::Uplink, user_timeout: Duration) -> uplink::Tcp {
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

/// Refuses an uplink to a listener of the gateway itself.
fn leads_elsewhere(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) {
    // What a proxy calls localhost is not this machine.
    if !uplink.enabled || uplink.proxy.is_some() {
        return;
    }
    let own = own_listeners(check);
    if uplink
        .to
        .0
        .iter()
        .any(|remote| uplink::leads_back(&remote.host, remote.port, &own))
    {
        check.fault(
            &at!["uplinks", index, "to"],
            "the broker of this gateway listens at this address: each message would come back and be sent again without end; write the address of the remote broker",
        );
    }
}

/// How long the remote keeps the session, in seconds.
fn session_expiry(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) -> u32 {
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
    uplink: &file::Uplink,
) -> Vec<(String, uplink::Secret)> {
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

/// The patience of an uplink: connecting, TCP alone, answers, writing, and the kernel's.
fn patience(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) -> [Duration; 5] {
    let keys: [(&'static str, Option<Duration>, u64); 4] = [
        (
            "connect_within",
            uplink.connect_within.map(|span| span.0),
            30,
        ),
        ("dial_within", uplink.dial_within.map(|span| span.0), 8),
        ("answer_within", uplink.answer_within.map(|span| span.0), 30),
        ("write_within", uplink.write_within.map(|span| span.0), 30),
    ];
    let mut chosen = [Duration::ZERO; 5];
    for (place, (key, given, default)) in chosen.iter_mut().zip(keys) {
        if given.is_some_and(|span| span < Duration::from_millis(100)) {
            check.fault(
                &at!["uplinks", index, key],
                format!("no remote answers that fast; write at least 100ms, such as {default}s"),
            );
        }
        *place = given.unwrap_or(Duration::from_secs(default));
    }
    let user_timeout = uplink
        .tcp
        .user_timeout
        .map_or(Duration::from_secs(60), |span| span.0);
    if user_timeout < Duration::from_secs(1) {
        check.fault(
            &at!["uplinks", index, "tcp", "user_timeout"],
            "write at least 1s, such as 60s",
        );
    }
    chosen[4] = user_timeout;
    chosen
}
