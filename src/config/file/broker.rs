//! The section `broker` as typed.

use std::path::PathBuf;

use serde::Deserialize;

use super::Several;
use crate::broker::engine::QueueFull;
use crate::broker::net::{ClientCertificates, Listen, Transport};
use crate::units::{Size, Span};

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct BrokerConfig {
    /// Listening addresses, one or a list: mqtt://, mqtts://, ws://, wss:// with <address>:<port>,
    /// or unix:///<path>. Default mqtt://127.0.0.1:1883, which only this machine can reach.
    #[serde(default = "this_machine")]
    #[schemars(with = "Option<Several<Listen>>")]
    pub(in crate::config) listen: Several<Listen>,
    /// Origins of web pages that may connect by WebSocket, such as https://hmi.example.net. Default
    /// none; programs need no entry.
    #[serde(default)]
    pub(in crate::config) allow_origins: Vec<String>,
    /// Certificates of encrypted listeners.
    pub(in crate::config) tls: Option<TlsConfig>,
    /// Clients on other machines may connect without a user name. Default false.
    #[serde(default)]
    pub(in crate::config) allow_anonymous: bool,
    /// Rights of clients without a user name.
    pub(in crate::config) anonymous: Option<RulesConfig>,
    /// Users who may log in, with their rights.
    #[serde(default)]
    pub(in crate::config) users: Vec<UserConfig>,
    /// More users, in a file of their own that is read again at each reload: a YAML list like
    /// `users`, or a password file of mosquitto. Default none.
    pub(in crate::config) users_file: Option<PathBuf>,
    /// Where sessions, queues and retained messages are kept: disk (default), or memory, where they
    /// do not survive a restart.
    #[serde(default)]
    pub(in crate::config) keep: BrokerKeep,
    /// Open connections. Default 500.
    pub(in crate::config) max_connections: Option<usize>,
    /// Open connections from one address. An IPv6 /64 may have four times as many, but at most
    /// three quarters of all. Default half of all, at least 250.
    pub(in crate::config) max_connections_per_address: Option<usize>,
    /// New connections per second from one address; an IPv6 /64 may have ten times as many. Further
    /// ones are refused, on loopback they wait. Default 100.
    pub(in crate::config) connection_rate: Option<u32>,
    /// Wrong passwords per minute for one user name from one address, after which that name is
    /// refused from there for a minute. Ten times as many ban the address for a minute, a hundred
    /// times as many its IPv6 /64. Programs on this machine are never locked out. Default 10.
    pub(in crate::config) failed_logins: Option<u32>,
    /// How long a client may take to log in, at least 1s. Default 10s.
    pub(in crate::config) connect_within: Option<Span>,
    /// Largest CONNECT packet, 1kB to 64MB. Default 64KiB.
    pub(in crate::config) max_connect: Option<Size>,
    /// Largest packet taken from a client, 1kB to 64MB. Default 1MiB.
    pub(in crate::config) max_packet: Option<Size>,
    /// Sessions, connected or kept. Beyond the limit those absent for longest are deleted. Default
    /// 2000.
    pub(in crate::config) max_sessions: Option<usize>,
    /// How long the session of an absent client is kept at most. Default as long as the client asks
    /// for.
    pub(in crate::config) max_session_expiry: Option<Span>,
    /// Size of one session without queued messages: client identifier, subscriptions, will, topic
    /// aliases, unfinished QoS 2 messages from its client. Default 1MiB.
    pub(in crate::config) max_session_size: Option<Size>,
    /// The same for all sessions of one user, or of one address without a user name; 6kB of each
    /// session do not count. Default 8MiB.
    pub(in crate::config) max_user_size: Option<Size>,
    /// The same for all sessions. Default 24MiB.
    pub(in crate::config) max_sessions_size: Option<Size>,
    /// Subscriptions of one client. Default 1000.
    pub(in crate::config) max_subscriptions: Option<usize>,
    /// QoS 1 and 2 messages in flight from one client. A client that exceeds it is read more
    /// slowly; an MQTT 5 client with 16 times as many is disconnected. Default 64.
    pub(in crate::config) max_in_flight: Option<u16>,
    /// QoS 1 and 2 messages in flight to one client; an MQTT 5 client may ask for fewer. Their size
    /// is bounded as that of queued ones is. Default `max_in_flight` if that is written, or 512.
    pub(in crate::config) send_window: Option<u16>,
    /// Messages queued for one client. Default 10000.
    pub(in crate::config) max_queued: Option<usize>,
    /// Their size. Default 4MiB.
    pub(in crate::config) max_queued_size: Option<Size>,
    /// Size of the messages queued for and in flight to all clients, each message counted once.
    /// Default 64MiB.
    pub(in crate::config) max_queued_total: Option<Size>,
    /// Which message is dropped when a queue is full: drop-newest (default) or drop-oldest.
    #[serde(default)]
    pub(in crate::config) when_queue_full: QueueFull,
    /// Retained messages. Default 10000.
    pub(in crate::config) max_retained: Option<usize>,
    /// Their size. Default 32MiB.
    pub(in crate::config) max_retained_size: Option<Size>,
    /// Topic aliases of MQTT 5, each way. Default 16.
    pub(in crate::config) topic_aliases: Option<u16>,
    /// Longest keep alive, at least 5s. Default unlimited.
    pub(in crate::config) max_keep_alive: Option<Span>,
    /// How often $SYS is published; 0s never. Default 10s.
    pub(in crate::config) sys_every: Option<Span>,
}

