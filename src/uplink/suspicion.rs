//! Which message makes the remote close the connection whenever it gets it. Pure.
//!
//! Invariants:
//! * The first close only makes a message suspect. After that it is sent alone, when the remote has
//!   answered PINGREQ, and a close counts only if it followed soon after the last byte of the
//!   message had left. A link that breaks by itself blames nobody.
//! * It takes four closes; three if the remote gives a reason that names the message.
//! * A remote that answers messages behind this one, and never this one, shows so on three
//!   connections.
//! * A remote that falls silent may be behind a link that breaks. After three connections the
//!   message is suspect, and goes alone, so that nothing else waits for it; after eight more at
//!   which the remote answered PINGREQ just before, it is taken out.
//! * A remote that closes whatever it gets does not empty the outbox: until it acknowledges
//!   something, each further message needs twice as many closes.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::mqtt::ReasonCode;
use crate::outbox::EntryId;

/// Closes after which a message is known to cause them, if the remote says so; without a word it
/// takes one more.
const CLOSES: u32 = 3;
/// Connections on which a remote answers others and never this message.
const OVERTAKINGS: u32 = 3;
/// Connections that end in silence until a message is suspect, and until it is taken out.
const SILENCES: (u32, u32) = (3, 11);
/// Doublings of what it takes, at most.
const MOST_DOUBLINGS: u32 = 4;

/// How long a remote may take at least to read a message and to close because of it.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// The same in round trips.
const ROUND_TRIPS: u32 = 4;

/// How strongly a close speaks against the first message that the remote had not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evidence {
    /// Nothing: the remote had not read the message, as far as is known.
    None,
    /// The message had left, among others.
    AmongOthers,
    /// The message had left alone, to a remote that was reading.
    Alone,
}

/// A suspect that is sent alone.
#[derive(Debug)]
pub(super) struct Trial {
    packet: Range<u64>,
    /// When its last byte left.
    left: Option<Instant>,
}

impl Trial {
    /// `packet` is where it is among the bytes of the connection.
    pub(super) fn new(packet: Range<u64>) -> Self {
        Self { packet, left: None }
    }

    /// `bytes` of the connection have left.
    pub(super) fn written(&mut self, bytes: u64, at: Instant) {
        if bytes >= self.packet.end {
            self.left.get_or_insert(at);
        }
    }

    /// The evidence of a close at this time, if a message is usually acknowledged after `usual`.
    /// `time_to_pass` is the time that a number of bytes may need on the link.
    pub(super) fn closed(
        &self,
        at: Instant,
        usual: Duration,
        time_to_pass: fn(u64) -> Duration,
    ) -> Evidence {
        let patience = READ_WITHIN.max(usual * ROUND_TRIPS)
            + time_to_pass(self.packet.end - self.packet.start);
        if self.left.is_some_and(|left| at <= left + patience) {
            Evidence::Alone
        } else {
            Evidence::None
        }
    }
}

/// The message that was first when the remote closed, and how often it was.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    suspect: Option<(EntryId, u32)>,
    /// The message that the remote did not answer before others, and how often.
    overtaken: Option<(EntryId, u32)>,
    /// The message at which connections ended in silence, and how many did.
    silent: Option<(EntryId, u32)>,
    /// Messages taken out since the remote last acknowledged one.
    taken_out: u32,
}

impl Suspicion {
    /// The message that is to be sent alone.
    pub(super) fn suspect(&self) -> Option<EntryId> {
        self.suspect.map(|(place, _)| place)
    }

    /// The remote closed the connection when `first` was the first message that it had not
    /// answered. True if that message is to be taken out.
    pub(super) fn closed(
        &mut self,
        first: EntryId,
        reason: Option<ReasonCode>,
        evidence: Evidence,
    ) -> bool {
        if evidence == Evidence::None || reason.is_some_and(speaks_of_itself) {
            return false;
        }
        let before = times(self.suspect, first);
        let closes = if evidence == Evidence::Alone {
            before + 1
        } else {
            before.max(1)
        };
        self.suspect = Some((first, closes));
        let enough = if reason.is_some_and(names_the_message) {
            CLOSES
        } else {
            CLOSES + 1
        };
        evidence == Evidence::Alone && closes >= self.needed(enough)
    }

