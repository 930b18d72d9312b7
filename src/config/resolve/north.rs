//! Broker, outbox and uplinks.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Check, at};
use crate::broker::engine::Limits;
use crate::config::{Broker, Uplink, file};
use crate::mqtt::TopicName;
use crate::outbox::SendRule;
use crate::{store, uplink};

const DEFAULT_FOLDER: &str = "/var/lib/wellhead";
const DEFAULT_SIZE: u64 = 1_000_000_000;
const SMALLEST_SIZE: u64 = 16_000_000;
const DEFAULT_SAVE: Duration = Duration::from_millis(50);
const DEFAULT_CONNECTIONS: usize = 500;
const MOST_CONNECTIONS: usize = 100_000;
const DEFAULT_WINDOW: u16 = 500;
const SHORTEST_KEEP_ALIVE: Duration = Duration::from_secs(5);

pub(super) fn broker(check: &mut Check<'_>) -> Option<Broker> {
    let file = check.file.broker.as_ref()?;
    if file.listen.is_empty() {
        check.missing(&at!["broker", "listen"], "a broker needs a listener; write [ 'mqtt://127.0.0.1:1883' ]");
    }
    for (index, listen) in file.listen.iter().enumerate() {
        if !listen.is_loopback() && !file.allow_anonymous {
            check.fault(&at!["broker", "listen", index], format!("{listen} can be reached from other machines without a password; listen on 127.0.0.1, or write `allow_anonymous: true` if that is what you want"));
        }
        if file.listen.iter().take(index).any(|other| other == listen && listen.port != 0) {
            check.fault(&at!["broker", "listen", index], format!("{listen} stands here twice; remove one"));
        }
    }
    let defaults = Limits::default();
    let max_packet = file.max_packet.map_or(defaults.max_packet, |size| usize::try_from(size.0).unwrap_or(usize::MAX));
    if !(1024..=64 << 20).contains(&max_packet) {
        check.fault(&at!["broker", "max_packet"], "write a size from 1kB to 64MB");
    }
    let max_connections = file.max_connections.unwrap_or(DEFAULT_CONNECTIONS);
    if !(1..=MOST_CONNECTIONS).contains(&max_connections) {
        check.fault(&at!["broker", "max_connections"], format!("write a number from 1 to {MOST_CONNECTIONS}"));
    }
    if file.max_queued == Some(0) {
        check.fault(&at!["broker", "max_queued"], "type 1 or more, such as 10000");
    }
    let limits = Limits {
        max_packet,
        max_queued: file.max_queued.unwrap_or(defaults.max_queued),
        sys_every: file.sys_every.map_or(defaults.sys_every, |span| span.0.max(Duration::from_millis(100))),
        ..defaults
    };
    Some(Broker { listen: file.listen.clone(), limits, max_connections })
}

pub(super) fn outbox(check: &mut Check<'_>) -> (PathBuf, store::Settings) {
    let file = &check.file.outbox;
    let folder = check.folder.join(file.folder.as_deref().unwrap_or(Path::new(DEFAULT_FOLDER)));
    let size = file.keep.size.map_or(DEFAULT_SIZE, |size| size.0);
    if size < SMALLEST_SIZE {
        check.fault(&at!["outbox", "keep", "size"], "an outbox needs at least 16MB");
    }
    let save_every = file.save.every.map_or(DEFAULT_SAVE, |span| span.0);
    if save_every > Duration::from_secs(60) {
        check.fault(
            &at!["outbox", "save", "every"],
            "local clients would wait that long for every acknowledgement; write at most 60s, such as 50ms",
        );
    }
    (folder, store::Settings { save_every, limits: store::Limits::of(size) })
}

pub(super) fn uplinks(check: &mut Check<'_>, has_broker: bool) -> Vec<Uplink> {
    let file = check.file;
    let names: Vec<&str> = file.uplinks.iter().map(|uplink| uplink.name.as_str()).collect();
    check.unique("uplinks", &names);
    let mut resolved = Vec::new();
    for (index, uplink) in file.uplinks.iter().enumerate() {
        if uplink.name.contains(['/', '\\']) || uplink.name.starts_with('.') {
            check.fault(&at!["uplinks", index, "name"], "the name becomes a folder and a topic level; write letters, digits and dashes");
        }
        if !uplink.receive.is_empty() && !has_broker && !check.document.has("broker") {
            check
                .fault(&at!["uplinks", index, "receive"], "what comes in needs a local broker to go to; add `broker:` or remove `receive`");
        }
        let rules = rules(check, index, uplink);
        let settings = settings(check, index, resolved.len(), uplink);
        if let Some(settings) = settings.filter(|_| uplink.enabled) {
            resolved.push(Uplink { settings, rules });
        }
    }
    resolved
}

fn rules(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) -> Vec<SendRule> {
    let mut rules = Vec::new();
    for (number, send) in uplink.send.iter().enumerate() {
        let at = at!["uplinks", index, "send", number, "prefix"];
        if !send.prefix.is_empty() && TopicName::new(format!("{}x", send.prefix)).is_err() {
            check.fault(&at, "a prefix is put before topics and must not contain + or #; write it with its slash, such as oilco/");
        }
        let qos = check.class(send.class.as_ref(), &at!["uplinks", index, "send", number, "class"]);
        rules.push(SendRule { filter: send.filter.clone(), prefix: send.prefix.clone(), qos });
    }
    rules
}

