//! Whether an address leads back to a listener of this gateway: an uplink that goes there sends
//! each message to itself, without end.
//!
//! No name server is asked: a name is this machine's if it is `localhost`, the name of the host, or
//! in `/etc/hosts` with an address of this machine. Other names show where they lead when a
//! connection is made.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// A listener of this gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnListener {
    /// Host name or address as configured.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// Names of this machine.
struct HostNames {
    /// The text of `/etc/hosts`.
    hosts: String,
    /// Of the host.
    own: String,
}

impl HostNames {
    fn of_this_machine() -> Self {
        let own = rustix::system::uname()
            .nodename()
            .to_string_lossy()
            .into_owned();
        Self {
            hosts: fs::read_to_string("/etc/hosts").unwrap_or_default(),
            own,
        }
    }

    /// The addresses of a host that are known here.
    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        if let Some(address) = literal(host) {
            return vec![address];
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let mut found = Vec::new();
        if name == "localhost" || name.ends_with(".localhost") {
            found.extend([
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(Ipv6Addr::LOCALHOST),
            ]);
        }
        for line in self.hosts.lines() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let address = words.next().and_then(literal);
            if words.any(|word| word.eq_ignore_ascii_case(&name)) {
                found.extend(address);
            }
        }
        found
    }

    /// True for the name of the host, also as it is announced in a local network.
    fn is_own(&self, host: &str) -> bool {
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        let own = self.own.to_ascii_lowercase();
        let short = own.split('.').next().unwrap_or_default();
        !short.is_empty()
            && (name == own || name == short || name.strip_suffix(".local") == Some(short))
    }

    fn leads_to(&self, host: &str, port: u16, listeners: &[OwnListener]) -> bool {
        let at_port = listeners
            .iter()
            .filter(|listener| listener.port == port && port != 0);
        let targets = self.addresses(host);
        let is_own_name = self.is_own(host);
        at_port.into_iter().any(|listener| {
            let heard = self.addresses(&listener.host);
            // Where its name leads is not known: to any network interface.
            let by_name = is_own_name
                && (self.is_own(&listener.host)
                    || heard.iter().any(|address| !address.is_loopback()));
            by_name
                || listener.host.eq_ignore_ascii_case(host)
                || targets
                    .iter()
                    .any(|target| heard.iter().any(|heard| hears(*heard, *target)))
        })
    }
}

/// True if a connection from this machine to `host` and `port` comes to one of these listeners.
pub fn leads_back(host: &str, port: u16, listeners: &[OwnListener]) -> bool {
    !listeners.is_empty() && HostNames::of_this_machine().leads_to(host, port, listeners)
}

/// An address in any spelling that the system takes: `::1`, `127.0.0.1`, `127.1`, `0x7f000001`,
/// `::ffff:127.0.0.1`.
fn literal(host: &str) -> Option<IpAddr> {
    let host = host.split('%').next().unwrap_or_default();
    let address: Option<IpAddr> = host.parse().ok().or_else(|| loose(host).map(IpAddr::V4));
    address.map(|address| address.to_canonical())
}

/// One to four numbers, decimal, octal or hexadecimal; the last one fills what is left (inet_aton).
fn loose(host: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if part.len() > 1 && part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last()?;
    if first.len() > 3 || first.iter().any(|part| *part > 255) {
        return None;
    }
    let free = 32 - 8 * u32::try_from(first.len()).ok()?;
    if free < 32 && *last >> free != 0 {
        return None;
    }
    let high = first
        .iter()
        .zip([24, 16, 8])
        .map(|(part, shift)| part << shift)
        .sum::<u32>();
    Some(Ipv4Addr::from_bits(high | last))
}

/// True if a listener at one address gets connections of this machine to the other one.
fn hears(listener: IpAddr, target: IpAddr) -> bool {
    // The system connects to itself where no address is given.
    let target = match target {
        IpAddr::V4(address) if address.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(address) if address.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        target => target,
    };
    if !listener.is_unspecified() {
        return listener == target;
    }
    (listener.is_ipv6() || target.is_ipv4()) && is_of_this_machine(target)
}

/// A socket can be bound to an address of this machine only.
fn is_of_this_machine(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: &str =
        "127.0.0.1 localhost\n127.0.1.1 pump.example.net pump # this one\n192.0.2.9 cloud\n";

    fn check(target: &str, port: u16, listener: &str, expected: bool) {
        let names = HostNames {
            hosts: HOSTS.to_owned(),
            own: "Pump".to_owned(),
        };
        let listeners = [OwnListener {
            host: listener.to_owned(),
            port: 1883,
        }];
        assert_eq!(
            names.leads_to(target, port, &listeners),
            expected,
            "{target}:{port} and a listener at {listener}"
        );
    }

    #[test]
    fn every_spelling_of_this_machine_leads_back() {
        for target in [
            "localhost",
            "LOCALHOST.",
            "x.localhost",
            "127.0.0.1",
            "127.1",
            "0x7f000001",
            "2130706433",
            "0177.0.0.1",
            "0.0.0.0",
            "0",
        ] {
            check(target, 1883, "0.0.0.0", true);
            check(target, 1883, "::", true);
            check(target, 1884, "0.0.0.0", false);
        }
        for target in [
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "pump",
            "pump.local",
            "pump.example.net",
            "127.0.1.1",
        ] {
            check(target, 1883, "::", true);
        }
        check("localhost", 1883, "127.0.0.1", true);
        check("localhost", 1883, "::1", true);
        check("pump", 1883, "0.0.0.0", true);
        check("pump", 1883, "192.0.2.7", true);
        check("pump", 1883, "pump", true);
        check("192.0.2.7", 1883, "192.0.2.7", true);
        check("Broker.lan", 1883, "broker.lan", true);
    }

    #[test]
    fn other_machines_and_other_addresses_of_this_one_do_not() {
        for target in [
            "cloud",
            "192.0.2.9",
            "cloud.example.net",
            "localhost.example.net",
            "1.2.3.4.5",
            "256.0.0.1.",
            "2001:db8::1",
        ] {
            check(target, 1883, "0.0.0.0", false);
            check(target, 1883, "127.0.0.1", false);
        }
        check("pump", 1883, "127.0.0.1", false);
        check("127.0.0.2", 1883, "127.0.0.1", false);
        check("::1", 1883, "0.0.0.0", false);
    }
}
