//! How long the link takes for a message and its acknowledgement, as far as the messages sent lately show. Pure: the caller brings the
//! time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::outbox::Place;

/// How long an orderly end waits for acknowledgements, whatever the link usually takes: a busy remote is not a slow one,
const SHORTEST_PATIENCE: Duration = Duration::from_secs(3);
/// and nobody who reloads a file waits longer.
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// An acknowledgement may take so many times longer than usual.
const SLOWER_THAN_USUAL: u32 = 4;
/// The part of a new measurement in the average: one of so many.
const WEIGHT: u32 = 8;

/// The time that messages take on this link.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Messages of this connection that are not acknowledged, and when they were sent.
    sent: HashMap<Place, Instant>,
    /// The usual time from sending a message to the end of its acknowledgement; kept from connection to connection.
    usual: Option<Duration>,
}

impl Pace {
    /// A new connection was accepted after `round_trip`.
    pub(super) fn begin(&mut self, round_trip: Duration) {
        self.sent.clear();
        self.usual.get_or_insert(round_trip);
    }

    /// A message is sent.
    pub(super) fn sent(&mut self, place: Place, at: Instant) {
        self.sent.insert(place, at);
    }

    /// A message is acknowledged to its end.
    pub(super) fn acknowledged(&mut self, place: Place, at: Instant) {
        let Some(sent) = self.sent.remove(&place) else { return };
        let taken = at.saturating_duration_since(sent);
        let usual = self.usual.unwrap_or(taken);
        self.usual = Some(usual * (WEIGHT - 1) / WEIGHT + taken / WEIGHT);
    }

    /// How long to wait for acknowledgements that are on their way before the connection is ended in order.
    pub(super) fn patience(&self) -> Duration {
        (self.usual.unwrap_or_default() * SLOWER_THAN_USUAL).clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_patience_follows_the_link_within_bounds() {
        let start = crate::time::now();
        let mut pace = Pace::default();
        assert_eq!(pace.patience(), SHORTEST_PATIENCE);
        pace.begin(Duration::from_millis(900));
        assert_eq!(pace.patience(), Duration::from_millis(3600));
        for seq in 1..100 {
            let place = Place { queue: 1, seq };
            pace.sent(place, start);
            pace.acknowledged(place, start + Duration::from_secs(60));
        }
        assert_eq!(pace.patience(), LONGEST_PATIENCE);
        let unknown = Place { queue: 1, seq: 1000 };
        pace.acknowledged(unknown, start);
        assert_eq!(pace.patience(), LONGEST_PATIENCE, "what was not sent says nothing");
    }
}