fn this_machine() -> Several<Listen> {
    Several(vec![Listen::Port {
        transport: Transport::Tcp,
        host: "127.0.0.1".to_owned(),
        port: 1883,
    }])
}

/// What survives the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum BrokerKeep {
    #[default]
    Disk,
    Memory,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct TlsConfig {
    /// The certificate (PEM) with its intermediate certificates.
    pub(in crate::config) cert: PathBuf,
    /// Its key (PEM).
    pub(in crate::config) key: PathBuf,
    /// The authority that signs client certificates (PEM).
    pub(in crate::config) client_ca: Option<PathBuf>,
    /// Certificate revocation lists for client certificates (PEM), one of each authority that signs
    /// them. Read again on SIGHUP.
    pub(in crate::config) crl: Option<PathBuf>,
    /// Whether clients need a certificate: none, optional or required. Default required with
    /// `client_ca`.
    pub(in crate::config) client_certificates: Option<ClientCertificates>,
    /// How a client identifies its user: password (default), or certificate, whose common name is
    /// the user name.
    #[serde(default)]
    pub(in crate::config) login: LoginMethod,
}

/// What tells who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum LoginMethod {
    #[default]
    Password,
    Certificate,
}

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UserConfig {
    /// The user name.
    pub(in crate::config) name: String,
    /// Another user, whose `client_ids`, `read`, `write`, `subscribe` and `deny` apply where this
    /// one has none of its own. A user without a password is a template and cannot log in. Default
    /// none.
    pub(in crate::config) like: Option<String>,
    /// What `wellhead passwd` or mosquitto_passwd prints; never the password itself.
    pub(in crate::config) password: Option<String>,
    /// For enhanced authentication; what `wellhead passwd --scram` prints.
    pub(in crate::config) scram: Option<String>,
    /// Client identifiers this user may have, with %u for the user and a # at the end for any rest,
    /// such as hmi-%u-#; nobody else may have those. Default any that is not in the list of another
    /// user.
    pub(in crate::config) client_ids: Option<Vec<String>>,
    /// Topics that may be read, with +, # and %c, %u for client identifier and user. Default all.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may be published to. Default all except those that write to instruments.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may be subscribed to. Default those that overlap with `read`.
    pub(in crate::config) subscribe: Option<Vec<String>>,
    /// Topics that are denied. Deny rules take precedence.
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RulesConfig {
    /// Topics that may be read, with +, # and %c, %u for client identifier and user. Default all.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may be published to. Default all except those that write to instruments.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may be subscribed to. Default those that overlap with `read`.
    pub(in crate::config) subscribe: Option<Vec<String>>,
    /// Topics that are denied. Deny rules take precedence.
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Deny {
    /// Topics that may not be read.
    pub(in crate::config) read: Option<Vec<String>>,
    /// Topics that may not be published to.
    pub(in crate::config) write: Option<Vec<String>>,
    /// Filters that may not be subscribed to.
    pub(in crate::config) subscribe: Option<Vec<String>>,
}

impl UserConfig {
    pub(in crate::config) fn rules(&self) -> RulesConfig {
        RulesConfig {
            read: self.read.clone(),
            write: self.write.clone(),
            subscribe: self.subscribe.clone(),
            deny: self.deny.clone(),
        }
    }
}
