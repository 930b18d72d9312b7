//! The capacity of the link, as far as the messages sent lately show: how long a message and its
//! acknowledgement need, and how many bytes may be on their way. Pure: the caller brings the time.
//!
//! Invariants:
//! * Bytes on their way follow the measured rate and round trip, as BBR does: what is more only
//!   waits in a queue before the link, and is sent again after a cut.
//! * A new connection begins with what the last one showed to pass and to be enough, so that links
//!   that are cut again and again, and slow ones, are not filled each time.
//! * One message may always be on its way.
//! * A batch of late readings is a part of what may be on its way: what is fresh overtakes the
//!   others.
//! * A message that was refused or removed is not on its way: when the session has nothing on the
//!   wire, no byte is.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use super::session::AckOutcome;
use crate::outbox::EntryId;

/// How long an orderly end waits for acknowledgements, whatever the link usually takes: a busy
/// remote is not a slow one,
const SHORTEST_PATIENCE: Duration = Duration::from_secs(3);
/// and nobody who reloads a file waits longer.
const LONGEST_PATIENCE: Duration = Duration::from_secs(5);
/// How many times longer than usual an acknowledgement may take.
const SLOWER_THAN_USUAL: u32 = 4;
/// The weight of a new measurement in the average is one part in this number.
const WEIGHT: u32 = 8;
/// Bytes on their way at the beginning, fewer than TCP begins with (RFC 6928): the slowest links
/// need two seconds for them, and TCP takes for lost what needs longer.
const FIRST_BYTES: u64 = 5_000;
/// Bytes on their way at least.
const FEWEST_BYTES: u64 = 4_000;
/// Payloads of late readings: smaller ones take more bytes, larger ones hardly fewer, and the first
/// ones go before anything is known of the link.
const LEAST_LATE: u64 = 2_000;
const LARGEST_LATE: u64 = 16_000;
const FIRST_LATE: u64 = 9_000;
/// The part of the bytes on their way that a payload of late readings is.
const PART_OF_LATE: u64 = 3;
/// How many times what is on the link at the measured rate may be on its way, in percent: a remote
/// may hold acknowledgements back for another round trip.
const PERCENT_OF_LINK: u64 = 250;
/// Round trips are taken for at least so long: what a near remote needs for its disk is no property
/// of the link.
const SHORTEST_ROUND_TRIP: Duration = Duration::from_millis(50);
/// The rate is the highest of this and the last span; a span is this number of round trips.
const SPAN: u32 = 10;

/// A message on its way.
#[derive(Debug, Clone)]
struct Sent {
    at: Instant,
    /// Its packet among the bytes of this connection.
    packet: Range<u64>,
    /// Bytes acknowledged on this connection until then.
    acknowledged: u64,
    /// The message that was acknowledged last, unless nothing was on its way: acknowledgements come
    /// in clumps, and what they tell is spread over the time since that one was sent, or answered.
    after: AnsweredMessage,
}

/// When a message was sent, and when it was answered.
#[derive(Debug, Clone, Copy)]
struct AnsweredMessage {
    sent: Instant,
    answered: Instant,
}

impl Sent {
    fn bytes(&self) -> u64 {
        self.packet.end - self.packet.start
    }
}

/// The capacity of one link.
#[derive(Debug, Default)]
pub(super) struct LinkPace {
    /// Messages of this connection that are not acknowledged.
    sent: HashMap<EntryId, Sent>,
    /// Their bytes.
    on_way: u64,
    /// Bytes acknowledged on this connection, and the message with the last of them.
    acknowledged: u64,
    last: Option<AnsweredMessage>,
    /// The usual time from sending a message to the end of its acknowledgement; kept from
    /// connection to connection.
    usual: Option<Duration>,
    /// The shortest one of this connection, or the time that its first packet took to be answered:
    /// a large message takes longer than the way.
    shortest: Option<Duration>,
    /// Bytes a second: the best of this span and of the one before, and when this span began.
    rates: [u64; 2],
    span_began: Option<Instant>,
    /// A rate was measured, on this connection or an earlier one.
    is_known: bool,
    /// Bytes that may be on their way.
    allowed: u64,
    /// Bytes of this connection that the remote has read: it has answered a packet behind them.
    read: u64,
    /// Bytes that it has read when it answers PINGREQ.
    asked: Option<u64>,
}