    /// The remote answered messages behind this one, and was silent then. True if the message is to
    /// be taken out.
    pub(super) fn overtaken(&mut self, first: EntryId) -> bool {
        let times = times(self.overtaken, first) + 1;
        self.overtaken = Some((first, times));
        times >= self.needed(OVERTAKINGS)
    }

    /// The remote was silent, and this was the first message that it had not answered. True if the
    /// message is to be taken out.
    pub(super) fn silent(&mut self, first: EntryId, evidence: Evidence) -> bool {
        let before = times(self.silent, first);
        let (until_suspect, until_out) = SILENCES;
        let is_alone = evidence == Evidence::Alone;
        let silences = if is_alone || before < until_suspect {
            before + 1
        } else {
            before
        };
        self.silent = Some((first, silences));
        if silences >= until_suspect {
            self.suspect = Some((first, times(self.suspect, first).max(1)));
        }
        is_alone && silences >= self.needed(until_out)
    }

    /// `times`, or more if the remote has taken nothing since messages were taken out.
    fn needed(&self, times: u32) -> u32 {
        times << self.taken_out.min(MOST_DOUBLINGS)
    }

    /// The suspect is taken out.
    pub(super) fn taken_out(&mut self) {
        (self.suspect, self.overtaken, self.silent) = (None, None, None);
        self.taken_out = self.taken_out.saturating_add(1);
    }

    /// The suspect is tried in another form: one more close is enough.
    pub(super) fn changed(&mut self) {
        (self.overtaken, self.silent) = (None, None);
        if let Some((_, closes)) = &mut self.suspect {
            *closes = closes.saturating_sub(1);
        }
    }

    /// Another client has caused the closes.
    pub(super) fn acquit(&mut self) {
        self.suspect = None;
    }

    /// The remote has taken a message.
    pub(super) fn acknowledged(&mut self, place: EntryId) {
        self.taken_out = 0;
        for counted in [&mut self.suspect, &mut self.overtaken, &mut self.silent] {
            *counted = counted.filter(|(known, _)| *known != place);
        }
    }
}

/// The count for this message; 0 if another one was counted.
fn times(counted: Option<(EntryId, u32)>, place: EntryId) -> u32 {
    counted
        .filter(|(known, _)| *known == place)
        .map_or(0, |(_, times)| times)
}

/// Codes that speak of the server or of the connection, not of a message.
pub(super) fn speaks_of_itself(reason: ReasonCode) -> bool {
    matches!(
        reason.0,
        0x88 | 0x89 | 0x8B | 0x8D | 0x8E | 0x98 | 0x9C | 0x9D | 0x9F | 0xA0
    )
}

