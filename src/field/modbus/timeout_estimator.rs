//! How long to wait for an answer. Pure.
//!
//! Every unit is waited for as long as it has been seen to take, with a margin; answers that came
//! too late count. Until enough is known, and after a time-out, the longest wait of the YAML holds.
//! The first answer of a unit, after its line was opened or it was not heard for `COLD_AFTER`, may
//! take longer where the YAML says so, and tells nothing of the others.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// A unit that was not heard for so long may have gone to sleep.
const COLD_AFTER: Duration = Duration::from_secs(60);
/// Answers that are remembered of each unit.
const SAMPLES: usize = 64;
/// Answers after which the estimate is used.
const ENOUGH: usize = 8;
/// Estimate = longest of the remembered times this.
const MARGIN: u32 = 4;
/// A probe waits this many times the longest of the remembered.
const PROBE_MARGIN: u32 = 3;
/// One probe in this many waits as long as the YAML allows: the device may have become slow.
const FULL_PROBE_EVERY: u32 = 8;

/// Bounds of the YAML.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AnswerWithin {
    /// However fast a device has been.
    pub least: Duration,
    /// However slow.
    pub most: Duration,
}

impl AnswerWithin {
    /// What holds when one duration is typed.
    pub fn at_most(most: Duration) -> Self {
        Self {
            least: Duration::from_millis(50).min(most),
            most,
        }
    }
}

#[derive(Debug, Default)]
struct Unit {
    turnarounds: VecDeque<Duration>,
    missed: bool,
    probes: u32,
    /// When it answered last, since the line was opened.
    heard: Option<Instant>,
}

impl Unit {
    fn longest(&self) -> Option<Duration> {
        self.turnarounds.iter().max().copied()
    }
}

/// The units of one line.
#[derive(Debug)]
pub(super) struct TimeoutEstimator {
    bounds: AnswerWithin,
    /// The timeout of the first answer, by unit.
    first: HashMap<u8, Duration>,
    units: HashMap<u8, Unit>,
}

impl TimeoutEstimator {
    pub(super) fn new(bounds: AnswerWithin, first: HashMap<u8, Duration>) -> Self {
        Self {
            bounds,
            first,
            units: HashMap::new(),
        }
    }

    /// The line was opened: what follows are first answers.
    pub(super) fn opened(&mut self) {
        self.units.values_mut().for_each(|unit| unit.heard = None);
    }

    /// The longest that any answer is waited for.
    pub(super) fn longest(&self) -> Duration {
        self.first
            .values()
            .copied()
            .max()
            .unwrap_or_default()
            .max(self.bounds.most)
    }

    /// True if the first answer of a unit may take longer than any other.
    pub(super) fn may_be_slow(&self, unit: u8) -> bool {
        self.first
            .get(&unit)
            .is_some_and(|first| *first > self.bounds.most)
    }

    /// The timeout of the next answer, if it is a first one that may be slower.
    fn first_of(&self, unit: u8, now: Option<Instant>) -> Option<Duration> {
        let first = self.first.get(&unit).copied()?;
        let heard = self.units.get(&unit).and_then(|unit| unit.heard);
        let is_warm = heard
            .zip(now)
            .is_some_and(|(heard, now)| now.saturating_duration_since(heard) < COLD_AFTER);
        (!is_warm).then_some(first.max(self.bounds.most))
    }

    /// The timeout for the first byte of an answer.
    pub(super) fn of(&self, unit: u8, now: Instant) -> Duration {
        if let Some(first) = self.first_of(unit, Some(now)) {
            return first;
        }
        let known = self
            .units
            .get(&unit)
            .filter(|unit| !unit.missed && unit.turnarounds.len() >= ENOUGH);
        match known.and_then(Unit::longest) {
            Some(longest) => self.bounded(longest * MARGIN),
            None => self.bounds.most,
        }
    }

    /// The timeout of a probe of a silent unit.
    pub(super) fn of_probe(&mut self, unit: u8) -> Duration {
        let wait = self.next_probe(unit);
        let unit = self.units.entry(unit).or_default();
        unit.probes = unit.probes.wrapping_add(1);
        wait
    }

    /// The timeout of most probes.
    fn likely_probe(&self, unit: u8) -> Duration {
        let whole_line = || self.units.values().filter_map(Unit::longest).max();
        let learned = self
            .units
            .get(&unit)
            .and_then(Unit::longest)
            .or_else(whole_line);
        let most = || {
            self.first
                .get(&unit)
                .copied()
                .unwrap_or_default()
                .max(self.bounds.most)
        };
        learned.map_or_else(most, |longest| self.bounded(longest * PROBE_MARGIN))
    }

