//! Who may open a connection: how many there are, from where, and how fast they come.
//!
//! Invariants:
//! * What is remembered of addresses is bounded.
//! * Programs of this machine share an address. None of them shuts the others out: wrong passwords do not count there, and who comes
//!   too fast is served after a pause instead of being refused.
//! * Wrong passwords shut out the pair of address and user name first (which is the engine's to do), the address at
//!   `OF_ADDRESS` times as many, its IPv6 network at `OF_NETWORK` times as many.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::lockout::Lockout;

/// Where a client is.
pub type Address = IpAddr;

/// Addresses that are remembered; beyond it those with nothing to remember are forgotten, and then new ones are refused.
const MOST_ADDRESSES: usize = 4096;
/// Times the wrong passwords of a pair of address and user name, for the address as a whole: others may share it.
const OF_ADDRESS: u32 = 10;
/// The same for a /64, which may be a whole site.
const OF_NETWORK: u32 = 100;
/// How long a program of this machine waits that connects too fast: all programs together are not refused for one of them.
const PACE: Duration = Duration::from_millis(500);

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Of these from one address; of IPv6 the first 64 bits count.
    pub per_address: usize,
    /// New connections a second from one address; twice as many at once.
    pub rate: u32,
    /// Wrong passwords for one user name from one address within a minute; then that user is refused there for a minute. An address
    /// is shut out at 10 times as many, a /64 at 100 times as many.
    pub failed_logins: u32,
}

impl Default for AdmissionLimits {
    fn default() -> Self {
        Self { connections: 500, per_address: 250, rate: 100, failed_logins: 10 }
    }
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// All places are taken.
    #[error("too many connections; raise `broker.max_connections` if they are wanted")]
    Full,
    /// All places for its address are taken.
    #[error("too many connections from this address; raise `broker.max_connections_per_address` if they are wanted")]
    AddressFull,
    /// They come too fast.
    #[error("too many new connections from this address; raise `broker.connection_rate` if they are wanted")]
    TooFast,
    /// Too many wrong passwords.
    #[error("too many wrong passwords from this address; it is shut out for a minute")]
    ShutOut,
}

#[derive(Debug)]
struct Known {
    connections: usize,
    /// New connections it may open now.
    allowance: f64,
    seen: Instant,
}

#[derive(Debug)]
struct State {
    connections: usize,
    /// By network.
    addresses: HashMap<Address, Known>,
    by_address: Lockout<Address>,
    by_network: Lockout<Address>,
    refused: u64,
}

/// Counts connections.
#[derive(Debug)]
pub struct Admission {
    limits: AdmissionLimits,
    state: Mutex<State>,
}

/// One place; given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    admission: Arc<Admission>,
    address: Option<IpAddr>,
    /// How long it must wait before it is served.
    pub(super) pause: Duration,
}

/// A network counts as one address where a host has many.
pub(super) fn network(address: Address) -> Address {
    match address {
        IpAddr::V6(six) => match six.to_ipv4_mapped() {
            Some(four) => IpAddr::V4(four),
            None => IpAddr::V6(Ipv6Addr::from(u128::from(six) & !u128::from(u64::MAX))),
        },
        four @ IpAddr::V4(_) => four,
    }
}

