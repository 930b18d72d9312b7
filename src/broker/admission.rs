//! Admission of connections: bounds on their number, by address, and on their rate.
//!
//! Invariants:
//! * The number of remembered addresses is bounded.
//! * Programs of this machine share an address. None of them gets the others banned: wrong
//!   passwords do not count there, and a program that connects too fast is served after a pause
//!   instead of being refused.
//! * Wrong passwords ban the pair of address and user name first (which the engine does), the
//!   address at `OF_ADDRESS` times as many, its IPv6 network at `OF_NETWORK` times as many.
//! * In the same way connections and their rate count by address; the /64 of an IPv6 address has a
//!   multiple of both, and leaves a quarter of all places to others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lockout::Lockout;
use crate::log::network;

/// The address of a client.
pub type Address = IpAddr;

/// Addresses that are remembered, or more where more can have connections; beyond it those without
/// a connection are forgotten.
const MOST_ADDRESSES: usize = 4096;
/// The limit of an address as a whole, in limits of a pair of address and user name: others may
/// share the address.
const OF_ADDRESS: u32 = 10;
/// The same for a /64, which may be a whole site.
const OF_NETWORK: u32 = 100;
/// The rate and the connections of a /64, in those of an address: a /64 may be one host, or a whole
/// site.
const NETWORK_RATE: u32 = 10;
const NETWORK_PLACES: usize = 4;
/// The pause of a program of this machine that connects too fast: its address is that of all
/// others, so it is not refused.
const PACE: Duration = Duration::from_millis(500);

/// The bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Of these from one address. A /64 of IPv6 may have four times as many, but at most three
    /// quarters of all.
    pub per_address: usize,
    /// New connections a second from one address; twice as many at once. A /64 of IPv6 may have ten
    /// times as many.
    pub rate: u32,
    /// Wrong passwords for one user name from one address within a minute; then that user is
    /// refused there for a minute. An address is banned at 10 times as many, a /64 at 100 times as
    /// many.
    pub failed_logins: u32,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self {
            connections: 500,
            per_address: 250,
            rate: 100,
            failed_logins: 10,
        }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All places are taken.
    #[error("too many connections; raise `broker.max_connections` if they are wanted")]
    Full,
    /// All places for its address are taken.
    #[error(
        "too many connections from this address; raise `broker.max_connections_per_address` if they are wanted"
    )]
    AddressFull,
    /// New connections come too fast.
    #[error(
        "too many new connections from this address; raise `broker.connection_rate` if they are wanted"
    )]
    TooFast,
    /// Too many wrong passwords.
    #[error("too many wrong passwords from this address; it is banned for one minute")]
    ShutOut,
}

#[derive(Debug)]
struct KnownAddress {
    connections: usize,
    /// New connections it may open now.
    allowance: f64,
    seen: Instant,
}

/// Connections by address, or by network.
#[derive(Debug)]
struct Counted {
    most: usize,
    /// New connections a second; twice as many at once.
    rate: f64,
    known: HashMap<Address, KnownAddress>,
    /// Those that are remembered: more than can have connections.
    room: usize,
}

impl Counted {
    /// `connections` is what all addresses together may have.
    fn new(most: usize, rate: u32, connections: usize) -> Self {
        Self {
            most,
            rate: f64::from(rate),
            known: HashMap::new(),
            room: MOST_ADDRESSES.max(connections.saturating_add(1)),
        }
    }

    /// The counts of an address, as of now.
    fn refreshed(&mut self, address: Address, now: Instant) -> &mut KnownAddress {
        if self.known.len() >= self.room && !self.known.contains_key(&address) {
            self.known.retain(|_, known| known.connections > 0);
        }
        debug_assert!(self.known.len() <= self.room);
        let burst = self.rate * 2.0;
        let known = self.known.entry(address).or_insert(KnownAddress {
            connections: 0,
            allowance: burst,
            seen: now,
        });
        let since = now.saturating_duration_since(known.seen).as_secs_f64();
        known.allowance = (known.allowance + since * self.rate).min(burst);
        known.seen = now;
        known
    }

    /// Whether an address may have one connection more.
    fn check(&mut self, address: Address, now: Instant) -> Result<(), Refused> {
        // Programs of this machine share their address with all others.
        let most = if address.is_loopback() {
            usize::MAX
        } else {
            self.most
        };
        let known = self.refreshed(address, now);
        if known.connections >= most {
            return Err(Refused::AddressFull);
        }
        if known.allowance >= 1.0 {
            Ok(())
        } else {
            Err(Refused::TooFast)
        }
    }

    fn take(&mut self, address: Address, now: Instant) {
        let known = self.refreshed(address, now);
        known.allowance = (known.allowance - 1.0).max(0.0);
        known.connections += 1;
    }

    fn give_back(&mut self, address: Address) {
        if let Some(known) = self.known.get_mut(&address) {
            known.connections = known.connections.saturating_sub(1);
        }
    }
}

