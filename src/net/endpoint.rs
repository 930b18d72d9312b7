//! A host with a TCP port, as people write it.

use std::fmt;

/// Written `host:port`, with brackets around an IPv6 address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A name, or an address without brackets; not empty.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

impl Endpoint {
    /// Reads `host` or `host:port`; `None` without a host, or with a port that is none.
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            // The colons of an address in brackets are no port.
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
            _ => (text, default_port),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        (!host.is_empty()).then(|| Self {
            host: host.to_owned(),
            port,
        })
    }
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
            assert_eq!(Endpoint::parse(wrong, 1883), None, "{wrong}");
        }
        assert!(has_port("a:1") && has_port("[::1]:1"));
        assert!(!has_port("a") && !has_port("a:b") && !has_port("[::1]"));
    }
}