impl Admission {
    /// Nobody is there.
    pub fn new(limits: AdmissionLimits) -> Self {
        let lockout = |times: u32| Lockout::new(limits.failed_logins.saturating_mul(times));
        let (by_address, by_network) = (lockout(OF_ADDRESS), lockout(OF_NETWORK));
        Self { limits, state: Mutex::new(State { connections: 0, addresses: HashMap::new(), by_address, by_network, refused: 0 }) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between statements, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; `None` stands for a Unix socket, which is bounded by the total only.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Admitted, Refused> {
        let address = address.map(|address| address.to_canonical());
        let mut state = self.lock();
        let judged = self.judge(&mut state, address, now);
        match judged {
            Ok(_) => state.connections += 1,
            Err(_) => state.refused += 1,
        }
        judged.map(|pause| Admitted { admission: self.clone(), address: address.map(network), pause })
    }

    /// Takes a place for an address. Returns how long the connection must wait.
    fn judge(&self, state: &mut State, address: Option<IpAddr>, now: Instant) -> Result<Duration, Refused> {
        if state.connections >= self.limits.connections {
            return Err(Refused::Full);
        }
        let Some(exact) = address else { return Ok(Duration::ZERO) };
        let address = network(exact);
        if state.by_address.is_locked(&exact, now) || state.by_network.is_locked(&address, now) {
            return Err(Refused::ShutOut);
        }
        Self::forget(state);
        if state.addresses.len() >= MOST_ADDRESSES && !state.addresses.contains_key(&address) {
            return Err(Refused::TooFast);
        }
        let burst = f64::from(self.limits.rate) * 2.0;
        let fresh = Known { connections: 0, allowance: burst, seen: now };
        let known = state.addresses.entry(address).or_insert(fresh);
        let since = now.saturating_duration_since(known.seen).as_secs_f64();
        known.allowance = (known.allowance + since * f64::from(self.limits.rate)).min(burst);
        known.seen = now;
        // Programs of this machine share their address with all others.
        if known.connections >= self.limits.per_address && !exact.is_loopback() {
            return Err(Refused::AddressFull);
        }
        let is_too_fast = known.allowance < 1.0;
        if is_too_fast && !exact.is_loopback() {
            return Err(Refused::TooFast);
        }
        known.allowance = (known.allowance - 1.0).max(0.0);
        known.connections += 1;
        Ok(if is_too_fast { PACE } else { Duration::ZERO })
    }

    fn forget(state: &mut State) {
        if state.addresses.len() >= MOST_ADDRESSES {
            state.addresses.retain(|_, known| known.connections > 0);
        }
    }

    /// Somebody at this address did not know a password. Nobody on this machine is counted.
    pub fn login_failed(&self, address: Option<IpAddr>, now: Instant) {
        let Some(address) = address.map(|address| address.to_canonical()).filter(|address| !address.is_loopback()) else { return };
        let mut state = self.lock();
        if state.by_address.count(address, now) {
            tracing::warn!(
                event = "broker.address_shut_out",
                %address,
                "too many wrong passwords from this address; it cannot connect for a minute"
            );
        }
        let network = network(address);
        if address.is_ipv6() && state.by_network.count(network, now) {
            tracing::warn!(
                event = "broker.network_shut_out",
                network = %format_args!("{network}/64"),
                "too many wrong passwords from this network; none of its addresses can connect for a minute"
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

impl Drop for Admitted {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        state.connections = state.connections.saturating_sub(1);
        if let Some(known) = self.address.and_then(|address| state.addresses.get_mut(&address)) {
            known.connections = known.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> (Arc<Admission>, Instant) {
        let limits = AdmissionLimits { connections: 5, per_address: 3, rate: 2, failed_logins: 2 };
        (Arc::new(Admission::new(limits)), crate::time::now())
    }

    fn at(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn places_are_counted_in_all_and_by_address_and_come_back() {
        let (admission, now) = admission();
        let mut held: Vec<Admitted> = (0..3).map(|_| admission.admit(at("192.0.2.1"), now).unwrap()).collect();
        assert_eq!(admission.admit(at("192.0.2.1"), now).unwrap_err(), Refused::AddressFull);
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
        assert_eq!(admission.admit(at("2001:db8::2"), now).unwrap_err(), Refused::TooFast, "the same network");
        assert!(admission.admit(at("2001:db8:0:1::2"), now).is_ok());
        assert!(admission.admit(at("2001:db8::1"), now + Duration::from_millis(600)).is_ok());
    }

    #[test]
    fn programs_of_this_machine_wait_where_others_are_refused() {
        let (admission, now) = admission();
        let pauses: Vec<Duration> = (0..20).map(|_| admission.admit(at("127.0.0.1"), now).unwrap().pause).collect();
        assert!(pauses.iter().take(4).all(Duration::is_zero) && pauses.iter().skip(4).all(|pause| *pause == PACE), "{pauses:?}");
        assert!(admission.admit(at("::1"), now).is_ok());
    }

    fn fail(admission: &Admission, address: &str, times: u32, now: Instant) {
        (0..times).for_each(|_| admission.login_failed(at(address), now));
    }

    #[test]
    fn an_address_is_shut_out_long_after_one_of_its_users_and_a_network_much_later() {
        let (admission, now) = admission();
        for address in ["192.0.2.1", "2001:db8::1", "127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            fail(&admission, address, 19, now);
            assert!(admission.admit(at(address), now).is_ok(), "{address}");
            fail(&admission, address, 1, now);
            let is_here = address.parse::<IpAddr>().unwrap().to_canonical().is_loopback();
            assert_eq!(admission.admit(at(address), now).err(), (!is_here).then_some(Refused::ShutOut), "{address}");
        }
        assert_eq!(admission.admit(at("::ffff:192.0.2.1"), now).unwrap_err(), Refused::ShutOut);
        assert!(admission.admit(at("2001:db8::2"), now).is_ok(), "a neighbour in the same network");
        for host in 2..11 {
            fail(&admission, &format!("2001:db8::{host}"), 20, now);
        }
        assert_eq!(admission.admit(at("2001:db8::ffff"), now).unwrap_err(), Refused::ShutOut, "200 from one network");
        assert!(admission.admit(at("2001:db8:0:1::1"), now).is_ok());
        assert!(admission.admit(at("2001:db8::1"), now + Duration::from_secs(61)).is_ok());
    }
}
