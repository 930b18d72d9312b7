//! How often a remote that does not answer is tried: each try costs bytes if there is a link and
//! only the remote is silent. Pure.
//!
//! Invariants:
//! * A remote that is silent for a day costs at most 15 kB of SYN packets, however many addresses
//!   it has.
//! * The first try goes to several addresses, later ones to one address each, in turn.
//! * The pause is a quarter of the time since the remote was last heard, at most half an hour. A
//!   remote that returns is found at the next try whose dial time is long enough for it.
//! * While it is not known how long the link usually takes, or that is long, a try gets the time it
//!   needs and costs more: the pause is half of the time since then, at most one and a half hours.
//! * Where the last link lasted less than half an hour, as a pass of a satellite does, the pause is
//!   at most half of that for the first one and a half hours, so that the next pass is not missed;
//!   after that it is up to an hour.
//! * A change of the way to the remote ends a pause at most once a minute: a link that comes and
//!   goes costs no more.

use std::time::{Duration, Instant};

/// The pause at the beginning: a short outage is over at once.
const SHORTEST: Duration = Duration::from_secs(4);
/// The longest pause, unless the file says otherwise.
const LONGEST: Duration = Duration::from_secs(1800);
/// The longest pause between tries that send more than two SYN packets.
const LONGEST_BETWEEN_DEAR: Duration = Duration::from_secs(5400);
/// Addresses of the first try.
const WIDE: usize = 4;
/// The longest pause of a remote with several addresses, in quarters of the other one: its first
/// try costs more.
const QUARTERS_OF_SEVERAL: u32 = 5;
/// A link that lasted less was one of several short ones.
const SHORT_LINK: Duration = Duration::from_secs(1800);
/// How long its length decides, and how short a pause it may make.
const SHORT_LINK_COUNTS_FOR: Duration = Duration::from_secs(5400);
const SHORTEST_FOR_LINK: Duration = Duration::from_secs(180);
/// How often a change of the way counts.
const CHANGES_EVERY: Duration = Duration::from_secs(60);
/// Tries with full patience at the beginning, and one in this number later.
const PATIENT: u32 = 3;
const PATIENT_AGAIN: u32 = 8;
/// An impatient try: the kernel sends SYN twice in this time.
const IMPATIENT: Duration = Duration::from_millis(1900);

/// Since when nothing answers.
#[derive(Debug, Default)]
pub(super) struct Silence {
    since: Option<Instant>,
    /// Tries, each counted as often as it went to an address.
    tries: u32,
    /// Tries, each counted once.
    turn: u32,
    has_several: bool,
    /// How long the last link lasted before the remote was silent.
    last_link: Option<Duration>,
    /// When a change of the way counted last.
    changed: Option<Instant>,
}

impl Silence {
    /// The remote was heard.
    pub(super) fn is_over(&mut self) {
        *self = Self {
            changed: self.changed,
            last_link: self.last_link,
            ..Self::default()
        };
    }

    /// A link has broken that had lasted so long.
    pub(super) fn lasted(&mut self, lifetime: Duration) {
        self.last_link = Some(lifetime);
    }

    /// The way to the remote is another one. True if it is to be tried at once.
    pub(super) fn way_changed(&mut self, at: Instant) -> bool {
        if self
            .changed
            .is_some_and(|before| at.saturating_duration_since(before) < CHANGES_EVERY)
        {
            return false;
        }
        *self = Self {
            changed: Some(at),
            last_link: self.last_link,
            ..Self::default()
        };
        true
    }

    /// A number of addresses did not answer. Returns the pause before the next try; `longest` is
    /// that of the file, `usual` the round trip of this link, as far as they are known.
    pub(super) fn pause(
        &mut self,
        at: Instant,
        addresses: usize,
        usual: Option<Duration>,
        longest: Option<Duration>,
    ) -> Duration {
        let since = *self.since.get_or_insert(at);
        let addresses = u32::try_from(addresses).unwrap_or(u32::MAX).max(1);
        self.tries = self.tries.saturating_add(addresses);
        self.turn = self.turn.saturating_add(1);
        self.has_several |= addresses > 1;
        let is_cheap = impatient(usual).is_some_and(|dial| dial <= IMPATIENT);
        let (part, most) = if is_cheap {
            (4, LONGEST)
        } else {
            (2, LONGEST_BETWEEN_DEAR)
        };
        let most = if self.has_several {
            most * QUARTERS_OF_SEVERAL / 4
        } else {
            most
        };
        let silent = at.saturating_duration_since(since);
        let most = match self
            .last_link
            .filter(|lifetime| is_cheap && *lifetime < SHORT_LINK)
        {
            Some(lifetime) if silent < SHORT_LINK_COUNTS_FOR => {
                (lifetime / 2).max(SHORTEST_FOR_LINK)
            }
            Some(_) => most * 2,
            None => most,
        };
        (silent / part).max(SHORTEST).min(longest.unwrap_or(most))
    }

    /// Addresses that the next try may leave without an answer.
    pub(super) fn most(&self) -> usize {
        if self.turn == 0 { WIDE } else { 1 }
    }

    /// Tries without an answer.
    pub(super) fn turn(&self) -> u32 {
        self.turn
    }

    /// How long TCP to one address may take, of `within`; `usual` is the round trip of this link as
    /// far as it is known.
    pub(super) fn dial_within(&self, within: Duration, usual: Option<Duration>) -> Duration {
        let is_patient = self.tries < PATIENT || self.tries.is_multiple_of(PATIENT_AGAIN);
        impatient(usual)
            .filter(|_| !is_patient)
            .map_or(within, |dial| within.min(dial))
    }
}

