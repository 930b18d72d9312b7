//! Answers that units still owe, on a wire where only their order tells answers apart. Pure.
//!
//! Invariants:
//! * A unit is listed only while it owes an answer.
//! * Where answers of any unit are accepted, all units are one debtor: the late answer of one could
//!   be taken for that of another.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The lengths of the data in answers that are owed, with the time of each request, by unit.
#[derive(Debug)]
pub(super) struct OwedAnswers {
    by_unit: HashMap<u8, HashMap<u32, Instant>>,
    any_unit: bool,
}

impl OwedAnswers {
    /// `any_unit`: answers do not say which unit they are from.
    pub(super) fn new(any_unit: bool) -> Self {
        Self {
            by_unit: HashMap::new(),
            any_unit,
        }
    }

    fn debtor(&self, unit: u8) -> u8 {
        if self.any_unit { 0 } else { unit }
    }

    /// A unit owes an answer with `bytes` of data.
    pub(super) fn add(&mut self, unit: u8, bytes: u32, now: Instant) {
        let debtor = self.debtor(unit);
        self.by_unit.entry(debtor).or_default().insert(bytes, now);
    }

    /// True if a unit owes any answer.
    pub(super) fn owes(&self, unit: u8) -> bool {
        self.by_unit.contains_key(&self.debtor(unit))
    }

    /// True if a unit owes an answer with `bytes` of data.
    pub(super) fn owes_length(&self, unit: u8, bytes: u32) -> bool {
        self.by_unit
            .get(&self.debtor(unit))
            .is_some_and(|owed| owed.contains_key(&bytes))
    }

    /// The late answers of a unit are past.
    pub(super) fn settle(&mut self, unit: u8) {
        self.by_unit.remove(&self.debtor(unit));
    }

    /// Answers that a unit has owed for `limit` are not expected any longer.
    pub(super) fn expire(&mut self, unit: u8, limit: Duration, now: Instant) {
        let debtor = self.debtor(unit);
        if let Some(owed) = self.by_unit.get_mut(&debtor) {
            owed.retain(|_, since| now.saturating_duration_since(*since) < limit);
            if owed.is_empty() {
                self.by_unit.remove(&debtor);
            }
        }
    }

    /// The wire was opened again: only units for which `may_be_slow` holds still owe answers.
    pub(super) fn reopened(&mut self, may_be_slow: impl Fn(u8) -> bool) {
        self.by_unit.retain(|unit, _| may_be_slow(*unit));
    }
}
