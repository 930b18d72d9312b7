//! The web pages that may open a WebSocket to the broker. Programs send no `Origin`, or name the
//! broker itself; browsers name the page.
//!
//! Invariants:
//! * A page that no rule names gets nothing, wherever its browser runs: not on the gateway
//!   (`ws://127.0.0.1`), and not by a name that its owner lets point at the gateway.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The origin of a page: `https://hmi.example.net`, with a port that is not the scheme's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageOrigin(String);

impl FromStr for PageOrigin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "`{text}` is not the origin of a page; write scheme, host and port only, such as https://hmi.example.net"
            )
        };
        let lower = text.to_ascii_lowercase();
        let (scheme, authority) = lower.split_once("://").ok_or_else(wrong)?;
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        if scheme.is_empty() || authority.is_empty() || !authority.chars().all(is_plain) {
            return Err(wrong());
        }
        let usual = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => "",
        };
        let authority = authority.strip_suffix(usual).unwrap_or(authority);
        Ok(Self(format!("{scheme}://{authority}")))
    }
}

impl fmt::Display for PageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pages that may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins {
    listed: Vec<PageOrigin>,
    /// The names of this machine.
    own_names: Vec<String>,
}

impl Origins {
    /// Pages of these origins only.
    pub fn new(listed: Vec<PageOrigin>) -> Self {
        let name = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .to_ascii_lowercase();
        let own_names = if name.is_empty() {
            Vec::new()
        } else {
            vec![format!("{name}.local"), name]
        };
        Self { listed, own_names }
    }

    /// True if a client that sends this `Origin` with this `Host` may connect. `null`, which pages
    /// in files and sandboxes have, may not.
    pub(super) fn allow(&self, origin: &str, host: &str) -> bool {
        let Ok(typed) = origin.parse::<PageOrigin>() else {
            return false;
        };
        self.listed.contains(&typed) || self.is_own(origin, host)
    }

    /// Some programs, paho among them, name the host they connect to. A page of that host would
    /// have come from this port, and there are none; but a host name may be another owner's and
    /// only point here, so it must be one that no other owner can have.
    fn is_own(&self, origin: &str, host: &str) -> bool {
        let (origin, host) = (origin.to_ascii_lowercase(), host.to_ascii_lowercase());
        let is_same = origin
            .split_once("://")
            .is_some_and(|(_, authority)| authority == host);
        let bare = match host.strip_prefix('[') {
            Some(six) => six.split(']').next().unwrap_or_default(),
            None => host.split(':').next().unwrap_or_default(),
        };
        is_same
            && (bare == "localhost"
                || bare.parse::<IpAddr>().is_ok()
                || self.own_names.iter().any(|own| own == bare))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listed_pages_and_programs_that_name_the_broker_itself_may_connect() {
        let origins = Origins {
            listed: vec![
                "https://HMI.example.net".parse().unwrap(),
                "http://hmi.example.net:8080".parse().unwrap(),
            ],
            own_names: vec!["pump-7".to_owned()],
        };
        for (origin, host, expected) in [
            ("https://hmi.example.net", "10.0.0.1:8083", true),
            ("https://hmi.example.net:443", "10.0.0.1:8083", true),
            ("http://hmi.example.net", "10.0.0.1:8083", false),
            ("http://hmi.example.net:8080", "10.0.0.1:8083", true),
            (
                "https://hmi.example.net.evil.example",
                "10.0.0.1:8083",
                false,
            ),
            ("https://evil.example", "127.0.0.1:8083", false),
            ("http://localhost:3000", "localhost:8083", false),
            ("null", "127.0.0.1:8083", false),
            ("", "127.0.0.1:8083", false),
            ("http://127.0.0.1:8083", "127.0.0.1:8083", true),
            ("https://[::1]:8083", "[::1]:8083", true),
            ("http://pump-7:8083", "pump-7:8083", true),
            // A foreign name that points here.
            ("http://evil.example:8083", "evil.example:8083", false),
        ] {
            assert_eq!(origins.allow(origin, host), expected, "{origin} at {host}");
        }
        for text in [
            "*",
            "null",
            "hmi.example.net",
            "https://",
            "https://a/b",
            "https://a b",
        ] {
            assert!(text.parse::<PageOrigin>().is_err(), "{text}");
        }
    }
}
