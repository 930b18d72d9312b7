//! Northbound: what waits in an outbox goes to a remote broker; what the remote has for this site
//! comes in.
//!
//! Invariants:
//! * A message is settled only when the remote acknowledged it (QoS 1), has it for good (QoS 2),
//!   when it was written to the wire (QoS 0, which a cut may take all the same), or when it will
//!   never be delivered: then it is kept as a dead letter, or told as a gap. A backup also settles
//!   what it took and the other link carries.
//! * Messages of a lane leave in the order of the outbox; after a reconnect what was in flight goes
//!   first, marked as a repetition.
//! * QoS 2 arrives exactly once, across kill -9 and reconnects, while the remote keeps the session.
//! * The remote knows whether this gateway lives (`presence`), as far as it takes a will and a
//!   retained message.
//! * What comes from the remote is acknowledged when the broker has it safe, and is never offered
//!   back to the remote.
//! * The state of the link is published once per change: in the log, and on
//!   `$SYS/broker/connection/<name>/state` and `$SYS/wellhead/uplink/<name>`; what was given up on
//!   `$SYS/wellhead/uplink/<name>/gap`.
//!
//! `cloud` knows what AWS IoT Core and Azure IoT Hub want besides MQTT.
//!
//! `session`, `memory`, `lanes`, `news`, `pace`, `presence`, `probable`, `rates`, `rivals`,
//! `silence`, `subscriptions`, `copies`, `suspicion` and `throttle` are the pure state, `transport`
//! the byte stream, `dial` races addresses, `link` the packets (the only place that names rumqttc),
//! `credentials` and `tls` what is shown and trusted in, `route` the way out of this machine, `own`
//! whether it leads back to this gateway, `task` connects, `connection` carries (what comes:
//! `connection/receive`), `inbound` takes in, `purge` removes what a person does not want.

mod batch;
mod burials;
mod channels;
mod client;
pub mod cloud;
mod connection;
mod copies;
mod credentials;
mod dial;
mod failure;
mod headers;
mod inbound;
mod lanes;
mod link;
mod memory;
mod news;
mod own;
mod pace;
mod presence;
mod probable;
mod purge;
mod rates;
mod remote;
mod rivals;
mod route;
mod schemas;
mod session;
mod silence;
mod status;
mod subscriptions;
mod suspicion;
mod task;
mod throttle;
mod tls;
mod transport;
mod turns;

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::mqtt::{QoS, TopicFilter};
pub use channels::UplinkChannels;
pub use client::{Uplink, UplinkUpdate, prepare};
pub use credentials::{Password, RemoteLogin};
pub use dial::Resolve;
pub use headers::header;
pub use inbound::Inbound;
pub use own::{OwnListener, leads_back};
pub use presence::Presence;
pub(crate) use presence::bytes_of as bytes_of_presence;
pub use purge::{Purge, Purges, Removed};
pub use remote::{Proxy, Remote, Scheme};
pub use rivals::ClientIdTaken;
pub use status::ToldGap;
pub use tls::is_server_name;

/// The MQTT version spoken to a remote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protocol {
    /// MQTT 5.0.
    #[default]
    V5,
    /// MQTT 3.1.1.
    V311,
}

impl<'de> Deserialize<'de> for Protocol {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// YAML takes 5 for a number and 3.1.1 for text.
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum AsTyped {
            Whole(u64),
            Decimal(f64),
            Text(String),
        }
        let text = match AsTyped::deserialize(deserializer) {
            Ok(AsTyped::Whole(number)) => number.to_string(),
            Ok(AsTyped::Decimal(number)) => number.to_string(),
            Ok(AsTyped::Text(text)) => text,
            Err(_) => String::new(),
        };
        match text.as_str() {
            "5" | "5.0" => Ok(Self::V5),
            "3.1.1" | "4" => Ok(Self::V311),
            _ => Err(serde::de::Error::custom("the MQTT version is 5 or 3.1.1")),
        }
    }
}

/// A secret; never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RemoteSecret(pub String);

impl std::fmt::Debug for RemoteSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// How the TCP connection is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp {
    /// Small packets leave at once.
    pub nodelay: bool,
    /// How long what was sent may stay unacknowledged by the other side's TCP; the kernel looks
    /// only when it repeats.
    pub user_timeout: Duration,
    /// The network interface it must use.
    pub interface: Option<String>,
    /// The congestion control, if not that of the system.
    pub congestion: Option<String>,
}

