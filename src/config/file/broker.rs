//! The section `broker` as typed.

use std::path::PathBuf;

use serde::Deserialize;

use super::Several;
use crate::broker::engine::QueueFull;
use crate::broker::net::{ClientCertificates, Listen, Transport};
use crate::units::{Size, Span};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Broker {
    /// Where it listens, one or a list: mqtt://, mqtts://, ws://, wss:// with <address>:<port>, or unix:///<path>. Default
    /// mqtt://127.0.0.1:1883, this machine alone.
    #[serde(default = "this_machine")]
    #[schemars(with = "Option<Several<Listen>>")]
    pub(in crate::config) listen: Several<Listen>,
    /// Origins of web pages that may connect by WebSocket, such as https://hmi.example.net. Default none; programs need no entry.
    #[serde(default)]
    pub(in crate::config) allow_origins: Vec<String>,
    /// Certificates of encrypted listeners.
    pub(in crate::config) tls: Option<Tls>,
    /// Other machines need no name. Default false.
    #[serde(default)]
    pub(in crate::config) allow_anonymous: bool,
    /// What clients without a name may do.
    pub(in crate::config) anonymous: Option<Rules>,
    /// Who may log in.
    #[serde(default)]
    pub(in crate::config) users: Vec<User>,
    /// More users, in a file of their own that is read again at each reload: a YAML list like `users`, or a password file of mosquitto.
    /// Default none.
    pub(in crate::config) users_file: Option<PathBuf>,
    /// What survives everything: disk (default) or memory, that is nothing.
    #[serde(default)]
    pub(in crate::config) keep: Keep,
    /// Connections at a time. Default 500.
    pub(in crate::config) max_connections: Option<usize>,
    /// Connections of one address. A /64 of IPv6 may have four times as many, but at most three quarters of all. Default half of all, at
    /// least 250.
    pub(in crate::config) max_connections_per_address: Option<usize>,
    /// New connections of one address in a second, and ten times as many of a /64 of IPv6; faster ones are refused, on loopback they wait.
    /// Default 100.
    pub(in crate::config) connection_rate: Option<u32>,
    /// Wrong passwords for one user name from one address in a minute; then it is refused there for a minute. Ten times as many shut
    /// out the address, a hundred times as many its IPv6 /64. Programs of this machine are never locked. Default 10.
    pub(in crate::config) failed_logins: Option<u32>,
    /// How long a client may take to log in, at least 1s. Default 10s.
    pub(in crate::config) connect_within: Option<Span>,
    /// Largest CONNECT packet, 1kB to 64MB. Default 64KiB.
    pub(in crate::config) max_connect: Option<Size>,
    /// Largest packet taken from a client, 1kB to 64MB. Default 1MiB.
    pub(in crate::config) max_packet: Option<Size>,
    /// Sessions, connected or kept; then those away for longest go. Default 2000.
    pub(in crate::config) max_sessions: Option<usize>,
    /// Longest time that a session is kept. Default as long as its client wants.
    pub(in crate::config) max_session_expiry: Option<Span>,
    /// Size of what one session may hold besides messages: client identifier, subscriptions, will, topic aliases, unfinished QoS 2
    /// messages of its client. Default 1MiB.
    pub(in crate::config) max_session_size: Option<Size>,
    /// The same for all sessions of one user, or of one address without a user name; 6kB of each session do not count. Default 8MiB.
    pub(in crate::config) max_user_size: Option<Size>,
    /// The same for all sessions. Default 24MiB.
    pub(in crate::config) max_sessions_size: Option<Size>,
    /// Subscriptions of one client. Default 1000.
    pub(in crate::config) max_subscriptions: Option<usize>,
    /// QoS 1 and 2 messages under way to a client, and from one, which is read more slowly beyond it; an MQTT 5 client with 16 times as
    /// many is disconnected. Default 64.
    pub(in crate::config) max_in_flight: Option<u16>,
    /// Messages kept for one client. Default 10000.
    pub(in crate::config) max_queued: Option<usize>,
    /// Their size. Default 4MiB.
    pub(in crate::config) max_queued_size: Option<Size>,
    /// Size of what is kept for all clients together and is under way to them, each message once. Default 64MiB.
    pub(in crate::config) max_queued_total: Option<Size>,
    /// What goes when a queue is full: drop-newest (default) or drop-oldest.
    #[serde(default)]
    pub(in crate::config) when_queue_full: QueueFull,
    /// Retained messages. Default 10000.
    pub(in crate::config) max_retained: Option<usize>,
    /// Their size. Default 32MiB.
    pub(in crate::config) max_retained_size: Option<Size>,
    /// Topic aliases of MQTT 5, each way. Default 16.
    pub(in crate::config) topic_aliases: Option<u16>,
    /// Longest keep alive, at least 5s. Default any.
    pub(in crate::config) max_keep_alive: Option<Span>,
    /// How often $SYS is published; 0s never. Default 10s.
    pub(in crate::config) sys_every: Option<Span>,
}

