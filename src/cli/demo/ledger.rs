//! The ledger: acknowledged messages against delivered ones.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Queued messages without a backlog: those of the last few commits.
const LIVE: u64 = 30;
/// The line above the rows.
pub(super) const HEADING: &str =
    "   time  link   readings   waiting  delivered   lost  doubled   bytes on the wire\n";

#[derive(Debug, Default)]
struct Book {
    /// Readings seen by the local client.
    readings: u64,
    /// Queued messages, as the gateway publishes them.
    waiting: u64,
    /// Numbers the gateway acknowledged to the local client.
    promised: BTreeSet<u64>,
    /// Those of them that are at the remote.
    kept: HashSet<u64>,
    /// Outbox sequence numbers at the remote, by their series: each lane has its own.
    sequences: BTreeMap<String, BTreeSet<u64>>,
    /// How often the gateway was killed: each time its numbers skip some that were never given to a
    /// message.
    kills: usize,
    doubled: u64,
}

/// Shared by all participants.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

/// The result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) promised: u64,
    pub(super) delivered: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
}

impl Ledger {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The local client saw a reading.
    pub(super) fn reading(&self) {
        self.book().readings += 1;
    }

    /// The gateway published its number of queued messages.
    pub(super) fn waiting(&self, count: u64) {
        self.book().waiting = count;
    }

    /// The gateway acknowledged number `n` of the local client.
    pub(super) fn promised(&self, n: u64) {
        self.book().promised.insert(n);
    }

    /// The gateway was killed.
    pub(super) fn killed(&self) {
        self.book().kills += 1;
    }

    /// A message arrived at the remote, with its series and its number there; `n` if it is one of
    /// the local client's.
    pub(super) fn arrived(&self, series: &str, number: u64, n: Option<u64>) {
        let mut book = self.book();
        let numbers = book.sequences.entry(series.to_owned()).or_default();
        let is_new = numbers.insert(number);
        book.doubled += u64::from(!is_new);
        book.kept.extend(n);
    }

    /// True if all acknowledged messages have arrived, and no more are queued than the instruments
    /// produce at the moment.
    pub(super) fn is_settled(&self) -> bool {
        let book = self.book();
        let kept = book.promised.iter().all(|n| book.kept.contains(n));
        !book.promised.is_empty() && kept && book.waiting <= LIVE && book.missing() == 0
    }

    /// The result so far: a promise that did not arrive is lost, and so is every sequence number
    /// that is missing.
    pub(super) fn sums(&self) -> Sums {
        let book = self.book();
        let broken = book
            .promised
            .iter()
            .filter(|n| !book.kept.contains(n))
            .count() as u64;
        Sums {
            promised: book.promised.len() as u64,
            delivered: book.delivered(),
            lost: broken + book.missing(),
            doubled: book.doubled,
        }
    }

    /// One line of the live table. Only gaps before arrived messages count as lost: later ones may
    /// still come.
    pub(super) fn row(&self, elapsed: Duration, up: bool, bytes: u64) -> String {
        let book = self.book();
        let (link, lost) = (if up { "up" } else { "DOWN" }, book.missing());
        format!(
            "{:>5} s  {link:<5}{:>10}{:>10}{:>11}{lost:>7}{:>9}{bytes:>20}\n",
            elapsed.as_secs(),
            book.readings,
            book.waiting,
            book.delivered(),
            book.doubled
        )
    }
}

impl Book {
    /// Different messages at the remote.
    fn delivered(&self) -> u64 {
        self.sequences
            .values()
            .map(|numbers| numbers.len() as u64)
            .sum()
    }

    /// Numbers of a series begin at 1 and leave none out, but for one run of them each time the
    /// gateway was killed.
    fn missing(&self) -> u64 {
        let missing_in = |numbers: &BTreeSet<u64>| -> u64 {
            let before = std::iter::once(0).chain(numbers.iter().copied());
            let pairs = numbers.iter().zip(before);
            let mut runs: Vec<u64> = pairs.map(|(number, before)| number - before - 1).collect();
            runs.sort_unstable();
            runs.iter().rev().skip(self.kills).sum()
        };
        self.sequences.values().map(missing_in).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_number_and_a_broken_promise_are_losses_and_a_repeat_is_doubled() {
        let ledger = Ledger::default();
        ledger.promised(1);
        ledger.promised(2);
        ledger.arrived("l", 1, Some(1));
        ledger.arrived("l", 3, None);
        ledger.arrived("l", 3, None);
        assert_eq!(
            ledger.sums(),
            Sums {
                promised: 2,
                delivered: 2,
                lost: 2,
                doubled: 1
            }
        );
        assert!(!ledger.is_settled());
        ledger.arrived("l", 2, Some(2));
        assert_eq!(ledger.sums().lost, 0);
        assert!(ledger.is_settled());
        ledger.arrived("b", 1, None);
        assert_eq!((ledger.sums().lost, ledger.sums().doubled), (0, 1));
        ledger.arrived("l", 1000, None);
        assert_eq!(ledger.sums().lost, 996);
        ledger.killed();
        assert_eq!(ledger.sums().lost, 0);
    }
}
