//! Addresses: of remote brokers and of proxies.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use super::RemoteSecret;
use crate::net::endpoint::{Endpoint, written};

/// How packets travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// TCP.
    Mqtt,
    /// TLS.
    Mqtts,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

/// A remote broker, written `mqtts://host:port`; with `ws://` and `wss://` a path may follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// How packets travel.
    pub scheme: Scheme,
    /// Name or address; the certificate must be for it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Of the WebSocket; empty for the others.
    pub path: String,
}

/// An HTTP proxy, written `http://[user:password@]host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// User name and password.
    pub login: Option<(String, RemoteSecret)>,
}

impl Remote {
    /// True if a certificate is involved.
    pub fn is_tls(&self) -> bool {
        matches!(self.scheme, Scheme::Mqtts | Scheme::Wss)
    }
}

impl FromStr for Remote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('@') {
            // Not told again: it may hold a password.
            return Err(
                "an address holds no login; write it as `user:` and `password_file:`".to_owned(),
            );
        }
        let wrong = || {
            format!(
                "`{text}` is not a remote broker; write mqtts://<host>:<port>, mqtt://, wss:// or ws://"
            )
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (scheme, default) = match scheme {
            "mqtt" => (Scheme::Mqtt, 1883),
            "mqtts" => (Scheme::Mqtts, 8883),
            "ws" => (Scheme::Ws, 80),
            "wss" => (Scheme::Wss, 443),
            other => {
                return Err(format!(
                    "`{other}://` is not a transport; write mqtts://, mqtt://, wss:// or ws://"
                ));
            }
        };
        let (address, path) = rest
            .split_once('/')
            .map_or((rest, String::new()), |(address, path)| {
                (address, format!("/{path}"))
            });
        let is_web_socket = matches!(scheme, Scheme::Ws | Scheme::Wss);
        if !is_web_socket && path.len() > 1 {
            return Err(format!(
                "`{text}` has a path, which only ws:// and wss:// have; remove `{path}`"
            ));
        }
        let Endpoint { host, port } =
            Endpoint::parse(address, default).map_err(|error| error.or(wrong))?;
        Ok(Self {
            scheme,
            host,
            port,
            path: if is_web_socket { path } else { String::new() },
        })
    }
}

impl<'de> Deserialize<'de> for Remote {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Mqtt => "mqtt",
            Scheme::Mqtts => "mqtts",
            Scheme::Ws => "ws",
            Scheme::Wss => "wss",
        };
        write!(
            f,
            "{scheme}://{}{}",
            written(&self.host, self.port),
            self.path
        )
    }
}

impl FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            "a proxy is written http://<host>:<port>, or http://<user>:<password>@<host>:<port>"
                .to_owned()
        };
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(wrong)?
            .trim_end_matches('/');
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(login.split_once(':').ok_or_else(wrong)?), address),
            None => (None, rest),
        };
        let Endpoint { host, port } =
            Endpoint::parse(address, 3128).map_err(|error| error.or(wrong))?;
        Ok(Self {
            host,
            port,
            login: login
                .map(|(user, password)| (user.to_owned(), RemoteSecret(password.to_owned()))),
        })
    }
}

impl<'de> Deserialize<'de> for Proxy {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", written(&self.host, self.port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_are_read() {
        let check = |text: &str, scheme, host: &str, port, path: &str| {
            assert_eq!(
                text.parse(),
                Ok(Remote {
                    scheme,
                    host: host.to_owned(),
                    port,
                    path: path.to_owned()
                })
            );
        };
        check(
            "mqtts://cloud.example.net:8884",
            Scheme::Mqtts,
            "cloud.example.net",
            8884,
            "",
        );
        check(
            "mqtts://cloud.example.net/",
            Scheme::Mqtts,
            "cloud.example.net",
            8883,
            "",
        );
        check("mqtt://10.0.0.1", Scheme::Mqtt, "10.0.0.1", 1883, "");
        check("mqtt://[::1]:1884", Scheme::Mqtt, "::1", 1884, "");
        check("ws://[::1]", Scheme::Ws, "::1", 80, "");
        check(
            "wss://cloud.example.net/mqtt",
            Scheme::Wss,
            "cloud.example.net",
            443,
            "/mqtt",
        );
        let error = "mqtt://2001:db8::1".parse::<Remote>().unwrap_err();
        assert!(error.contains("[2001:db8::1]:1883"), "{error}");
        for wrong in [
            "cloud:1883",
            "mqtt://",
            "mqtt://a:b",
            "http://a:1",
            "mqtt://a/path",
            "mqtt://me:secret@a",
        ] {
            assert!(wrong.parse::<Remote>().is_err(), "{wrong}");
        }
        assert!(
            !"mqtt://me:secret@a"
                .parse::<Remote>()
                .unwrap_err()
                .contains("secret")
        );
        assert_eq!(
            "wss://[::1]:9/x".parse::<Remote>().unwrap().to_string(),
            "wss://[::1]:9/x"
        );
    }

    #[test]
    fn proxies_are_read_and_their_passwords_not_printed() {
        let proxy: Proxy = "http://site:p@ss@proxy.example.net:8080".parse().unwrap();
        assert_eq!(
            (proxy.host.as_str(), proxy.port),
            ("proxy.example.net", 8080)
        );
        assert_eq!(
            proxy.login,
            Some(("site".to_owned(), RemoteSecret("p@ss".to_owned())))
        );
        assert!(!format!("{proxy} {proxy:?}").contains("p@ss"));
        assert!("https://proxy".parse::<Proxy>().is_err() && "http://".parse::<Proxy>().is_err());
    }
}
