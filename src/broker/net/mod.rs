//! Listeners and connections: from bytes to packets and back. One file per transport.

mod connection;
mod linger;
mod listener;
mod origin;
mod pace;
mod refusal;
mod tls;
mod websocket;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::net::endpoint::{Endpoint, written};
pub use listener::{BoundListener, ListenError, Where};
pub use origin::{Origins, PageOrigin};
pub use tls::{ClientCertificates, Tls, TlsSettings};

/// The protocol between TCP and MQTT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `mqtt://`
    Tcp,
    /// `mqtts://`
    Tls,
    /// `ws://`
    WebSocket,
    /// `wss://`
    SecureWebSocket,
}

impl Transport {
    const ALL: [(&str, Self, u16); 4] = [
        ("mqtt", Self::Tcp, 1883),
        ("mqtts", Self::Tls, 8883),
        ("ws", Self::WebSocket, 8083),
        ("wss", Self::SecureWebSocket, 8084),
    ];

    fn scheme(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, transport, _)| *transport == self)
            .map_or("mqtt", |(scheme, ..)| scheme)
    }

    /// True with TLS.
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Tls | Self::SecureWebSocket)
    }
}

/// Where to listen, as written in the YAML: `mqtt://127.0.0.1:1883`,
/// `unix:///run/wellhead/mqtt.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A TCP port.
    Port {
        /// The protocol there.
        transport: Transport,
        /// Host name or address.
        host: String,
        /// 0 lets the system choose.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Listen {
    /// Plain MQTT on a port of this machine that the system chooses.
    pub fn any_local() -> Self {
        Self::Port {
            transport: Transport::Tcp,
            host: "127.0.0.1".to_owned(),
            port: 0,
        }
    }

    /// True if only programs of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Port { host, .. } => {
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|address| address.is_loopback())
            }
            Self::Unix(_) => true,
        }
    }

    /// True with TLS.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Self::Port { transport, .. } if transport.is_encrypted())
    }

    /// False if two listeners cannot have it.
    pub fn can_stand_twice(&self) -> bool {
        matches!(self, Self::Port { port: 0, .. })
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not a listener; write mqtt://<address>:<port>, such as mqtt://127.0.0.1:1883"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if scheme == "unix" {
            let path = PathBuf::from(rest);
            let message = || {
                format!(
                    "`{text}` has no absolute path; write unix:///<path>, such as unix:///run/wellhead/mqtt.sock"
                )
            };
            return if path.is_absolute() {
                Ok(Self::Unix(path))
            } else {
                Err(message())
            };
        }
        let Some((_, transport, usual)) =
            Transport::ALL.iter().find(|(known, ..)| *known == scheme)
        else {
            return Err(format!(
                "`{scheme}://` is not a transport; write mqtt://, mqtts://, ws:// or wss:// with <address>:<port>, or unix:///<path>"
            ));
        };
        let Endpoint { host, port } =
            Endpoint::parse(rest.trim_end_matches('/'), *usual).map_err(|error| error.or(wrong))?;
        if host.contains('/') {
            return Err(wrong());
        }
        Ok(Self::Port {
            transport: *transport,
            host,
            port,
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port {
                transport,
                host,
                port,
            } => write!(f, "{}://{}", transport.scheme(), written(host, *port)),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

impl<'de> serde::Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_written() {
        for text in [
            "mqtt://127.0.0.1:1883",
            "mqtts://[::]:8883",
            "ws://localhost:8083",
            "wss://0.0.0.0:443",
            "unix:///run/mqtt.sock",
        ] {
            assert_eq!(text.parse::<Listen>().unwrap().to_string(), text);
        }
        for (text, is_loopback) in [
            ("mqtt://127.0.0.1:1883", true),
            ("mqtt://[::]:1884", false),
            ("unix:///run/a", true),
            ("ws://[::1]", true),
        ] {
            assert_eq!(
                text.parse::<Listen>().unwrap().is_loopback(),
                is_loopback,
                "{text}"
            );
        }
        assert_eq!(
            "mqtts://[::1]".parse::<Listen>().unwrap().to_string(),
            "mqtts://[::1]:8883"
        );
        assert!(
            "127.0.0.1:1883"
                .parse::<Listen>()
                .unwrap_err()
                .contains("mqtt://")
        );
        assert!("mqtt://127.0.0.1:many".parse::<Listen>().is_err());
        assert!(
            "unix://relative"
                .parse::<Listen>()
                .unwrap_err()
                .contains("absolute")
        );
        assert!(
            "ftp://127.0.0.1:21"
                .parse::<Listen>()
                .unwrap_err()
                .contains("transport")
        );
    }
}