#[derive(Debug)]
struct AdmissionState {
    connections: usize,
    addresses: Counted,
    /// Of IPv6.
    networks: Counted,
    by_address: Lockout<Address>,
    by_network: Lockout<Address>,
    refused: u64,
}

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    state: Mutex<AdmissionState>,
}

/// A connection that may come in.
#[derive(Debug)]
pub struct Admitted {
    pub(super) place: ConnectionPlace,
    /// How long it must wait before it is served.
    pub(super) pause: Duration,
}

/// The place of one connection; given back when it is dropped.
#[derive(Debug)]
pub(super) struct ConnectionPlace {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
}

impl Admission {
    /// Without connections.
    pub fn new(limits: AdmissionLimits) -> Self {
        let lockout = |times: u32| Lockout::new(limits.failed_logins.saturating_mul(times));
        let (by_address, by_network) = (lockout(OF_ADDRESS), lockout(OF_NETWORK));
        let most = limits
            .per_address
            .saturating_mul(NETWORK_PLACES)
            .min(limits.connections - limits.connections / 4);
        let networks = Counted::new(
            most.max(limits.per_address),
            limits.rate.saturating_mul(NETWORK_RATE),
            limits.connections,
        );
        let addresses = Counted::new(limits.per_address, limits.rate, limits.connections);
        Self {
            limits,
            state: Mutex::new(AdmissionState {
                connections: 0,
                addresses,
                networks,
                by_address,
                by_network,
                refused: 0,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, AdmissionState> {
        // Whole between statements, whatever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; `None` means a Unix socket, which is bounded by the total only.
    pub fn admit(
        self: &Arc<Self>,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<Admitted, Refused> {
        let address = address.map(|address| address.to_canonical());
        let mut state = self.lock();
        let judged = self.check(&mut state, address, now);
        match judged {
            Ok(_) => state.connections += 1,
            Err(_) => state.refused += 1,
        }
        judged.map(|pause| Admitted {
            place: ConnectionPlace {
                admission: self.clone(),
                address,
            },
            pause,
        })
    }

    /// Takes a place for an address. Returns how long the connection must wait.
    fn check(
        &self,
        state: &mut AdmissionState,
        address: Option<IpAddr>,
        now: Instant,
    ) -> Result<Duration, Refused> {
        if state.connections >= self.limits.connections {
            return Err(Refused::Full);
        }
        let Some(address) = address else {
            return Ok(Duration::ZERO);
        };
        let network = of_network(address);
        if state.by_address.is_locked(&address, now)
            || network.is_some_and(|network| state.by_network.is_locked(&network, now))
        {
            return Err(Refused::ShutOut);
        }
        let judged = state
            .addresses
            .check(address, now)
            .and_then(|()| network.map_or(Ok(()), |network| state.networks.check(network, now)));
        let pause = match judged {
            Ok(()) => Duration::ZERO,
            Err(Refused::TooFast) if address.is_loopback() => PACE,
            Err(refused) => return Err(refused),
        };
        state.addresses.take(address, now);
        network
            .into_iter()
            .for_each(|network| state.networks.take(network, now));
        Ok(pause)
    }

    /// A login at this address failed. Addresses of this machine are not counted.
    pub fn login_failed(&self, address: Option<IpAddr>, now: Instant) {
        let Some(address) = address
            .map(|address| address.to_canonical())
            .filter(|address| !address.is_loopback())
        else {
            return;
        };
        let mut state = self.lock();
        if state.by_address.count(address, now) {
            tracing::warn!(
                event = "broker.address_shut_out",
                %address,
                "too many wrong passwords from this address; it is banned for one minute"
            );
        }
        if let Some(network) =
            of_network(address).filter(|network| state.by_network.count(*network, now))
        {
            tracing::warn!(
                event = "broker.network_shut_out",
                network = %format_args!("{network}/64"),
                "too many wrong passwords from this network; all its addresses are banned for one minute"
            );
        }
    }

    /// Connections at a time that are allowed.
    pub fn limits(&self) -> &AdmissionLimits {
        &self.limits
    }

    /// Connections now, and how many were refused since the start.
    pub fn counts(&self) -> (usize, u64) {
        let state = self.lock();
        (state.connections, state.refused)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.connections = state.connections.saturating_sub(1);
        if let Some(address) = self.address {
            state.addresses.give_back(address);
            of_network(address)
                .into_iter()
                .for_each(|network| state.networks.give_back(network));
        }
    }
}

/// The /64 of an IPv6 address; nothing for IPv4, where an address is a host or a site already.
fn of_network(address: Address) -> Option<Address> {
    (address.is_ipv6() && !address.is_loopback()).then(|| network(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> (Arc<Admission>, Instant) {
        let limits = AdmissionLimits {
            connections: 5,
            per_address: 3,
            rate: 2,
            failed_logins: 2,
        };
        (Arc::new(Admission::new(limits)), crate::time::now())
    }

    fn at(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn places_are_counted_in_all_and_by_address_and_come_back() {
        let (admission, now) = admission();
        let mut held: Vec<Admitted> = (0..3)
            .map(|_| admission.admit(at("192.0.2.1"), now).unwrap())
            .collect();
        assert_eq!(
            admission.admit(at("192.0.2.1"), now).unwrap_err(),
            Refused::AddressFull
        );
        held.push(admission.admit(at("192.0.2.2"), now).unwrap());
        held.push(admission.admit(None, now).unwrap());
        assert_eq!(admission.admit(None, now).unwrap_err(), Refused::Full);
        held.clear();
        assert!(admission.admit(at("192.0.2.1"), now).is_ok());
        assert_eq!(admission.counts(), (0, 2));
    }

    #[test]
    fn who_comes_too_fast_waits() {
        let (admission, now) = admission();
        for _ in 0..4 {
            drop(admission.admit(at("2001:db8::1"), now).unwrap());
        }
        assert_eq!(
            admission.admit(at("2001:db8::1"), now).unwrap_err(),
            Refused::TooFast
        );
        assert!(
            admission.admit(at("2001:db8::2"), now).is_ok(),
            "a neighbour"
        );
        assert!(
            admission
                .admit(at("2001:db8::1"), now + Duration::from_millis(600))
                .is_ok()
        );
    }

    #[test]
    fn an_ipv6_network_has_a_multiple_and_leaves_places_to_others() {
        let limits = AdmissionLimits {
            connections: 40,
            per_address: 10,
            rate: 2,
            failed_logins: 2,
        };
        let (admission, now) = (Arc::new(Admission::new(limits)), crate::time::now());
        let from = |host: u32| admission.admit(at(&format!("2001:db8::{host:x}")), now);
        let held: Vec<Admitted> = (0..30).map(|host| from(host).unwrap()).collect();
        assert_eq!(
            from(30).unwrap_err(),
            Refused::AddressFull,
            "three quarters of all places"
        );
        assert!(
            admission.admit(at("2001:db8:0:1::1"), now).is_ok()
                && admission.admit(at("192.0.2.1"), now).is_ok()
        );
        drop(held);
        let rounds = (31..100).filter(|host| from(*host).is_ok()).count();
        assert_eq!(
            rounds, 10,
            "40 at once for a network that may have 20 a second"
        );
        assert!(
            admission
                .admit(at("2001:db8::64"), now + Duration::from_millis(100))
                .is_ok()
        );
    }

    #[test]
    fn addresses_without_end_take_bounded_memory_and_their_network_is_too_fast() {
        let limits = AdmissionLimits {
            connections: 500,
            per_address: 10,
            rate: 100,
            failed_logins: 2,
        };
        let (admission, now) = (Arc::new(Admission::new(limits)), crate::time::now());
        let admitted = (0..20_000)
            .filter(|host| {
                admission
                    .admit(at(&format!("2001:db8::{host:x}")), now)
                    .is_ok()
            })
            .count();
        assert_eq!(admitted, 2000);
        let state = admission.lock();
        assert!(state.addresses.known.len() <= MOST_ADDRESSES && state.networks.known.len() == 1);
    }

    #[test]
    fn programs_of_this_machine_wait_where_others_are_refused() {
        let (admission, now) = admission();
        let pauses: Vec<Duration> = (0..20)
            .map(|_| admission.admit(at("127.0.0.1"), now).unwrap().pause)
            .collect();
        assert!(
            pauses.iter().take(4).all(Duration::is_zero)
                && pauses.iter().skip(4).all(|pause| *pause == PACE),
            "{pauses:?}"
        );
        assert!(admission.admit(at("::1"), now).is_ok());
    }

    fn fail(admission: &Admission, address: &str, times: u32, now: Instant) {
        (0..times).for_each(|_| admission.login_failed(at(address), now));
    }

    #[test]
    fn an_address_is_shut_out_long_after_one_of_its_users_and_a_network_much_later() {
        let (admission, now) = admission();
        for address in [
            "192.0.2.1",
            "2001:db8::1",
            "127.0.0.1",
            "::1",
            "::ffff:127.0.0.1",
        ] {
            fail(&admission, address, 19, now);
            assert!(admission.admit(at(address), now).is_ok(), "{address}");
            fail(&admission, address, 1, now);
            let is_here = address
                .parse::<IpAddr>()
                .unwrap()
                .to_canonical()
                .is_loopback();
            assert_eq!(
                admission.admit(at(address), now).err(),
                (!is_here).then_some(Refused::ShutOut),
                "{address}"
            );
        }
        assert_eq!(
            admission.admit(at("::ffff:192.0.2.1"), now).unwrap_err(),
            Refused::ShutOut
        );
        assert!(
            admission.admit(at("2001:db8::2"), now).is_ok(),
            "a neighbour in the same network"
        );
        for host in 2..11 {
            fail(&admission, &format!("2001:db8::{host}"), 20, now);
        }
        assert_eq!(
            admission.admit(at("2001:db8::ffff"), now).unwrap_err(),
            Refused::ShutOut,
            "200 from one network"
        );
        assert!(admission.admit(at("2001:db8:0:1::1"), now).is_ok());
        assert!(
            admission
                .admit(at("2001:db8::1"), now + Duration::from_secs(61))
                .is_ok()
        );
    }
}
