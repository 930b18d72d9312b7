//! Pauses after another client with the same client identifier has taken the place of this one. Pure.
//!
//! Both get in again after their pause, and end the connection of the other: the pauses grow so that the two do not fight, and a
//! connection as long as the pause of the other one is no sign that it is gone.

use std::time::Duration;

use super::PROVEN;
use crate::backoff::Backoff;

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

    /// A connection lived so long.
    pub(super) fn lived(&mut self, lifetime: Duration) {
        if lifetime >= PROVEN.max(self.last * LONGER_THAN_PAUSE) {
            *self = Self::new();
        }
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
