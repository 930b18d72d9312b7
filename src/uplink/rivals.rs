//! Whether another client uses the client identifier of this gateway, a copied memory card or a
//! forgotten default: each connection of one ends that of the other. Pure.
//!
//! Certain signs:
//! * The remote says so (0x8E), or has packet identifiers of this session in use that are not of
//!   this gateway (0x91).
//! * The remote has closed several connections in a row without a word, and what it has retained on
//!   the topic of this gateway's state, after this gateway had said its own there, is of another
//!   run with the same client identifier. Brokers that only close are recognised by that: mosquitto
//!   2.0.11 does so in both versions of MQTT. To make it visible, state and will have a mark once
//!   two connections were closed: a checksum of the client identifier, and a number of this run.
//!
//! No sign: how often and how fast connections are closed. A link that is cut every few seconds
//! ends them in the same way. Many closes in a row are worth a warning that says what is probable;
//! they slow nothing down.
//!
//! Invariants:
//! * Only a sure sign makes pauses longer. They grow, so that the two do not fight, and a
//!   connection as long as the pause of the other one is no sign that it is gone.
//! * Once another client is known, each connection asks again if it can. Closes without a sign end
//!   the long pauses, and so does the time that connections have lived since the last sign: a
//!   poison message closes connections too, and has to be found.

use std::time::{Duration, Instant};

use crate::backoff::Backoff;

/// First and longest pause after the other client has taken the place of this one.
const PAUSE: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// The other one is gone if a connection lived for so long at least,
const PROVEN: Duration = Duration::from_secs(60);
/// and this many times longer than the last pause here: its own pause may have doubled, and varies
/// by a quarter.
const LONGER_THAN_PAUSE: u32 = 4;
/// Closes in a row after which state and will have a mark.
const MARKED_AFTER: u32 = 2;
/// Closes in a row after which the next connections ask what the remote has retained; later ones do
/// when the number is a power of two.
const ASKS: std::ops::RangeInclusive<u32> = 3..=5;
/// Closes in a row that are worth a warning.
const MANY: u32 = 10;
/// A connection that lived so long ends a row.
const LASTS: Duration = Duration::from_secs(300);
/// Connections that may end before the question is answered.
const MOST_UNANSWERED: u32 = 3;
/// The weight of a close without a sign of the other one, after an answer and without one, and the
/// sum at which it is gone.
const UNSEEN: (u32, u32) = (2, 1);
const MOST_UNSEEN: u32 = 4;

/// How sure it is that another client uses the client identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientIdTaken {
    /// Connections are closed in the way that it would cause.
    Possible,
    /// The remote has shown it.
    Certain,
}

impl ClientIdTaken {
    /// As the status says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Certain => "certain",
        }
    }
}

/// The cause of a close, as far as it shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseCause {
    /// Nothing.
    Alone,
    /// Closes in a row that are worth a warning.
    Often,
    /// The other client has connected; the pause before the next attempt.
    ByRival(Duration),
}

/// Signs of one connection.
#[derive(Debug, Default)]
struct Signs {
    /// Its end has another cause.
    is_explained: bool,
    /// A state of this gateway was retained.
    has_said: bool,
    /// The question was answered.
    is_answered: bool,
    /// The other client was here.
    is_rival: bool,
}

/// Signs of another client.
#[derive(Debug)]
pub(super) struct Rivals {
    /// A checksum of the client identifier.
    client: u32,
    /// Names this run of the uplink.
    run: u32,
    /// Connections in a row that the remote has closed.
    closes: u32,
    /// Those of them that no message, filter or state was the cause of.
    unexplained: u32,
    shown: Signs,
    /// A state of this gateway has been retained at `remote` since the other client was last seen.
    has_said: bool,
    /// The remote of this connection.
    remote: u32,
    /// How long earlier connections, and this one, have lived without a sign of the other one.
    quiet: (Duration, Duration),
    /// Connections that ended at the question.
    unanswered: u32,
    /// The remote does not allow the question.
    cannot_ask: bool,
    /// The remote says why it closes: there is nothing to ask for.
    says_so: bool,
    backoff: Backoff,
    last: Duration,
    unseen: u32,
    /// When a packet identifier was last in use that is not of this gateway.
    disturbed: Option<Instant>,
}

