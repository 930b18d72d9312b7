//! A host with a TCP port, as people write it.

use std::fmt;
use std::net::Ipv6Addr;

/// Why a text is no host with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// It has no host, or a port that is none.
    #[error("write <host>:<port>")]
    Malformed,
    /// Its end could be a port as well as a part of the address.
    #[error("an IPv6 address is written in brackets, such as {in_brackets}")]
    NoBrackets {
        /// What to write instead.
        in_brackets: String,
    },
}

impl EndpointError {
    /// The error for a person: `malformed`, unless there is a better remedy.
    pub fn or(self, malformed: impl FnOnce() -> String) -> String {
        match self {
            Self::Malformed => malformed(),
            Self::NoBrackets { .. } => self.to_string(),
        }
    }
}

/// Written `host:port`, with brackets around an IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an address without brackets; not empty.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `host` or `host:port`.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, EndpointError> {
        if is_ipv6(text) {
            let in_brackets = written(text, default_port);
            return Err(EndpointError::NoBrackets { in_brackets });
        }
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an address in brackets are no port.
            Some((host, port)) if !port.ends_with(']') => {
                let port = port.parse().map_err(|_| EndpointError::Malformed)?;
                (host, port)
            }
            _ => (text, default_port),
        };
        if is_ipv6(host) {
            let in_brackets = written(host, port);
            return Err(EndpointError::NoBrackets { in_brackets });
        }
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() {
            return Err(EndpointError::Malformed);
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// An IPv6 address without brackets, with or without a zone.
fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&written(&self.host, self.port))
    }
}

/// A host with a port, as [`Endpoint::parse`] reads it.
pub fn written(host: &str, port: u16) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

/// True if a port follows the host.
pub fn has_port(text: &str) -> bool {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| port.parse::<u16>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_read_and_written() {
        let check = |text: &str, host: &str, port, written: &str| {
            let read = Endpoint::parse(text, 1883).unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
            assert_eq!(read.to_string(), written);
        };
        check("a.example.net", "a.example.net", 1883, "a.example.net:1883");
        check("10.0.0.1:502", "10.0.0.1", 502, "10.0.0.1:502");
        check("[::1]", "::1", 1883, "[::1]:1883");
        check("[fe80::1]:0", "fe80::1", 0, "[fe80::1]:0");
        for wrong in [
            "", ":1", "[]", "[]:1", "a:", "a:b", "a:65536", "a:-1", "[::1]5",
        ] {
            assert_eq!(
                Endpoint::parse(wrong, 1883),
                Err(EndpointError::Malformed),
                "{wrong}"
            );
        }
        assert!(has_port("a:1") && has_port("[::1]:1"));
        assert!(!has_port("a") && !has_port("a:b") && !has_port("[::1]"));
    }

    #[test]
    fn an_ipv6_address_needs_brackets() {
        for (bare, in_brackets) in [
            ("2001:db8::1", "[2001:db8::1]:1883"),
            ("::1", "[::1]:1883"),
            ("::", "[::]:1883"),
            ("fe80::1%eth0", "[fe80::1%eth0]:1883"),
            ("2001:db8::1:8883", "[2001:db8::1:8883]:1883"),
            ("1:2:3:4:5:6:7:8:8883", "[1:2:3:4:5:6:7:8]:8883"),
        ] {
            let error = Endpoint::parse(bare, 1883).unwrap_err();
            assert_eq!(
                error,
                EndpointError::NoBrackets {
                    in_brackets: in_brackets.to_owned()
                }
            );
            assert!(Endpoint::parse(in_brackets, 1).is_ok(), "{in_brackets}");
        }
    }
}
