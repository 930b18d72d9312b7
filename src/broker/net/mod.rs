//! Listeners and connections: bytes on one side, packets on the other. One file per transport.

mod connection;
mod tcp;

use std::fmt;
use std::str::FromStr;

pub use tcp::{BoundListener, ListenError};

/// Where to listen, as written in the YAML: `mqtt://127.0.0.1:1883`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Host name or address.
    pub host: String,
    /// 0 lets the system choose.
    pub port: u16,
}

impl Listen {
    /// True if only programs of this machine can reach it.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }
}

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a listener; write mqtt://<address>:<port>, such as mqtt://127.0.0.1:1883");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        if scheme != "mqtt" {
            return Err(format!("`{scheme}://` is not a transport of this version; write mqtt://<address>:<port>"));
        }
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').unwrap_or((rest, "1883"));
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| wrong())? })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "mqtt://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "mqtt://{}:{}", self.host, self.port)
        }
    }
}

impl<'de> serde::Deserialize<'de> for Listen {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_written() {
        let listen: Listen = "mqtt://127.0.0.1:1883".parse().unwrap();
        assert_eq!((listen.host.as_str(), listen.port), ("127.0.0.1", 1883));
        assert!(listen.is_loopback());
        let six: Listen = "mqtt://[::]:1884".parse().unwrap();
        assert_eq!(six.to_string(), "mqtt://[::]:1884");
        assert!(!six.is_loopback());
        assert!("127.0.0.1:1883".parse::<Listen>().unwrap_err().contains("mqtt://"));
        assert!("mqtt://127.0.0.1:many".parse::<Listen>().is_err());
        assert!("ftp://127.0.0.1:21".parse::<Listen>().unwrap_err().contains("transport"));
    }
}