impl Rivals {
    /// `run` is another number in each run of the program, and on each machine.
    pub(super) fn new(client_id: &str, run: u32) -> Self {
        Self {
            client: crc32c::crc32c(client_id.as_bytes()),
            run,
            closes: 0,
            unexplained: 0,
            shown: Signs::default(),
            has_said: false,
            remote: 0,
            quiet: (Duration::ZERO, Duration::ZERO),
            unanswered: 0,
            cannot_ask: false,
            says_so: false,
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            last: Duration::ZERO,
            unseen: 0,
            disturbed: None,
        }
    }

    /// The settings are other ones.
    pub(super) fn start_over(&mut self, client_id: &str) {
        *self = Self::new(client_id, self.run);
    }

    /// A new connection was accepted by this remote. What was said at another one shows nothing
    /// here.
    pub(super) fn begin(&mut self, remote: u32) {
        self.has_said = self.remote == remote && (self.has_said || self.shown.has_said);
        self.remote = remote;
        self.quiet = (self.quiet.0 + self.quiet.1, Duration::ZERO);
        self.shown = Signs::default();
    }

    /// The mark of state and will, if it is time for one.
    pub(super) fn mark(&self) -> Option<String> {
        (self.are_there() || self.closes >= MARKED_AFTER)
            .then(|| format!("{:08x}-{:08x}", self.client, self.run))
    }

    /// True if this connection is to ask what the remote has retained.
    pub(super) fn asks(&self) -> bool {
        let may_ask =
            self.has_said && !self.cannot_ask && !self.says_so && self.unanswered < MOST_UNANSWERED;
        let is_time = ASKS.contains(&self.closes)
            || self.closes > *ASKS.end() && self.closes.is_power_of_two();
        may_ask && (self.are_there() || is_time)
    }

    /// The remote does not allow the question, or never answers it.
    pub(super) fn refused(&mut self) {
        self.cannot_ask = true;
    }

    /// The connection ended before the question was answered.
    pub(super) fn ended_at_question(&mut self) {
        self.unanswered = self.unanswered.saturating_add(1);
        self.shown.is_explained = true;
    }

    /// The question was answered.
    pub(super) fn answered(&mut self) {
        self.unanswered = 0;
        self.shown.is_answered = true;
    }

    /// A state or will with this mark is retained. True if that shows for the first time that there
    /// is another client.
    pub(super) fn retained(&mut self, mark: &str) -> bool {
        let of_this_client = mark.strip_prefix(&format!("{:08x}-", self.client));
        let is_other_run = of_this_client.is_some_and(|run| run != format!("{:08x}", self.run));
        if !is_other_run || !self.has_said {
            return false;
        }
        self.has_said = false;
        self.shown.is_rival = true;
        (self.quiet, self.unseen) = ((Duration::ZERO, Duration::ZERO), 0);
        let is_new = !self.are_there();
        if is_new {
            // The first pause follows the next close.
            self.last = PAUSE.0;
        }
        is_new
    }

    /// A state of this gateway is retained.
    pub(super) fn said(&mut self) {
        self.shown.has_said = true;
    }

    /// A message, a filter or the state was the cause of the end of this connection, or may have
    /// been.
    pub(super) fn is_explained(&mut self) {
        self.shown.is_explained = true;
    }

    /// A packet identifier is in use that is not of this gateway.
    pub(super) fn disturbed(&mut self, at: Instant) {
        self.disturbed = Some(at);
    }

    /// The remote says that another client has connected. Returns the pause.
    pub(super) fn taken_over(&mut self) -> Duration {
        self.says_so = true;
        self.next_delay()
    }

    /// The remote has closed the connection without a word.
    pub(super) fn closed(&mut self) -> CloseCause {
        if self.are_there() {
            if self.shown.is_rival {
                return CloseCause::ByRival(self.next_delay());
            }
            self.unseen += if self.shown.is_answered {
                UNSEEN.0
            } else {
                UNSEEN.1
            };
            if self.unseen < MOST_UNSEEN {
                return if self.shown.is_answered {
                    CloseCause::ByRival(self.last)
                } else {
                    CloseCause::Alone
                };
            }
            self.is_over();
        }
        self.closes = self.closes.saturating_add(1);
        self.unexplained = self
            .unexplained
            .saturating_add(u32::from(!self.shown.is_explained));
        if self.unexplained == MANY && !self.shown.is_explained {
            CloseCause::Often
        } else {
            CloseCause::Alone
        }
    }

