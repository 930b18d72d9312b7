//! How fast messages go to a remote that leaves those unanswered which come faster than it takes them. Pure: the caller brings the time.
//!
//! Invariants:
//! * There is no pace until the remote has skipped several messages and answered others. Then it is half of the most that the remote
//!   answered in a second, and half of that each time it skips several again; never less than a message a minute.
//! * A span of ten minutes in which the remote answered messages and skipped none makes it a quarter faster. Beyond four times what the
//!   remote answered in a second there is no pace any more.
//! * A message is blamed only if the remote skips it at a pace that was halved four times.

use std::time::{Duration, Instant};

use crate::outbox::{Bucket, EVENLY, EntryId};
use crate::units::Rate;

/// Messages that a remote has to skip: a single one may be its own fault.
pub(super) const SEVERAL: usize = 2;
/// The slowest pace, in messages an hour.
const SLOWEST: u64 = 60;
/// The time without a skipped message after which the pace is raised.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Halvings after which it is not the pace that makes the remote skip a message.
const ENOUGH: u32 = 4;
const SECONDS_AN_HOUR: u64 = 3600;

/// The pace of an uplink, and what it is found from.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    pace: Option<Limited>,
    /// When the second began that is counted, and the messages answered in it.
    second: Option<(Instant, u64)>,
    /// The most messages answered in a second of this connection.
    best: u64,
    /// The first message that the remote skipped last.
    first: Option<EntryId>,
}

/// A pace, and how it was found.
#[derive(Debug)]
struct Limited {
    bucket: Bucket,
    /// What the remote answered before, in messages an hour.
    measured: u64,
    halvings: u32,
    /// Since when the remote has skipped nothing, and whether it has answered anything since.
    since: Instant,
    has_worked: bool,
}

/// What is to be done about messages that the remote has skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Excess {
    /// They came too fast. True if that was not known before.
    TooFast { is_new: bool },
    /// The first of them is skipped however slowly messages come.
    Poison,
}

fn bucket(an_hour: u64) -> Bucket {
    let rate = Rate {
        messages: Some(an_hour),
        bytes: None,
    };
    Bucket::new(rate, EVENLY)
}

impl Limited {
    /// In messages an hour.
    fn an_hour(&self) -> u64 {
        self.bucket.rate().messages.unwrap_or(u64::MAX)
    }
}

impl Throttle {
    /// A connection begins.
    pub(super) fn begin(&mut self) {
        (self.second, self.best) = (None, 0);
    }

    /// The remote has answered a message.
    pub(super) fn answered(&mut self, at: Instant) {
        let (began, count) = self
            .second
            .filter(|(began, _)| at < *began + Duration::from_secs(1))
            .unwrap_or((at, 0));
        self.second = Some((began, count + 1));
        self.best = self.best.max(count + 1);
        if let Some(pace) = &mut self.pace {
            pace.has_worked = true;
        }
    }

    /// True if the remote has answered a message of this connection.
    pub(super) fn has_answers(&self) -> bool {
        self.best > 0
    }

    /// The remote has skipped several messages of this connection, `first` before the others, and answered some.
    pub(super) fn skipped(&mut self, first: EntryId, at: Instant) -> Excess {
        let is_same = self.first.replace(first) == Some(first);
        let measured = self.best.max(1) * SECONDS_AN_HOUR;
        let (before, halvings) = match &self.pace {
            Some(pace) => (pace.an_hour().min(measured), pace.halvings),
            None => (measured, 0),
        };
        let is_new = self.pace.is_none();
        self.pace = Some(Limited {
            bucket: bucket((before / 2).max(SLOWEST)),
            measured: self.pace.take().map_or(measured, |pace| pace.measured),
            halvings: halvings + 1,
            since: at,
            has_worked: false,
        });
        if is_same && halvings >= ENOUGH {
            Excess::Poison
        } else {
            Excess::TooFast { is_new }
        }
    }

    /// It was not the pace.
    pub(super) fn acquit(&mut self) {
        (self.pace, self.first) = (None, None);
    }

    /// Raises the pace when it is time to. True if there is none from here on.
    pub(super) fn raise(&mut self, at: Instant) -> bool {
        let Some(pace) = self.pace.as_mut() else {
            return false;
        };
        if !pace.has_worked || at < pace.since + RAISE_AFTER {
            return false;
        }
        let faster = pace.an_hour().saturating_add(pace.an_hour() / 4);
        pace.bucket = bucket(faster);
        pace.halvings = 0;
        (pace.since, pace.has_worked) = (at, false);
        let is_over = faster > pace.measured.saturating_mul(4);
        if is_over {
            self.acquit();
        }
        is_over
    }

    /// The pace in messages a second, if there is one.
    pub(super) fn per_second(&self) -> Option<f64> {
        let pace = self.pace.as_ref()?;
        Some(pace.an_hour() as f64 / SECONDS_AN_HOUR as f64)
    }

    /// What is left of the pace.
    pub(super) fn bucket(&mut self) -> Option<&mut Bucket> {
        self.pace.as_mut().map(|pace| &mut pace.bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(seq: u64) -> EntryId {
        EntryId { queue: 1, seq }
    }

    /// A connection on which the remote answers so many messages within a second, and skips others.
    fn connection(throttle: &mut Throttle, answered: u64, first: u64, at: Instant) -> Excess {
        throttle.begin();
        (0..answered).for_each(|_| throttle.answered(at));
        throttle.skipped(place(first), at)
    }

    #[test]
    fn the_pace_is_halved_from_what_was_answered_and_raised_slowly_until_it_is_none() {
        let (mut throttle, start) = (Throttle::default(), crate::time::now());
        assert_eq!(throttle.per_second(), None);
        let too_fast = |is_new| Excess::TooFast { is_new };
        assert_eq!(
            connection(&mut throttle, 20, 21, start),
            too_fast(true),
            "said once"
        );
        assert_eq!(throttle.per_second(), Some(10.0));
        assert_eq!(connection(&mut throttle, 20, 60, start), too_fast(false));
        assert_eq!(throttle.per_second(), Some(5.0));
        assert!(!throttle.raise(start + RAISE_AFTER), "nothing was answered");
        throttle.answered(start);
        assert!(!throttle.raise(start + RAISE_AFTER / 2), "it is too early");
        assert!(!throttle.raise(start + RAISE_AFTER));
        assert_eq!(throttle.per_second(), Some(6.25));
        let spans = (2..100).find(|span| {
            throttle.answered(start);
            throttle.raise(start + RAISE_AFTER * *span)
        });
        assert_eq!((spans, throttle.per_second()), (Some(13), None));
    }

    #[test]
    fn the_slowest_pace_is_a_message_a_minute() {
        let (mut throttle, at) = (Throttle::default(), crate::time::now());
        for seq in 0..100 {
            connection(&mut throttle, 1, seq, at);
        }
        assert_eq!(throttle.per_second(), Some(1.0 / 60.0));
    }

    #[test]
    fn a_message_that_is_skipped_at_a_slow_pace_too_is_poison() {
        let (mut throttle, at) = (Throttle::default(), crate::time::now());
        let excess: Vec<Excess> = (0..6)
            .map(|_| connection(&mut throttle, 100, 7, at))
            .collect();
        assert_eq!(
            excess.iter().position(|excess| *excess == Excess::Poison),
            Some(4)
        );
        assert_eq!(excess[5], Excess::Poison);
        assert_ne!(connection(&mut throttle, 100, 8, at), Excess::Poison);
        throttle.acquit();
        assert_eq!(throttle.per_second(), None);
    }
}
