//! Which message a remote cannot bear: it answers that message by closing the connection, again and again. Pure.
//!
//! Invariants:
//! * A message is blamed only for closes that followed it when everything before it was acknowledged, three times in a row; then once
//!   more although nothing but the message was sent. A reason that names the message counts as the last one.
//! * A remote that closes whatever it gets does not empty the outbox: until it acknowledges something, each further message needs twice
//!   as many closes.

use crate::mqtt::ReasonCode;
use crate::outbox::Place;

/// Closes after which a message is known to cause them, if the remote says so; without a word it takes one more.
const CLOSES: u32 = 3;
/// Doublings of what it takes, at most.
const MOST_DOUBLINGS: u32 = 4;

/// The message that was first when the remote closed, and how often it was.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    suspect: Option<(Place, u32)>,
    /// Messages taken out since the remote last acknowledged one.
    taken_out: u32,
}

impl Suspicion {
    /// The message that is to be sent alone.
    pub(super) fn suspect(&self) -> Option<Place> {
        self.suspect.map(|(place, _)| place)
    }

    /// The remote closed the connection when `first` was the first message that it had not answered. True if that message is to be
    /// taken out.
    pub(super) fn closed(&mut self, first: Place, reason: Option<ReasonCode>) -> bool {
        if reason.is_some_and(speaks_of_itself) {
            return false;
        }
        let closes = self.suspect.filter(|(known, _)| *known == first).map_or(1, |(_, closes)| closes + 1);
        self.suspect = Some((first, closes));
        let needed = if reason.is_some_and(names_the_message) { CLOSES } else { CLOSES + 1 };
        closes >= needed << self.taken_out.min(MOST_DOUBLINGS)
    }

    /// The suspect is taken out.
    pub(super) fn taken_out(&mut self) {
        self.suspect = None;
        self.taken_out = self.taken_out.saturating_add(1);
    }

    /// The suspect is tried in another form: one more close is enough.
    pub(super) fn changed(&mut self) {
        if let Some((_, closes)) = &mut self.suspect {
            *closes -= 1;
        }
    }

    /// The remote has taken a message.
    pub(super) fn acknowledged(&mut self, place: Place) {
        self.taken_out = 0;
        self.suspect = self.suspect.filter(|(known, _)| *known != place);
    }
}

/// Codes that speak of the server or of the connection, not of a message.
pub(super) fn speaks_of_itself(reason: ReasonCode) -> bool {
    matches!(reason.0, 0x88 | 0x89 | 0x8B | 0x8D | 0x8E | 0x98 | 0x9C | 0x9D | 0x9F | 0xA0)
}

/// Codes that leave no doubt that a packet was at fault.
fn names_the_message(reason: ReasonCode) -> bool {
    matches!(reason.0, 0x81 | 0x82 | 0x87 | 0x90 | 0x95 | 0x99 | 0x9B)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> Place {
        Place { queue: 1, seq }
    }

    /// How many closes it takes until a message is taken out.
    fn closes(suspicion: &mut Suspicion, seq: u64, reason: Option<ReasonCode>) -> usize {
        let count = (1..100).find(|_| suspicion.closed(place(seq), reason));
        suspicion.taken_out();
        count.expect("it ends some time")
    }

    #[test]
    fn it_takes_four_closes_without_a_word_and_three_with_a_reason_that_names_the_message() {
        assert_eq!(closes(&mut Suspicion::default(), 1, None), 4);
        for code in [0x80, 0x83, 0x93, 0x97, 0x9A] {
            assert_eq!(closes(&mut Suspicion::default(), 1, Some(ReasonCode(code))), 4, "{code:#x}");
        }
        assert_eq!(closes(&mut Suspicion::default(), 1, Some(ReasonCode(0x99))), 3);
    }

    #[test]
    fn a_remote_that_stops_or_is_busy_blames_no_message() {
        let mut suspicion = Suspicion::default();
        for code in [0x89, 0x8B, 0x8E, 0x98, 0x9C] {
            assert!((0..20).all(|_| !suspicion.closed(place(1), Some(ReasonCode(code)))), "{code:#x}");
        }
        assert_eq!(suspicion.suspect(), None);
    }

    #[test]
    fn another_message_begins_at_one_and_one_that_was_acknowledged_is_innocent() {
        let mut suspicion = Suspicion::default();
        for seq in [1, 1, 1, 2, 2, 2, 1, 1] {
            assert!(!suspicion.closed(place(seq), None));
        }
        assert_eq!(suspicion.suspect(), Some(place(1)));
        suspicion.acknowledged(place(2));
        assert_eq!(suspicion.suspect(), Some(place(1)));
        suspicion.acknowledged(place(1));
        assert_eq!(suspicion.suspect(), None);
    }

    #[test]
    fn a_remote_that_closes_whatever_it_gets_does_not_empty_the_outbox() {
        let mut suspicion = Suspicion::default();
        let counts: Vec<usize> = (1..8).map(|seq| closes(&mut suspicion, seq, None)).collect();
        assert_eq!(counts, [4, 8, 16, 32, 64, 64, 64]);
        suspicion.acknowledged(place(9));
        assert_eq!(closes(&mut suspicion, 10, None), 4);
    }
}