/// Remote topics that come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receive {
    /// Which.
    pub filter: TopicFilter,
    /// The QoS they come with, at most.
    pub qos: QoS,
}

/// When a backup is used: a message of another uplink's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UseWhen {
    /// Index of the other uplink.
    pub uplink: usize,
    /// How long that must have been down.
    pub down_for: Duration,
}

/// One uplink as configured.
#[derive(Debug, Clone, PartialEq)]
pub struct UplinkSettings {
    /// Its name in the YAML.
    pub name: String,
    /// Its index; the origin of what it receives.
    pub index: usize,
    /// Where it connects to: the one that worked last first, then in the order of the file.
    pub remotes: Vec<Remote>,
    /// An HTTP proxy on the way.
    pub proxy: Option<Proxy>,
    /// Which addresses of a name are used.
    pub resolve: Resolve,
    /// Where this gateway listens itself.
    pub own_listeners: Vec<OwnListener>,
    /// MQTT version.
    pub protocol: Protocol,
    /// The same for ever: the remote knows the session by it.
    pub client_id: String,
    /// PEM file of the authorities to trust; the system's without it.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that is asked for in the TLS handshake, and that the certificate must be for;
    /// without it that of the address.
    pub server_name: Option<String>,
    /// Headers of the request that opens a WebSocket.
    pub headers: Vec<(String, RemoteSecret)>,
    /// How long the remote may keep the session, in seconds (MQTT 5).
    pub session_expiry: u32,
    /// Protocols offered in the TLS handshake (ALPN).
    pub alpn: Vec<String>,
    /// User name and password.
    pub login: Option<RemoteLogin>,
    /// Differs when a file of certificates or the password file holds something else.
    pub content: u32,
    /// Filters of messages that come in.
    pub receive: Vec<Receive>,
    /// How the remote learns whether this gateway lives; `None` if it does not.
    pub presence: Option<Presence>,
    /// Silence after which the link is tested.
    pub keep_alive: Duration,
    /// TCP, TLS and CONNACK together.
    pub connect_within: Duration,
    /// TCP to one address.
    pub dial_within: Duration,
    /// How long the name server may take for an address.
    pub lookup_within: Duration,
    /// A remote that owes answers and says nothing for this long is gone.
    pub answer_within: Duration,
    /// A link that takes no byte for this long is dead.
    pub write_within: Duration,
    /// TCP.
    pub tcp: Tcp,
    /// Largest packet sent, in bytes, if the remote does not tell (MQTT 3.1.1 cannot).
    pub max_packet: Option<u32>,
    /// Messages in flight.
    pub window: u16,
    /// First and longest pause between attempts.
    pub retry: (Duration, Duration),
    /// The longest pause while the remote does not answer at all; `None` for what keeps a metered
    /// link cheap.
    pub longest_silence: Option<Duration>,
    /// Whether each message names itself by the user property `seq` (MQTT 5).
    pub numbered: bool,
    /// Least time between two commits of packet identifiers, unless many wait.
    pub save_every: Duration,
    /// For a backup; `None` for an uplink that is always used.
    pub use_when: Option<UseWhen>,
    /// A cloud whose rules go beyond MQTT.
    pub cloud: Option<cloud::Cloud>,
}

impl UplinkSettings {
    /// Why a message of the remote has no topic here.
    fn why_unusable(&self) -> &'static str {
        self.cloud
            .as_ref()
            .and_then(cloud::Cloud::why_unusable)
            .unwrap_or("its topic is too deep or not allowed")
    }

    /// How to let the remote accept will and state.
    fn presence_remedy(&self) -> &'static str {
        self.cloud
            .as_ref()
            .and_then(cloud::Cloud::presence_remedy)
            .unwrap_or("allow the gateway to publish retained messages to this topic")
    }

    /// The subscriptions behind `receive`.
    fn asked_for(&self) -> Vec<Receive> {
        self.cloud.as_ref().map_or_else(
            || self.receive.clone(),
            |cloud| cloud.filters(&self.receive),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", RemoteSecret("hunter2".to_owned())), "***");
    }
}
