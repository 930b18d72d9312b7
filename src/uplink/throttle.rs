//! How fast messages go to a remote that leaves those unanswered which come faster than it takes
//! them. Pure: the caller brings the time.
//!
//! Invariants:
//! * There is no pace until the remote has skipped several messages and answered others. Then it is
//!   half of the most that the remote answered in a second, and half of that each time it skips
//!   several again; never less than a message a minute.
//! * A span of ten minutes in which the remote answered messages and skipped none makes it a
//!   quarter faster. Beyond four times what the remote answered in a second there is no pace any
//!   more.
//! * A message is blamed only if the remote skips it on three connections at a pace that was halved
//!   four times.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::outbox::EntryId;
use crate::route::{Bucket, EVENLY};
use crate::units::Rate;

/// Messages that a remote has to skip: a single one may be its own fault.
pub(super) const SEVERAL: usize = 2;
/// The slowest pace, in messages an hour.
const SLOWEST: u64 = 60;
/// The time without a skipped message after which the pace is raised.
const RAISE_AFTER: Duration = Duration::from_secs(600);
/// Halvings after which it is hardly the pace that makes the remote skip a message,
const ENOUGH: u32 = 4;
/// and connections on which it has to skip the message then.
const SKIPS: u32 = 3;
const SECONDS_AN_HOUR: u64 = 3600;

/// The pace of an uplink, and what it is found from.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    pace: Option<Limited>,
    /// When the second began that is counted, and the messages answered in it.
    second: Option<(Instant, u64)>,
    /// The most messages answered in a second of this connection.
    best: u64,
    /// How often the remote has skipped messages at a slow pace, without a break.
    slow_skips: HashMap<EntryId, u32>,
}

/// A pace, and how it was found.
#[derive(Debug)]
struct Limited {
    bucket: Bucket,
    /// The rate that the remote answered before, in messages an hour.
    measured: u64,
    halvings: u32,
    /// Since when the remote has skipped nothing, and whether it has answered anything since.
    since: Instant,
    has_worked: bool,
}

/// The verdict on messages that the remote has skipped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excess {
    /// It was not known before that the remote skips messages.
    pub(super) is_new: bool,
    /// Messages that are skipped however slowly they come.
    pub(super) poison: Vec<EntryId>,
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

    /// The remote has skipped these messages of this connection, and answered others.
    pub(super) fn skipped(&mut self, skipped: &[EntryId], at: Instant) -> Excess {
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
        let before = std::mem::take(&mut self.slow_skips);
        if halvings >= ENOUGH {
            let times = |place: &EntryId| before.get(place).map_or(1, |times| times + 1);
            self.slow_skips = skipped.iter().map(|place| (*place, times(place))).collect();
        }
        let is_poison = |place: &&EntryId| self.slow_skips.get(*place) >= Some(&SKIPS);
        Excess {
            is_new,
            poison: skipped.iter().filter(is_poison).copied().collect(),
        }
    }

    /// It was not the pace.
    pub(super) fn acquit(&mut self) {
        self.pace = None;
        self.slow_skips.clear();
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

    /// The bucket that is filled at the pace.
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

    /// A connection on which the remote answers a number of messages within a second, and skips
    /// others.
    fn connection(throttle: &mut Throttle, answered: u64, first: u64, at: Instant) -> Excess {
        throttle.begin();
        (0..answered).for_each(|_| throttle.answered(at));
        throttle.skipped(&[place(first), place(first + 1)], at)
    }

    #[test]
    fn the_pace_is_halved_from_what_was_answered_and_raised_slowly_until_it_is_none() {
        let (mut throttle, start) = (Throttle::default(), crate::time::now());
        assert_eq!(throttle.per_second(), None);
        let too_fast = |is_new| Excess {
            is_new,
            poison: Vec::new(),
        };
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
    fn messages_that_are_skipped_at_a_slow_pace_too_are_poison() {
        let (mut throttle, at) = (Throttle::default(), crate::time::now());
        let poison: Vec<usize> = (0..8)
            .map(|_| connection(&mut throttle, 100, 7, at).poison.len())
            .collect();
        assert_eq!(poison, [0, 0, 0, 0, 0, 0, 2, 2]);
        assert_eq!(
            connection(&mut throttle, 100, 8, at).poison,
            [place(8)],
            "the other one is new"
        );
        throttle.acquit();
        assert_eq!(throttle.per_second(), None);
    }
}
