//! The section `broker` as typed.

use std::path::PathBuf;

use serde::Deserialize;

use crate::broker::engine::QueueFull;
use crate::broker::net::{ClientCertificates, Listen};
use crate::units::{Size, Span};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Broker {
    pub(in crate::config) listen: Vec<Listen>,
    pub(in crate::config) tls: Option<Tls>,
    #[serde(default)]
    pub(in crate::config) allow_anonymous: bool,
    pub(in crate::config) anonymous: Option<Rules>,
    #[serde(default)]
    pub(in crate::config) users: Vec<User>,
    #[serde(default)]
    pub(in crate::config) keep: Keep,
    pub(in crate::config) max_connections: Option<usize>,
    pub(in crate::config) max_connections_per_address: Option<usize>,
    pub(in crate::config) connection_rate: Option<u32>,
    pub(in crate::config) failed_logins: Option<u32>,
    pub(in crate::config) connect_within: Option<Span>,
    pub(in crate::config) max_connect: Option<Size>,
    pub(in crate::config) max_packet: Option<Size>,
    pub(in crate::config) max_sessions: Option<usize>,
    pub(in crate::config) max_session_expiry: Option<Span>,
    pub(in crate::config) max_subscriptions: Option<usize>,
    pub(in crate::config) max_in_flight: Option<u16>,
    pub(in crate::config) max_queued: Option<usize>,
    pub(in crate::config) max_queued_size: Option<Size>,
    pub(in crate::config) max_queued_total: Option<Size>,
    #[serde(default)]
    pub(in crate::config) when_queue_full: QueueFull,
    pub(in crate::config) max_retained: Option<usize>,
    pub(in crate::config) max_retained_size: Option<Size>,
    pub(in crate::config) topic_aliases: Option<u16>,
    pub(in crate::config) max_keep_alive: Option<Span>,
    pub(in crate::config) sys_every: Option<Span>,
}

/// What survives the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Keep {
    #[default]
    Disk,
    Memory,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Tls {
    pub(in crate::config) cert: PathBuf,
    pub(in crate::config) key: PathBuf,
    pub(in crate::config) client_ca: Option<PathBuf>,
    pub(in crate::config) client_certificates: Option<ClientCertificates>,
    #[serde(default)]
    pub(in crate::config) login: Login,
}

/// What tells who a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Login {
    #[default]
    Password,
    Certificate,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct User {
    pub(in crate::config) name: String,
    pub(in crate::config) password: Option<String>,
    pub(in crate::config) scram: Option<String>,
    pub(in crate::config) read: Option<Vec<String>>,
    pub(in crate::config) write: Option<Vec<String>>,
    pub(in crate::config) subscribe: Option<Vec<String>>,
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rules {
    pub(in crate::config) read: Option<Vec<String>>,
    pub(in crate::config) write: Option<Vec<String>>,
    pub(in crate::config) subscribe: Option<Vec<String>>,
    pub(in crate::config) deny: Option<Deny>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Deny {
    #[serde(default)]
    pub(in crate::config) read: Vec<String>,
    #[serde(default)]
    pub(in crate::config) write: Vec<String>,
    #[serde(default)]
    pub(in crate::config) subscribe: Vec<String>,
}

impl User {
    pub(in crate::config) fn rules(&self) -> Rules {
        Rules { read: self.read.clone(), write: self.write.clone(), subscribe: self.subscribe.clone(), deny: self.deny.clone() }
    }
}