    /// The connection ended in another way.
    pub(super) fn broke(&mut self) {
        (self.closes, self.unexplained) = (0, 0);
    }

    /// A connection has lived so long at this time.
    pub(super) fn lived(&mut self, lifetime: Duration, at: Instant) {
        self.quiet.1 = lifetime;
        if self.quiet.0 + lifetime >= PROVEN.max(self.last * LONGER_THAN_PAUSE) {
            self.is_over();
        }
        if lifetime >= LASTS {
            (
                self.closes,
                self.unexplained,
                self.unanswered,
                self.cannot_ask,
            ) = (0, 0, 0, false);
        }
        self.disturbed = self.disturbed.filter(|since| at < *since + LASTS);
    }

    /// True as long as there may be another client.
    pub(super) fn are_there(&self) -> bool {
        self.last > Duration::ZERO
    }

    /// True if another client may change the session at the remote.
    pub(super) fn share_session(&self) -> bool {
        self.are_there() || self.disturbed.is_some()
    }

    /// How sure it is that another client uses the client identifier; `None` without any sign.
    pub(super) fn taken(&self) -> Option<ClientIdTaken> {
        let is_possible = self.unexplained >= MANY;
        Some(ClientIdTaken::Certain)
            .filter(|_| self.share_session())
            .or(Some(ClientIdTaken::Possible).filter(|_| is_possible))
    }

    fn next_delay(&mut self) -> Duration {
        (self.quiet, self.unseen) = ((Duration::ZERO, Duration::ZERO), 0);
        self.last = self.backoff.next_delay();
        self.last
    }