impl LinkPace {
    /// A new connection was accepted after `round_trip`.
    pub(super) fn begin(&mut self, round_trip: Duration) {
        let first = match self.usual {
            None => FIRST_BYTES,
            Some(_) => self.acknowledged.min(self.allowed),
        };
        *self = Self {
            usual: Some(self.usual.unwrap_or(round_trip)),
            shortest: Some(round_trip).filter(|round_trip| !round_trip.is_zero()),
            allowed: first.clamp(FEWEST_BYTES, FIRST_BYTES),
            is_known: self.is_known,
            ..Self::default()
        };
    }

    /// True if another message may be sent beside those of this connection that are not
    /// acknowledged.
    pub(super) fn has_room(&self, unanswered: usize) -> bool {
        unanswered == 0 || self.on_way < self.allowed
    }

    /// Bytes that may be on their way.
    pub(super) fn allowed(&self) -> usize {
        usize::try_from(self.allowed).unwrap_or(usize::MAX)
    }

    /// The largest payload of a batch of late readings.
    pub(super) fn largest_late(&self) -> usize {
        let largest = if self.is_known {
            (self.allowed / PART_OF_LATE).clamp(LEAST_LATE, LARGEST_LATE)
        } else {
            FIRST_LATE
        };
        usize::try_from(largest).unwrap_or(usize::MAX)
    }

    /// A message is sent as these bytes of the connection.
    pub(super) fn sent(&mut self, place: EntryId, packet: Range<u64>, at: Instant) {
        self.gone(place);
        let sent = Sent {
            at,
            packet,
            acknowledged: self.acknowledged,
            after: self
                .last
                .filter(|_| self.on_way > 0)
                .unwrap_or(AnsweredMessage {
                    sent: at,
                    answered: at,
                }),
        };
        self.on_way += sent.bytes();
        self.sent.insert(place, sent);
    }

    /// The remote has answered.
    pub(super) fn answered(&mut self, verdict: &AckOutcome, at: Instant) {
        match verdict {
            AckOutcome::Delivered(place) => self.acknowledged(*place, at),
            AckOutcome::Refused { place, .. } | AckOutcome::Later(place, _) => self.gone(*place),
            AckOutcome::AwaitingPubcomp | AckOutcome::Unknown => {}
        }
    }

    /// A message is not on its way any more, and that says nothing about the link: it was refused
    /// or removed.
    pub(super) fn gone(&mut self, place: EntryId) {
        self.on_way -= self.sent.remove(&place).map_or(0, |sent| sent.bytes());
    }

    /// PINGREQ is sent behind `bytes` of the connection.
    pub(super) fn asks(&mut self, bytes: u64) {
        self.asked = Some(bytes);
    }

    /// The remote has answered PINGREQ.
    pub(super) fn reads(&mut self) {
        self.read = self.read.max(self.asked.take().unwrap_or(0));
    }

    /// When a message of this connection was sent that is not acknowledged.
    pub(super) fn sent_at(&self, place: EntryId) -> Option<Instant> {
        self.sent.get(&place).map(|sent| sent.at)
    }

    /// True if the remote has shown that it has read this message.
    pub(super) fn is_read(&self, place: EntryId) -> bool {
        self.end_of(place).is_some_and(|end| end <= self.read)
    }

    /// Where the packet of a message ends among the bytes of this connection.
    pub(super) fn end_of(&self, place: EntryId) -> Option<u64> {
        self.sent.get(&place).map(|sent| sent.packet.end)
    }

    /// A message is acknowledged to its end.
    fn acknowledged(&mut self, place: EntryId, at: Instant) {
        let Some(sent) = self.sent.remove(&place) else {
            return;
        };
        self.on_way -= sent.bytes();
        self.read = self.read.max(sent.packet.end);
        self.acknowledged += sent.bytes();
        self.last = Some(AnsweredMessage {
            sent: sent.at,
            answered: at,
        });
        let taken = at.saturating_duration_since(sent.at);
        let usual = self.usual.unwrap_or(taken);
        self.usual = Some(usual * (WEIGHT - 1) / WEIGHT + taken / WEIGHT);
        let shortest = self.shortest.map_or(taken, |shortest| shortest.min(taken));
        self.shortest = Some(shortest);
        let within = at
            .saturating_duration_since(sent.after.answered)
            .max(sent.at.saturating_duration_since(sent.after.sent));
        self.measure(&sent, within, at);
    }

