//! Pauses after another client with the same client identifier has taken the place of this one.
//!
//! Both get in again after their pause, and end the connection of the other: the pauses grow so that the two do not fight, and a
//! connection as long as the pause of the other one is no sign that it is gone.

use std::time::Duration;

use super::{PROVEN, Uplink};
use crate::backoff::Backoff;
use crate::mqtt::ReasonCode;
use crate::uplink::link::LinkError;

/// First and longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// The other one is gone if a connection lived so many times longer than the last pause here: its own pause may have doubled, and
/// varies by a quarter.
const LONGER_THAN_PAUSE: u32 = 4;

#[derive(Debug)]
pub(super) struct Rivals {
    backoff: Backoff,
    last: Duration,
}

impl Rivals {
    pub(super) fn new() -> Self {
        Self { backoff: Backoff::new(PAUSE.0, PAUSE.1), last: Duration::ZERO }
    }

    /// The pause after another takeover.
    pub(super) fn next_delay(&mut self) -> Duration {
        self.last = self.backoff.next_delay();
        self.last
    }

    /// True as long as there may be another client.
    pub(super) fn are_there(&self) -> bool {
        self.last > Duration::ZERO
    }

    /// A connection lived so long.
    pub(super) fn lived(&mut self, lifetime: Duration) {
        if lifetime >= PROVEN.max(self.last * LONGER_THAN_PAUSE) {
            *self = Self::new();
        }
    }
}

impl Uplink {
    /// The pause after a connection that lived so long and that another client has ended; `None` if it was not that. The session stays
    /// what it is, and so does what is in flight: both are gone on with afterwards.
    pub(super) fn pause_for_rival(&mut self, rivals: &mut Rivals, error: &LinkError, lifetime: Duration) -> Option<Duration> {
        let were_there = rivals.are_there();
        rivals.lived(lifetime);
        self.shares_session &= !were_there || rivals.are_there();
        if !matches!(error, LinkError::Closed { reason: Some(ReasonCode::SESSION_TAKEN_OVER), .. }) {
            return None;
        }
        let pause = rivals.next_delay();
        self.shares_session = true;
        self.status.disconnected(&error.to_string());
        self.status.taken_over(&self.settings.client_id, pause);
        Some(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_gateways_fight_less_and_less() {
        let (mut one, mut other) = (Rivals::new(), Rivals::new());
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            last = one.next_delay();
            other.lived(last);
            one.lived(other.next_delay());
        }
        assert!(last >= PAUSE.1.mul_f64(0.75), "{last:?}");
    }

    #[test]
    fn a_connection_that_was_good_for_a_while_begins_again_with_the_first_pause() {
        let mut rivals = Rivals::new();
        for _ in 0..3 {
            rivals.next_delay();
        }
        rivals.lived(Duration::from_secs(5));
        assert!(rivals.next_delay() > PAUSE.0 * 2, "a short connection says nothing");
        rivals.lived(Duration::from_secs(600));
        assert!(rivals.next_delay() <= PAUSE.0.mul_f64(1.25));
    }
}