    fn is_over(&mut self) {
        self.backoff.reset();
        (self.last, self.unseen, self.says_so) = (Duration::ZERO, 0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    /// A connection that says its state, asks if it is time to, finds `retained`, and is closed.
    fn closed(rivals: &mut Rivals, retained: Option<&str>) -> (bool, CloseCause) {
        rivals.begin(0);
        let asks = rivals.asks();
        if asks {
            retained.map(|mark| rivals.retained(mark));
            rivals.answered();
        }
        rivals.said();
        (asks, rivals.closed())
    }

    /// One that has been closed until it asks.
    fn suspicious(run: u32) -> Rivals {
        let mut rivals = Rivals::new("x", run);
        for _ in 0..*ASKS.start() {
            assert_eq!(closed(&mut rivals, None), (false, CloseCause::Alone));
        }
        rivals
    }

    fn mark(client_id: &str, run: u32) -> String {
        let mut other = Rivals::new(client_id, run);
        other.taken_over();
        other.mark().unwrap()
    }

    #[test]
    fn a_link_that_is_cut_again_and_again_is_no_fight_and_worth_one_warning() {
        let mut rivals = Rivals::new("x", 1);
        let own = mark("x", 1);
        let seen: Vec<(bool, CloseCause)> =
            (0..40).map(|_| closed(&mut rivals, Some(&own))).collect();
        assert_eq!(
            seen.iter()
                .filter(|(_, closed)| *closed == CloseCause::Often)
                .count(),
            1
        );
        assert!(
            seen.iter()
                .all(|(_, closed)| !matches!(closed, CloseCause::ByRival(_))),
            "{seen:?}"
        );
        let asked: Vec<usize> = seen
            .iter()
            .enumerate()
            .filter(|(_, (asks, _))| *asks)
            .map(|(index, _)| index)
            .collect();
        assert_eq!(asked, [3, 4, 5, 8, 16, 32]);
        assert_eq!(rivals.taken(), Some(ClientIdTaken::Possible));
        rivals.lived(LASTS, now());
        assert_eq!((rivals.taken(), rivals.mark()), (None, None));
    }

    #[test]
    fn a_state_of_another_run_with_the_same_client_identifier_shows_it() {
        for (retained, expected) in [
            (mark("x", 2), true),
            (mark("x", 1), false),
            (mark("y", 2), false),
            ("text".to_owned(), false),
        ] {
            let mut rivals = suspicious(1);
            let (asks, closed) = closed(&mut rivals, Some(&retained));
            assert!(asks);
            assert_eq!(
                (matches!(closed, CloseCause::ByRival(_)), rivals.taken()),
                (expected, Some(ClientIdTaken::Certain).filter(|_| expected))
            );
        }
    }

    #[test]
    fn what_was_retained_before_this_gateway_said_its_own_shows_nothing() {
        let mut rivals = suspicious(1);
        rivals.begin(0);
        assert!(rivals.retained(&mark("x", 2)));
        assert!(!rivals.asks(), "nothing was said since");
        assert!(matches!(rivals.closed(), CloseCause::ByRival(_)));
        rivals.begin(0);
        assert!(!rivals.asks());
        assert_eq!(rivals.closed(), CloseCause::Alone);
    }

    #[test]
    fn what_was_said_at_another_remote_shows_nothing() {
        let mut rivals = suspicious(1);
        rivals.begin(7);
        assert!(!rivals.asks());
        assert!(!rivals.retained(&mark("x", 2)));
    }

    #[test]
    fn closes_without_a_word_end_the_pauses_at_a_remote_that_says_when_it_is_another_client() {
        let mut rivals = Rivals::new("x", 1);
        rivals.taken_over();
        for _ in 0..3 {
            rivals.begin(0);
            assert_eq!(
                (rivals.closed(), rivals.are_there()),
                (CloseCause::Alone, true)
            );
        }
        rivals.begin(0);
        assert_eq!(
            (rivals.closed(), rivals.are_there()),
            (CloseCause::Alone, false),
            "it is a message that the remote closes at"
        );
    }

    #[test]
    fn short_connections_without_a_sign_end_the_pauses_together() {
        let mut rivals = Rivals::new("x", 1);
        rivals.taken_over();
        let needed = (1..100).find(|_| {
            rivals.begin(0);
            rivals.lived(PROVEN / 10, now());
            rivals.broke();
            !rivals.are_there()
        });
        assert_eq!(needed, Some(10));
    }

    #[test]
    fn two_gateways_fight_less_and_less() {
        let (mut one, mut other) = (suspicious(1), suspicious(2));
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            for (rivals, retained) in [(&mut one, mark("x", 2)), (&mut other, mark("x", 1))] {
                let CloseCause::ByRival(pause) = closed(rivals, Some(&retained)).1 else {
                    panic!("{rivals:?}")
                };
                rivals.lived(last, now());
                last = pause;
            }
        }
        assert!(last >= PAUSE.1.mul_f64(0.75), "{last:?}");
    }

    #[test]
    fn a_flapping_link_is_fast_again_after_two_answers_without_a_sign() {
        let mut rivals = suspicious(1);
        assert!(matches!(
            closed(&mut rivals, Some(&mark("x", 2))).1,
            CloseCause::ByRival(_)
        ));
        assert!(matches!(
            closed(&mut rivals, None),
            (true, CloseCause::ByRival(_))
        ));
        assert_eq!(closed(&mut rivals, None), (true, CloseCause::Alone));
        assert_eq!(rivals.taken(), None);
    }

    #[test]
    fn a_remote_that_ends_the_connection_at_the_question_is_asked_three_times() {
        let mut rivals = suspicious(1);
        let asked = (0..40).filter(|_| {
            rivals.begin(0);
            let asks = rivals.asks();
            if asks {
                rivals.ended_at_question();
            }
            rivals.said();
            rivals.closed();
            asks
        });
        assert_eq!(asked.count(), 3);
    }

    #[test]
    fn a_connection_that_was_good_for_a_while_begins_again_with_the_first_pause() {
        let mut rivals = Rivals::new("x", 1);
        for _ in 0..3 {
            rivals.taken_over();
        }
        rivals.lived(Duration::from_secs(5), now());
        assert!(
            rivals.taken_over() > PAUSE.0 * 2,
            "a short connection says nothing"
        );
        rivals.lived(Duration::from_secs(600), now());
        assert!(rivals.taken_over() <= PAUSE.0.mul_f64(1.25));
    }
}
