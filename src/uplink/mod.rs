//! Northbound: what waits in an outbox goes to a remote broker; what the remote has for this site comes in.
//!
//! Invariants:
//! * A message is settled only when the remote acknowledged it (QoS 1), when it was written to the wire (QoS 0), or when it can
//!   never be delivered: refused for good, too large, expired, unreadable. That is logged, and counted unless it expired.
//! * Messages leave in the order of the outbox; after a reconnect what was in flight goes first, marked as a repetition.
//! * Messages that came from the remote are never offered back to it.
//! * The state of the link is told once per change: in the log, and on `$SYS/broker/connection/<name>/state` and
//!   `$SYS/wellhead/uplink/<name>`.
//!
//! `session` is the pure state, `link` the transport (the only place that names rumqttc), `tls` the certificates, `task` drives.

mod link;
mod session;
mod status;
mod task;
mod tls;

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

use crate::mqtt::TopicFilter;
pub use task::{Uplink, prepare};
pub use tls::TlsError;

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
        enum Typed {
            Whole(u64),
            Decimal(f64),
            Text(String),
        }
        let text = match Typed::deserialize(deserializer) {
            Ok(Typed::Whole(number)) => number.to_string(),
            Ok(Typed::Decimal(number)) => number.to_string(),
            Ok(Typed::Text(text)) => text,
            Err(_) => String::new(),
        };
        match text.as_str() {
            "5" | "5.0" => Ok(Self::V5),
            "3.1.1" | "4" => Ok(Self::V311),
            _ => Err(serde::de::Error::custom("the MQTT version is 5 or 3.1.1")),
        }
    }
}

/// A remote broker, written `mqtt://host:port` or `mqtts://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// Name or address; the certificate must be for it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// True for `mqtts`.
    pub tls: bool,
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a remote broker; write mqtts://<host>:<port> or mqtt://<host>:<port>");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "mqtt" => false,
            "mqtts" => true,
            other => return Err(format!("`{other}://` is not a transport of this version; write mqtts:// or mqtt://")),
        };
        let rest = rest.trim_end_matches('/');
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() { Err(wrong()) } else { Ok(Self { host: host.to_owned(), port, tls }) }
    }
}

impl<'de> Deserialize<'de> for Remote {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

/// A secret; never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One uplink as configured.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Its name in the YAML.
    pub name: String,
    /// Its index; the origin of what it receives.
    pub index: usize,
    /// Where it connects to.
    pub remote: Remote,
    /// MQTT version.
    pub protocol: Protocol,
    /// The same for ever: the remote knows the session by it.
    pub client_id: String,
    /// PEM file of the authorities to trust; the system's without it.
    pub ca: Option<PathBuf>,
    /// PEM files of the client certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// User name and password.
    pub login: Option<(String, Secret)>,
    /// What comes in.
    pub receive: Vec<TopicFilter>,
    /// Silence after which the link is tested.
    pub keep_alive: Duration,
    /// TCP, TLS and CONNACK together.
    pub connect_within: Duration,
    /// Messages in flight.
    pub window: u16,
    /// First and longest pause between attempts.
    pub retry: (Duration, Duration),
    /// Whether each message carries its sequence number as the user property `seq` (MQTT 5).
    pub numbered: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read() {
        let check = |text: &str, host: &str, port, tls| assert_eq!(text.parse(), Ok(Remote { host: host.to_owned(), port, tls }));
        check("mqtts://cloud.example.net:8884", "cloud.example.net", 8884, true);
        check("mqtts://cloud.example.net", "cloud.example.net", 8883, true);
        check("mqtt://10.0.0.1", "10.0.0.1", 1883, false);
        check("mqtt://[::1]:1884", "::1", 1884, false);
        check("mqtt://[::1]", "::1", 1883, false);
        for wrong in ["cloud:1883", "mqtt://", "mqtt://a:b", "http://a:1"] {
            assert!(wrong.parse::<Remote>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert_eq!(format!("{:?}", Secret("hunter2".to_owned())), "***");
    }
}