/// Codes that leave no doubt that a packet was at fault.
fn names_the_message(reason: ReasonCode) -> bool {
    matches!(reason.0, 0x81 | 0x82 | 0x87 | 0x90 | 0x95 | 0x99 | 0x9B)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> EntryId {
        EntryId { queue: 1, seq }
    }

    /// How many closes it takes until a message is taken out.
    fn closes(suspicion: &mut Suspicion, seq: u64, reason: Option<ReasonCode>) -> usize {
        let count = (1..100).find(|_| suspicion.closed(place(seq), reason, Evidence::Alone));
        suspicion.taken_out();
        count.expect("it ends some time")
    }

    #[test]
    fn a_message_that_others_overtake_on_three_connections_is_taken_out() {
        let mut suspicion = Suspicion::default();
        assert!(!suspicion.overtaken(place(1)) && !suspicion.overtaken(place(1)));
        suspicion.acknowledged(place(2));
        assert!(suspicion.overtaken(place(1)), "others are answered");
        suspicion.taken_out();
        assert_eq!(
            (1..100).find(|_| suspicion.overtaken(place(2))),
            Some(6),
            "the remote has taken nothing since"
        );
        suspicion.acknowledged(place(2));
        assert!(!suspicion.overtaken(place(2)), "it was answered after all");
    }

    #[test]
    fn a_link_that_breaks_takes_no_message_out() {
        let mut suspicion = Suspicion::default();
        assert!((0..100).all(|_| !suspicion.silent(place(1), Evidence::AmongOthers)));
        assert_eq!(
            suspicion.suspect(),
            Some(place(1)),
            "it goes alone from the third silence on"
        );
        suspicion.acknowledged(place(1));
        assert_eq!(suspicion.suspect(), None);
    }

    #[test]
    fn a_message_at_which_a_remote_that_answers_falls_silent_is_taken_out_in_the_end() {
        let mut suspicion = Suspicion::default();
        assert!((0..3).all(|_| !suspicion.silent(place(1), Evidence::AmongOthers)));
        assert_eq!(
            (1..100).find(|_| suspicion.silent(place(1), Evidence::Alone)),
            Some(8)
        );
    }

    #[test]
    fn it_takes_four_closes_without_a_word_and_three_with_a_reason_that_names_the_message() {
        assert_eq!(closes(&mut Suspicion::default(), 1, None), 4);
        for code in [0x80, 0x83, 0x93, 0x97, 0x9A] {
            assert_eq!(
                closes(&mut Suspicion::default(), 1, Some(ReasonCode(code))),
                4,
                "{code:#x}"
            );
        }
        assert_eq!(
            closes(&mut Suspicion::default(), 1, Some(ReasonCode(0x99))),
            3
        );
    }

    #[test]
    fn a_remote_that_stops_or_is_busy_blames_no_message() {
        let mut suspicion = Suspicion::default();
        for code in [0x89, 0x8B, 0x8E, 0x98, 0x9C] {
            assert!(
                (0..20).all(|_| !suspicion.closed(
                    place(1),
                    Some(ReasonCode(code)),
                    Evidence::Alone
                )),
                "{code:#x}"
            );
        }
        assert_eq!(suspicion.suspect(), None);
    }

    #[test]
    fn another_message_begins_at_one_and_one_that_was_acknowledged_is_innocent() {
        let mut suspicion = Suspicion::default();
        for seq in [1, 1, 1, 2, 2, 2, 1, 1] {
            assert!(!suspicion.closed(place(seq), None, Evidence::Alone));
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
        let counts: Vec<usize> = (1..8)
            .map(|seq| closes(&mut suspicion, seq, None))
            .collect();
        assert_eq!(counts, [4, 8, 16, 32, 64, 64, 64]);
        suspicion.acknowledged(place(9));
        assert_eq!(closes(&mut suspicion, 10, None), 4);
    }

    #[test]
    fn closes_that_show_nothing_take_no_message_out() {
        let mut suspicion = Suspicion::default();
        assert!((0..20).all(|_| !suspicion.closed(place(1), None, Evidence::None)));
        assert_eq!(suspicion.suspect(), None);
        assert!((0..20).all(|_| !suspicion.closed(place(1), None, Evidence::AmongOthers)));
        assert_eq!(
            suspicion.suspect(),
            Some(place(1)),
            "it is to be sent alone"
        );
        assert_eq!(closes(&mut suspicion, 1, None), 3, "the first one counted");
    }

    #[test]
    fn a_close_counts_only_soon_after_the_whole_message_has_left() {
        let start = crate::time::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let time_to_pass = |bytes| Duration::from_secs(bytes / 100);
        let closed = |trial: &Trial, seconds, usual| {
            trial.closed(after(seconds), Duration::from_secs(usual), time_to_pass)
        };
        let mut trial = Trial::new(500..1000);
        trial.written(999, start);
        assert_eq!(closed(&trial, 1, 1), Evidence::None, "a byte is missing");
        trial.written(1000, start);
        trial.written(2000, after(100));
        assert_eq!(closed(&trial, 15, 1), Evidence::Alone);
        assert_eq!(
            closed(&trial, 16, 1),
            Evidence::None,
            "so late it is not because of the message"
        );
        assert_eq!(
            closed(&trial, 45, 10),
            Evidence::Alone,
            "on a slow link it is"
        );
    }
}
