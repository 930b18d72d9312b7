//! How often a remote that does not answer is tried: each try costs bytes if there is a link and only the remote is silent. Pure.
//!
//! Invariants:
//! * A remote that is silent for a day costs at most 15 kB of SYN packets.
//! * The pause is a quarter of the time since the remote was heard, so that it is found again within a quarter of the time for which it
//!   was away, at most half an hour later.

use std::time::{Duration, Instant};

/// The pause at the beginning: a short outage is over at once.
const SHORTEST: Duration = Duration::from_secs(4);
/// The longest pause, unless the file says otherwise.
pub(super) const LONGEST: Duration = Duration::from_secs(1800);
/// Tries with full patience at the beginning, and one of so many later.
const PATIENT: u32 = 3;
const PATIENT_AGAIN: u32 = 8;
/// An impatient try: the kernel sends SYN twice in this time.
const IMPATIENT: Duration = Duration::from_millis(1900);

/// Since when nothing answers.
#[derive(Debug, Default)]
pub(super) struct Silence {
    since: Option<Instant>,
    tries: u32,
}

impl Silence {
    /// The remote was heard, or the way to it is another one.
    pub(super) fn is_over(&mut self) {
        *self = Self::default();
    }

    /// Nothing answered. Returns the pause before the next try; `longest` is that of the file.
    pub(super) fn pause(&mut self, at: Instant, longest: Duration) -> Duration {
        let since = *self.since.get_or_insert(at);
        self.tries = self.tries.saturating_add(1);
        (at.saturating_duration_since(since) / 4).max(SHORTEST).min(longest)
    }

    /// How long TCP to one address may take, of `within`; `usual` is the round trip of this link as far as it is known.
    pub(super) fn dial_within(&self, within: Duration, usual: Option<Duration>) -> Duration {
        let is_patient = self.tries < PATIENT || self.tries.is_multiple_of(PATIENT_AGAIN);
        if is_patient { within } else { within.min(usual.map_or(IMPATIENT, |usual| IMPATIENT.max(usual * 3))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of SYN packets in a day, as Linux sends them: at once, after each of the next four seconds, then after twice as long.
    fn bytes_a_day(size: u64) -> u64 {
        let start = crate::time::now();
        let (mut silence, mut at, mut bytes) = (Silence::default(), start, 0);
        while at < start + Duration::from_secs(86_400) {
            let dial = silence.dial_within(Duration::from_secs(8), None);
            bytes += size * [0, 1, 2, 3, 4, 6].iter().filter(|second| Duration::from_secs(**second) < dial).count() as u64;
            at += dial;
            at += silence.pause(at, LONGEST);
        }
        bytes
    }

    #[test]
    fn a_remote_that_is_silent_for_a_day_costs_at_most_15_kb() {
        // A SYN with the usual options, over IPv4 and IPv6.
        assert!(bytes_a_day(60) <= 15_000, "{} bytes over IPv4", bytes_a_day(60));
        assert!(bytes_a_day(80) <= 15_000, "{} bytes over IPv6", bytes_a_day(80));
    }

    #[test]
    fn a_remote_that_returns_is_found_within_a_quarter_of_its_absence() {
        let start = crate::time::now();
        for away in [30_u64, 300, 1200, 7200, 40_000] {
            let (mut silence, mut at) = (Silence::default(), start);
            let back = start + Duration::from_secs(away);
            while at < back {
                at += silence.dial_within(Duration::from_secs(8), None);
                at += silence.pause(at, LONGEST);
            }
            let late = at - back;
            assert!(
                late <= (Duration::from_secs(away) / 4 + Duration::from_secs(12)).min(LONGEST + Duration::from_secs(8)),
                "{late:?} after {away} s"
            );
        }
    }

    #[test]
    fn the_file_has_the_last_word_and_an_answer_begins_anew() {
        let start = crate::time::now();
        let mut silence = Silence::default();
        let later = start + Duration::from_secs(40_000);
        assert_eq!(silence.pause(start, LONGEST), SHORTEST);
        assert_eq!(silence.pause(later, LONGEST), LONGEST);
        assert_eq!(silence.pause(later, Duration::from_millis(200)), Duration::from_millis(200));
        assert_eq!(silence.dial_within(Duration::from_secs(8), Some(Duration::from_secs(2))), Duration::from_secs(6));
        silence.is_over();
        assert_eq!(silence.pause(later, LONGEST), SHORTEST);
        assert_eq!(silence.dial_within(Duration::from_secs(8), None), Duration::from_secs(8));
    }
}