/// How long a try takes that is not to cost much; unknown as long as the link is.
fn impatient(usual: Option<Duration>) -> Option<Duration> {
    usual.map(|usual| IMPATIENT.max(usual * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of SYN packets in a day, as Linux sends them: at once, after each of the next four
    /// seconds, then after twice as long.
    fn bytes_a_day(
        size: u64,
        usual: Option<Duration>,
        addresses: usize,
        last_link: Option<Duration>,
    ) -> u64 {
        let start = crate::time::now();
        let (mut silence, mut at, mut bytes) = (Silence::default(), start, 0);
        if let Some(lifetime) = last_link {
            silence.lasted(lifetime);
        }
        while at < start + Duration::from_secs(86_400) {
            let dial = silence.dial_within(Duration::from_secs(8), usual);
            let tried = addresses.min(silence.most());
            let each = [0, 1, 2, 3, 4, 6]
                .iter()
                .filter(|second| Duration::from_secs(**second) < dial)
                .count();
            bytes += size * (tried * each) as u64;
            at += dial;
            at += silence.pause(at, tried, usual, None);
        }
        bytes
    }

    #[test]
    fn a_remote_that_is_silent_for_a_day_costs_at_most_15_kb_however_many_addresses_it_has() {
        for usual in [None, Some(50), Some(600), Some(700), Some(1500), Some(5000)] {
            let usual = usual.map(Duration::from_millis);
            for addresses in [1, 2, 3, 4, 16] {
                // A SYN with the usual options, over IPv4 and IPv6.
                for size in [60, 80] {
                    for last_link in [None, Some(10), Some(600), Some(1799), Some(1800)] {
                        let bytes =
                            bytes_a_day(size, usual, addresses, last_link.map(Duration::from_secs));
                        assert!(
                            bytes <= 15_000,
                            "{bytes} bytes, {size} a SYN, {addresses} addresses, usual round trip {usual:?}, last link {last_link:?}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn while_the_link_is_unknown_every_try_gets_its_full_time() {
        let (mut silence, mut at) = (Silence::default(), crate::time::now());
        for _ in 0..20 {
            assert_eq!(
                silence.dial_within(Duration::from_secs(8), None),
                Duration::from_secs(8)
            );
            at += silence.pause(at, 1, None, None);
        }
    }

    #[test]
    fn a_way_that_changes_again_and_again_is_tried_once_a_minute() {
        let start = crate::time::now();
        let mut silence = Silence::default();
        let changes = (0..600)
            .filter(|second| silence.way_changed(start + Duration::from_secs(*second)))
            .count();
        assert_eq!(changes, 10);
        silence.pause(start, 1, None, None);
        silence.is_over();
        assert!(
            !silence.way_changed(start + Duration::from_secs(599)),
            "a connection between two changes makes no difference"
        );
    }

    #[test]
    fn a_remote_that_returns_is_found_within_a_quarter_of_its_absence() {
        let usual = Some(Duration::from_millis(300));
        let start = crate::time::now();
        for away in [30_u64, 300, 1200, 7200, 40_000] {
            let (mut silence, mut at) = (Silence::default(), start);
            let back = start + Duration::from_secs(away);
            while at < back {
                at += silence.dial_within(Duration::from_secs(8), usual);
                at += silence.pause(at, 1, usual, None);
            }
            let late = at - back;
            assert!(
                late <= (Duration::from_secs(away) / 4 + Duration::from_secs(12))
                    .min(LONGEST + Duration::from_secs(8)),
                "{late:?} after {away} s"
            );
        }
    }

    #[test]
    fn a_link_that_lasts_ten_minutes_every_ninety_is_found_each_time() {
        let start = crate::time::now();
        let usual = Some(Duration::from_millis(600));
        let (mut silence, mut at) = (Silence::default(), start);
        silence.lasted(Duration::from_secs(600));
        for pass in 1..=16_u64 {
            let (from, until) = (
                start + Duration::from_secs(pass * 5400),
                start + Duration::from_secs(pass * 5400 + 600),
            );
            while at < from {
                at += silence.dial_within(Duration::from_secs(8), usual);
                at += silence.pause(at, 1, usual, None);
            }
            assert!(at < until, "the pass {pass} was missed by {:?}", at - until);
            silence.is_over();
            silence.lasted(until - at);
            at = until;
        }
    }

    #[test]
    fn the_file_has_the_last_word_and_an_answer_begins_anew() {
        let start = crate::time::now();
        let mut silence = Silence::default();
        let later = start + Duration::from_secs(40_000);
        let near = Some(Duration::from_millis(50));
        assert_eq!(silence.pause(start, 1, near, None), SHORTEST);
        assert_eq!(silence.pause(later, 1, near, None), LONGEST);
        assert_eq!(silence.pause(later, 1, None, None), LONGEST_BETWEEN_DEAR);
        assert_eq!(
            silence.pause(later, 1, near, Some(Duration::from_millis(200))),
            Duration::from_millis(200)
        );
        assert_eq!(
            silence.dial_within(Duration::from_secs(8), Some(Duration::from_secs(2))),
            Duration::from_secs(6)
        );
        silence.is_over();
        assert_eq!(silence.pause(later, 1, near, None), SHORTEST);
        assert_eq!(
            silence.dial_within(Duration::from_secs(8), None),
            Duration::from_secs(8)
        );
    }
}