    /// A message is acknowledged, `within` a time that is not shorter than what it took.
    fn measure(&mut self, sent: &Sent, within: Duration, at: Instant) {
        let bytes = self.acknowledged - sent.acknowledged;
        let round_trip = self.shortest.unwrap_or(within).max(SHORTEST_ROUND_TRIP);
        let began = *self.span_began.get_or_insert(at);
        if at.saturating_duration_since(began) > round_trip * SPAN {
            self.rates = [0, self.rates[0]];
            self.span_began = Some(at);
        }
        let rate = per_second(bytes, within.max(SHORTEST_ROUND_TRIP));
        self.rates[0] = self.rates[0].max(rate);
        let rate = self.rates[0].max(self.rates[1]);
        let millis = u64::try_from(round_trip.as_millis()).unwrap_or(u64::MAX);
        self.is_known = true;
        let enough = rate.saturating_mul(millis) / 1000 * PERCENT_OF_LINK / 100;
        let lowest = if self.acknowledged < FIRST_BYTES {
            self.allowed
        } else {
            FEWEST_BYTES
        };
        self.allowed = enough.max(lowest);
    }

    /// The usual time from sending a message to the end of its acknowledgement, if any was
    /// measured.
    pub(super) fn usual(&self) -> Option<Duration> {
        self.usual
    }

    /// Bytes on their way. For tests.
    #[cfg(test)]
    pub(super) fn on_way(&self) -> u64 {
        self.on_way
    }

    /// How long to wait for acknowledgements that are on their way before a graceful end.
    pub(super) fn patience(&self) -> Duration {
        (self.usual.unwrap_or_default() * SLOWER_THAN_USUAL)
            .clamp(SHORTEST_PATIENCE, LONGEST_PATIENCE)
    }
}

