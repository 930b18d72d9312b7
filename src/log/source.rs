//! The source of a log line, for its limits: a network, not a name, because a peer can have as many
//! names as it likes.

use core::net::{IpAddr, Ipv6Addr};

/// Peers that share the limits of a kind of line. Small whatever the peer sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    /// All programs of this machine, over loopback and Unix sockets.
    Local,
    /// An IPv4 address, or the /64 of an IPv6 address.
    Network(IpAddr),
    /// No connected peer: sessions without a connection, remote brokers, the gateway itself.
    Absent,
}

impl Source {
    /// Of a connected peer; `None` for a Unix socket.
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            Some(address) if !address.is_loopback() => Self::Network(network(address)),
            _ => Self::Local,
        }
    }
}

/// The address, or the /64 of an IPv6 address: a host may have any number of addresses in it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => IpAddr::V6(Ipv6Addr::from(u128::from(six) & !u128::from(u64::MAX))),
        four @ IpAddr::V4(_) => four,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_source_whatever_addresses_it_takes() {
        let of = |text: &str| Source::of(Some(text.parse().unwrap()));
        for (one, other) in [
            ("2001:db8::1", "2001:db8::ffff:1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("127.0.0.1", "::1"),
            ("127.0.0.1", "127.9.9.9"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
        ] {
            assert_eq!(of(one), of(other), "{one} {other}");
        }
        assert_eq!(of("::1"), Source::of(None));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