fn settings(check: &mut Check<'_>, index: usize, position: usize, uplink: &file::Uplink) -> Option<uplink::Settings> {
    if (uplink.ca.is_some() || uplink.cert.is_some()) && !uplink.to.tls {
        check.fault(&at!["uplinks", index, "to"], "certificates are for mqtts://; change `to` or remove `ca`, `cert` and `key`");
    }
    let identity = match (&uplink.cert, &uplink.key) {
        (Some(cert), Some(key)) => Some((check.folder.join(cert), check.folder.join(key))),
        (None, None) => None,
        _ => {
            check.fault(&at!["uplinks", index], "a client certificate needs both `cert` and `key`");
            None
        }
    };
    for (key, path) in [("ca", &uplink.ca), ("cert", &uplink.cert), ("key", &uplink.key)] {
        let path = path.as_ref().filter(|_| uplink.enabled).map(|path| check.folder.join(path));
        if let Some((path, error)) = path.and_then(|path| Some((path.clone(), std::fs::File::open(path).err()?))) {
            check.fault(
                &at!["uplinks", index, key],
                format!("{}: {error}; name a PEM file that the user who runs wellhead can read", path.display()),
            );
        }
    }
    let login = login(check, index, uplink);
    let keep_alive = uplink.keep_alive.map_or(Duration::from_secs(30), |span| span.0);
    if keep_alive < SHORTEST_KEEP_ALIVE || keep_alive > Duration::from_secs(65_535) {
        check.fault(&at!["uplinks", index, "keep_alive"], "write a duration from 5s to 18h, such as 30s");
    }
    if uplink.connect_within.is_some_and(|span| span.0 < Duration::from_millis(100)) {
        check.fault(&at!["uplinks", index, "connect_within"], "no remote answers that fast; write at least 100ms, such as 30s");
    }
    if uplink.client_id.as_ref().is_some_and(String::is_empty) {
        check.fault(&at!["uplinks", index, "client_id"], "the remote knows the session by this name; type one or remove `client_id`");
    }
    let same = |other: &&file::Uplink| other.enabled && uplink.enabled && other.to == uplink.to && other.client_id == uplink.client_id;
    if check.file.uplinks.iter().take(index).any(|other| same(&other)) {
        check.fault(
            &at!["uplinks", index],
            "two uplinks to one remote with one `client_id` would disconnect each other; give this one another `client_id`",
        );
    }
    if uplink.window == Some(0) {
        check.fault(&at!["uplinks", index, "window"], "at least one message must be in flight; write 1 or more, such as 500");
    }
    let retry = uplink.retry.as_ref().map_or((Duration::from_secs(1), Duration::from_secs(60)), |retry| (retry.first.0, retry.longest.0));
    if retry.0 < Duration::from_millis(10) || retry.1 < retry.0 {
        check.fault(&at!["uplinks", index, "retry"], "`first` is at least 10ms and `longest` not shorter than it");
    }
    Some(uplink::Settings {
        name: uplink.name.clone(),
        index: position,
        remote: uplink.to.clone(),
        protocol: uplink.protocol,
        client_id: uplink.client_id.clone().unwrap_or_else(|| check.file.site.clone().unwrap_or_default()),
        ca: uplink.ca.as_ref().map(|path| check.folder.join(path)),
        identity,
        login: login.ok()?,
        receive: uplink.receive.iter().map(|receive| receive.filter.clone()).collect(),
        keep_alive,
        connect_within: uplink.connect_within.map_or(Duration::from_secs(30), |span| span.0),
        window: uplink.window.unwrap_or(DEFAULT_WINDOW),
        retry,
        numbered: uplink.number_messages,
    })
}

/// User and password; `Err` if a fault was noted.
fn login(check: &mut Check<'_>, index: usize, uplink: &file::Uplink) -> Result<Option<(String, uplink::Secret)>, ()> {
    let password = match (&uplink.password, &uplink.password_file) {
        (Some(_), Some(_)) => {
            check.fault(&at!["uplinks", index, "password"], "keep either `password` or `password_file`");
            return Err(());
        }
        (Some(secret), None) => Some(secret.clone()),
        // The secret of an uplink that is switched off may not be there yet.
        (None, Some(_)) if !uplink.enabled => Some(uplink::Secret(String::new())),
        (None, Some(file)) => Some(read_secret(check, index, file)?),
        (None, None) => None,
    };
    match (&uplink.user, password) {
        (Some(user), Some(password)) => Ok(Some((user.clone(), password))),
        (None, None) => Ok(None),
        (Some(_), None) => {
            check.fault(&at!["uplinks", index, "user"], "a user needs a password; add `password_file:`");
            Err(())
        }
        (None, Some(_)) => {
            check.fault(&at!["uplinks", index], "a password needs a user; add `user:`");
            Err(())
        }
    }
}

/// The first line of a file: a systemd credential of that name, or a path from the folder of the YAML.
fn read_secret(check: &mut Check<'_>, index: usize, file: &Path) -> Result<uplink::Secret, ()> {
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|folder| Path::new(&folder).join(file)).filter(|path| path.is_file());
    let path = credential.unwrap_or_else(|| check.folder.join(file));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(uplink::Secret(text.lines().next().unwrap_or_default().to_owned())),
        Err(error) => {
            check.fault(
                &at!["uplinks", index, "password_file"],
                format!("{}: {error}; name a file that the user who runs wellhead can read", path.display()),
            );
            Err(())
        }
    }
}