fn per_second(bytes: u64, within: Duration) -> u64 {
    let millis = u64::try_from(within.as_millis()).unwrap_or(u64::MAX).max(1);
    bytes.saturating_mul(1000) / millis
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> EntryId {
        EntryId { queue: 1, seq }
    }

    #[test]
    fn the_patience_follows_the_link_within_bounds() {
        let start = crate::time::now();
        let mut pace = LinkPace::default();
        assert_eq!(pace.patience(), SHORTEST_PATIENCE);
        pace.begin(Duration::from_millis(900));
        assert_eq!(pace.patience(), Duration::from_millis(3600));
        for seq in 1..100 {
            pace.sent(place(seq), 0..1, start);
            pace.acknowledged(place(seq), start + Duration::from_secs(60));
        }
        assert_eq!(pace.patience(), LONGEST_PATIENCE);
        pace.acknowledged(place(1000), start);
        assert_eq!(
            pace.patience(),
            LONGEST_PATIENCE,
            "what was not sent says nothing"
        );
    }

    /// A link with `rate` bytes a second and a round trip, filled as far as the pace allows: the
    /// most bytes on their way after it has settled, and the bytes that passed in `span`.
    fn filled(rate: u64, round_trip: Duration, span: Duration) -> (u64, u64) {
        const MESSAGE: u64 = 100;
        let start = crate::time::now();
        let (mut pace, mut at, mut free_at) = (LinkPace::default(), start, start);
        pace.begin(round_trip);
        let mut answers = std::collections::VecDeque::new();
        let (mut next, mut most, mut passed) = (1, 0, 0);
        while at < start + span {
            while pace.has_room(answers.len()) {
                free_at = free_at.max(at) + Duration::from_micros(MESSAGE * 1_000_000 / rate);
                pace.sent(place(next), 0..MESSAGE, at);
                answers.push_back((free_at + round_trip, next));
                next += 1;
            }
            if at > start + span / 2 {
                most = most.max(pace.on_way);
            }
            let (then, seq) = answers.pop_front().unwrap();
            at = at.max(then);
            pace.acknowledged(place(seq), at);
            passed += MESSAGE;
        }
        (most, passed)
    }

    #[test]
    fn it_fills_links_of_every_kind_and_hardly_more_than_that() {
        // Certus 100, BGAN, GEO, LTE-M.
        for (rate, millis) in [(2_750, 700), (16_000, 900), (125_000, 600), (37_500, 120)] {
            let (round_trip, span) = (Duration::from_millis(millis), Duration::from_secs(120));
            let (most, passed) = filled(rate, round_trip, span);
            let on_link = rate * millis / 1000;
            assert!(
                passed > rate * 120 * 8 / 10,
                "{passed} bytes passed at {rate} a second"
            );
            assert!(
                most <= (4 * on_link).max(2 * FEWEST_BYTES),
                "{most} bytes were on their way where {on_link} fit"
            );
        }
    }

    #[test]
    fn acknowledgements_in_clumps_do_not_make_a_link_look_faster() {
        const MESSAGE: u64 = 100;
        let (rate, round_trip) = (2_750, Duration::from_millis(700));
        let mut at = crate::time::now();
        let (mut free_at, mut clump_at) = (at, at);
        let mut pace = LinkPace::default();
        pace.begin(round_trip);
        let mut answers = std::collections::VecDeque::new();
        for clump in 0..100 {
            let mut seq = clump * 1000;
            // A remote holds its acknowledgements back until the last ones have arrived.
            clump_at += round_trip;
            while at < clump_at {
                if pace.has_room(answers.len()) {
                    free_at = free_at.max(at) + Duration::from_micros(MESSAGE * 1_000_000 / rate);
                    pace.sent(place(seq), 0..MESSAGE, at);
                    answers.push_back((free_at + round_trip, seq));
                    seq += 1;
                }
                at += Duration::from_millis(1);
            }
            while answers.front().is_some_and(|(then, _)| *then <= at) {
                pace.acknowledged(place(answers.pop_front().unwrap().1), at);
            }
        }
        let on_link = rate * 700 / 1000;
        assert!(pace.allowed < 3 * on_link.max(2_000), "{}", pace.allowed);
    }

    #[test]
    fn a_slow_link_gets_small_batches_and_a_fast_one_large_ones() {
        let largest = |rate: u64, millis: u64| {
            let (start, round_trip) = (crate::time::now(), Duration::from_millis(millis));
            let (mut pace, mut at) = (LinkPace::default(), start);
            pace.begin(round_trip);
            for seq in 0..50 {
                let size = pace.largest_late() as u64;
                let count = (pace.allowed / size).max(1);
                (0..count).for_each(|part| pace.sent(place(seq * 1000 + part), 0..size, at));
                at += round_trip;
                for part in 0..count {
                    at += Duration::from_millis(size * 1000 / rate);
                    pace.acknowledged(place(seq * 1000 + part), at);
                }
            }
            (pace.largest_late(), pace)
        };
        let (certus, mut pace) = largest(2_750, 700);
        assert!((2_000..3_500).contains(&certus), "{certus}");
        assert_eq!(largest(125_000, 600).0, 16_000);
        pace.begin(Duration::from_millis(700));
        let again = pace.largest_late();
        assert!(
            again <= certus,
            "the next connection begins as the last one ended"
        );
    }

    #[test]
    fn a_link_that_is_cut_at_once_is_not_filled_again_each_time() {
        let start = crate::time::now();
        let mut pace = LinkPace::default();
        for _ in 0..3 {
            pace.begin(Duration::from_millis(600));
            (1..=20).for_each(|seq| pace.sent(place(seq), 0..100, start));
            assert!(pace.has_room(20));
            pace.acknowledged(place(1), start + Duration::from_millis(600));
        }
        pace.begin(Duration::from_millis(600));
        (1..=40).for_each(|seq| pace.sent(place(seq), 0..100, start));
        assert!(!pace.has_room(40), "the last connection took one");
        assert!(pace.has_room(0), "a single message always goes");
    }
}