fn this_machine() -> Several<Listen> {
    Several(vec![Listen::Port { transport: Transport::Tcp, host: "127.0.0.1".to_owned(), port: 1883 }])
}

/// What survives the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Keep {
    #[default]
    Disk,
    Memory,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tls {
    /// The certificate (PEM), with those between it and the authority.
    pub(in crate::config) cert: PathBuf,
    /// Its key (PEM).
    pub(in crate::config) key: PathBuf,
    /// The authority that signs certificates of clients (PEM).
    pub(in crate::config) client_ca: Option<PathBuf>,
    /// Certificates of clients that are revoked (PEM): a list of each authority that signs them. Read again on SIGHUP.
    pub(in crate::config) crl: Option<PathBuf>,
    /// Whether clients need one: none, optional or required. Default required with `client_ca`.
    pub(in crate::config) client_certificates: Option<ClientCertificates>,
    /// What tells who a client is: password (default) or certificate, its common name.
    #[serde(default)]
    pub(in crate::config) login: Login,
}

/// What tells who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Login {
    #[default]
    Password,
    Certificate,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct User {
    /// The user name.
    pub(in crate::config) name: String,
    /// Another user, whose `client_ids`, `read`, `write`, `subscribe` and `deny` hold where this one has none of its own. Without a
    /// password, that one cannot log in. Default none.
    pub(in crate::config) like: Option<String>,
    /// What `wellhead passwd` or mosquitto_passwd prints; never the password itself.
    pub(in crate::config) password: Option<String>,
    /// For enhanced authentication; what `wellhead passwd --scram` prints.
    pub(in crate::config) scram: Option<String>,
    /// Client identifiers this user may have, with %u for the user and a # at the end for any rest, such as hmi-%u-#; nobody else may
    /// have those. Default any that is not in the list of another user.
    pub(in crate::config) client_ids: Option<Vec<String>>,
    /// Topics that may be read, with +, # and %c, %u for client identifier and user. Default all.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may be published to. Default all but those that write to instruments.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may be asked for. Default those that overlap with `read`.
    pub(in crate::config) subscribe: Option<Vec<String>>,
    /// What is denied whatever the other lists say.
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rules {
    /// Topics that may be read, with +, # and %c, %u for client identifier and user. Default all.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may be published to. Default all but those that write to instruments.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may be asked for. Default those that overlap with `read`.
    pub(in crate::config) subscribe: Option<Vec<String>>,
    /// What is denied whatever the other lists say.
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Deny {
    /// Topics that may not be read.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may not be published to.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may not be asked for.
    pub(in crate::config) subscribe: Option<Vec<String>>,
}

impl User {
    pub(in crate::config) fn rules(&self) -> Rules {
        Rules { read: self.read.clone(), write: self.write.clone(), subscribe: self.subscribe.clone(), deny: self.deny.clone() }
    }
}
