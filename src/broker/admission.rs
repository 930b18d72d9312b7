//! Who may open a connection: how many there are, from where, and how fast they come.
//!
//! Invariants: what is remembered of addresses is bounded; programs of this machine are not shut out for wrong passwords, because
//! one of them would shut out all.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where a client is.
pub type Address = IpAddr;

/// Addresses that are remembered; beyond it those with nothing to remember are forgotten, and then new ones are refused.
const MOST_ADDRESSES: usize = 4096;
/// How long wrong passwords count, and how long an address with too many is shut out.
const MEMORY: Duration = Duration::from_secs(60);

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Connections at a time.
    pub connections: usize,
    /// Of these from one address; of IPv6 the first 64 bits count.
    pub per_address: usize,
    /// New connections a second from one address; twice as many at once.
    pub rate: u32,
    /// Wrong passwords from one address within a minute; then it is shut out for a minute.
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
    failures: u32,
    failed: Instant,
}

#[derive(Debug, Default)]
struct State {
    connections: usize,
    addresses: HashMap<Address, Known>,
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
}

/// A network counts as one address where a host has many.
fn network(address: IpAddr) -> IpAddr {
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
        Self { limits, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between statements, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place; `None` stands for a Unix socket, which is bounded by the total only.
    pub fn admit(self: &Arc<Self>, address: Option<IpAddr>, now: Instant) -> Result<Admitted, Refused> {
        let address = address.map(network);
        let mut state = self.lock();
        let judged = self.judge(&mut state, address, now);
        match judged {
            Ok(()) => state.connections += 1,
            Err(_) => state.refused += 1,
        }
        judged.map(|()| Admitted { admission: self.clone(), address })
    }

    fn judge(&self, state: &mut State, address: Option<IpAddr>, now: Instant) -> Result<(), Refused> {
        if state.connections >= self.limits.connections {
            return Err(Refused::Full);
        }
        let Some(address) = address else { return Ok(()) };
        self.forget(state, now);
        if state.addresses.len() >= MOST_ADDRESSES && !state.addresses.contains_key(&address) {
            return Err(Refused::TooFast);
        }
        let burst = f64::from(self.limits.rate) * 2.0;
        let fresh = Known { connections: 0, allowance: burst, seen: now, failures: 0, failed: now };
        let known = state.addresses.entry(address).or_insert(fresh);
        let since = now.saturating_duration_since(known.seen).as_secs_f64();
        known.allowance = (known.allowance + since * f64::from(self.limits.rate)).min(burst);
        known.seen = now;
        let is_shut_out = known.failures >= self.limits.failed_logins && now < known.failed + MEMORY && !address.is_loopback();
        if is_shut_out {
            return Err(Refused::ShutOut);
        }
        if known.connections >= self.limits.per_address {
            return Err(Refused::AddressFull);
        }
        if known.allowance < 1.0 {
            return Err(Refused::TooFast);
        }
        known.allowance -= 1.0;
        known.connections += 1;
        Ok(())
    }

    fn forget(&self, state: &mut State, now: Instant) {
        if state.addresses.len() >= MOST_ADDRESSES {
            let is_worth_it = |known: &Known| known.connections > 0 || (known.failures > 0 && now < known.failed + MEMORY);
            state.addresses.retain(|_, known| is_worth_it(known));
        }
    }

    /// Somebody at this address did not know the password.
    pub fn login_failed(&self, address: Option<IpAddr>, now: Instant) {
        let mut state = self.lock();
        let Some(known) = address.map(network).and_then(|address| state.addresses.get_mut(&address)) else { return };
        if now >= known.failed + MEMORY {
            known.failures = 0;
        }
        if known.failures == 0 {
            known.failed = now;
        }
        known.failures += 1;
        if known.failures == self.limits.failed_logins {
            // From now on it is shut out for the whole time.
            known.failed = now;
            tracing::warn!(address = ?address, "too many wrong passwords: no connections from there for a minute");
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
    fn wrong_passwords_shut_an_address_out_for_a_minute() {
        let (admission, now) = admission();
        for address in ["192.0.2.1", "127.0.0.1"] {
            let _held = admission.admit(at(address), now).unwrap();
            admission.login_failed(at(address), now);
            admission.login_failed(at(address), now);
        }
        assert_eq!(admission.admit(at("192.0.2.1"), now).unwrap_err(), Refused::ShutOut);
        assert!(admission.admit(at("127.0.0.1"), now).is_ok());
        assert!(admission.admit(at("192.0.2.1"), now + Duration::from_secs(61)).is_ok());
    }
}