    /// The timeout of the next probe.
    pub(super) fn next_probe(&self, unit: u8) -> Duration {
        let is_full = self
            .units
            .get(&unit)
            .is_some_and(|unit| unit.probes.wrapping_add(1).is_multiple_of(FULL_PROBE_EVERY));
        let most = || {
            self.first
                .get(&unit)
                .copied()
                .unwrap_or_default()
                .max(self.bounds.most)
        };
        if is_full {
            most()
        } else {
            self.likely_probe(unit)
        }
    }

    fn bounded(&self, time: Duration) -> Duration {
        time.clamp(self.bounds.least.min(self.bounds.most), self.bounds.most)
    }

    /// An answer came.
    pub(super) fn answered(&mut self, unit: u8, turnaround: Duration, now: Instant) {
        let is_first = self.first_of(unit, Some(now)).is_some();
        let unit = self.units.entry(unit).or_default();
        unit.missed = false;
        unit.probes = 0;
        unit.heard = Some(now);
        if !is_first {
            unit.add(turnaround);
        }
    }

    /// An answer came late. One that lay unread for long is no measurement.
    pub(super) fn late(&mut self, unit: u8, after: Duration) {
        if after > self.bounds.most * 2 {
            return;
        }
        self.units.entry(unit).or_default().add(after);
    }

    /// None came.
    pub(super) fn missed(&mut self, unit: u8) {
        self.units.entry(unit).or_default().missed = true;
    }

    /// The longest that a unit has taken lately.
    pub(super) fn estimate(&self, unit: u8) -> Option<Duration> {
        self.units.get(&unit).and_then(Unit::longest)
    }
}

impl Unit {
    fn add(&mut self, turnaround: Duration) {
        if self.turnarounds.len() == SAMPLES {
            self.turnarounds.pop_front();
        }
        self.turnarounds.push_back(turnaround);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn what_was_seen_sets_the_time_out_between_the_bounds() {
        let now = crate::time::now();
        let mut patience = TimeoutEstimator::new(AnswerWithin::at_most(ms(1000)), HashMap::new());
        assert_eq!(patience.of(1, now), ms(1000), "nothing known");
        (0..8).for_each(|_| patience.answered(1, ms(20), now));
        assert_eq!(patience.of(1, now), ms(80));
        patience.missed(1);
        assert_eq!(
            patience.of(1, now),
            ms(1000),
            "after a time-out it may be slower"
        );
        patience.late(1, ms(180));
        patience.answered(1, ms(20), now);
        assert_eq!(patience.of(1, now), ms(720), "it has been that slow");
        (0..8).for_each(|_| patience.answered(2, ms(1), now));
        assert_eq!(patience.of(2, now), ms(50), "never less");
        (0..8).for_each(|_| patience.answered(3, ms(900), now));
        assert_eq!(patience.of(3, now), ms(1000), "never more");
    }

    #[test]
    fn the_first_answer_may_be_slower_than_the_rest() {
        let now = crate::time::now();
        let mut patience = TimeoutEstimator::new(
            AnswerWithin::at_most(ms(300)),
            HashMap::from([(1, ms(5000))]),
        );
        assert_eq!(
            (patience.of(1, now), patience.of(2, now), patience.longest()),
            (ms(5000), ms(300), ms(5000))
        );
        patience.answered(1, ms(4000), now);
        assert_eq!(
            (patience.of(1, now), patience.estimate(1)),
            (ms(300), None),
            "a first answer tells nothing of the rest"
        );
        (0..8).for_each(|_| patience.answered(1, ms(20), now));
        assert_eq!(patience.of(1, now), ms(80));
        assert_eq!(
            patience.of(1, now + COLD_AFTER),
            ms(5000),
            "it may sleep again"
        );
        patience.opened();
        assert_eq!(patience.of(1, now), ms(5000), "the line was opened again");
        let waits: Vec<Duration> = (0..8).map(|_| patience.of_probe(1)).collect();
        assert_eq!(
            waits.iter().filter(|wait| **wait == ms(5000)).count(),
            1,
            "some probes wait for a first answer"
        );
    }

    #[test]
    fn probes_are_short_and_sometimes_long() {
        let mut patience = TimeoutEstimator::new(AnswerWithin::at_most(ms(1000)), HashMap::new());
        assert_eq!(patience.of_probe(9), ms(1000), "nothing known of the line");
        patience.answered(1, ms(60), crate::time::now());
        let waits: Vec<Duration> = (0..7).map(|_| patience.of_probe(9)).collect();
        assert_eq!(waits[0], ms(180));
        assert_eq!(waits.iter().filter(|wait| **wait == ms(1000)).count(), 1);
    }
}
