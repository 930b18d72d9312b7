//! The lines that peers can cause, bounded. Pure.
//!
//! Invariants:
//! * A source writes at most `burst` lines of a kind at once, and then one in `every`; all sources
//!   together at most [`ALL`] times as many, so that a flood of one kind from many addresses hides
//!   no other kind. The first line of a source in [`RARE`] times `every` may come out of a reserve,
//!   as large as the lines of one source: a flood of others does not hide a rare source.
//! * Memory is bounded: [`MOST_SOURCES`] pairs of a kind and a source of at most [`MOST_BYTES`]
//!   each. Sources beyond that share the account of one.
//! * Every suppressed line is counted, and the count comes with a later line of its source, or by
//!   [`LogLimiter::overdue`] in one line for a kind.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Pairs of a kind and a source that are remembered, about 100 bytes each.
const MOST_SOURCES: usize = 1024;
/// Bytes of such a pair; nothing in it is on the heap.
const MOST_BYTES: usize = 64;
/// Times the lines of one source, for all of them together.
const ALL: u32 = 4;
/// A source that wrote nothing for this many times `every` is rare.
const RARE: u32 = 5;
/// How often suppressed lines of a kind are reported, beside the lines that are written.
const REPORT_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy)]
struct Account {
    /// Lines that may be written at once, up to the burst.
    lines: f64,
    seen: Instant,
    /// When a line was last written.
    written: Option<Instant>,
    suppressed: u64,
}

impl Account {
    fn new(burst: u32, now: Instant) -> Self {
        Self {
            lines: f64::from(burst),
            seen: now,
            written: None,
            suppressed: 0,
        }
    }

    fn refill(&mut self, burst: u32, every: Duration, now: Instant) {
        let gained =
            now.saturating_duration_since(self.seen).as_secs_f64() / every.as_secs_f64().max(1e-3);
        self.lines = (self.lines + gained).min(f64::from(burst));
        self.seen = now;
    }
}

/// The lines of a kind.
#[derive(Debug)]
struct KindAccounts {
    /// Of all its sources.
    all: Account,
    /// Of those that are rare, when `all` is used up.
    reserve: Account,
    /// When [`LogLimiter::overdue`] reported it last.
    reported: Option<Instant>,
}

/// Decides which lines are written. `K` is a kind of line, of which a program has a few; `S` is its
/// source. Both are small values without anything a peer has chosen.
#[derive(Debug)]
pub struct LogLimiter<K, S = ()> {
    burst: u32,
    every: Duration,
    kinds: HashMap<K, KindAccounts>,
    /// `None` stands for the sources of a kind that are not remembered.
    sources: HashMap<(K, Option<S>), Account>,
    /// When sources with nothing to remember were last looked for.
    swept: Option<Instant>,
}

impl<K: Copy + Eq + Hash, S: Copy + Eq + Hash> LogLimiter<K, S> {
    /// `burst` lines at once of a kind from one source, then one in `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        const {
            assert!(
                size_of::<(K, Option<S>)>() <= MOST_BYTES,
                "what is remembered of a source is small"
            );
        };
        Self {
            burst: burst.max(1),
            every,
            kinds: HashMap::new(),
            sources: HashMap::new(),
            swept: None,
        }
    }

    /// Permits a line of `source`, with the number of lines suppressed since the last one; `None`
    /// counts it as suppressed.
    pub fn permit(&mut self, kind: K, source: S, now: Instant) -> Option<u64> {
        let (burst, every, of_all) = (self.burst, self.every, self.burst.saturating_mul(ALL));
        let source = self.known(kind, source, now);
        let new = KindAccounts {
            all: Account::new(of_all, now),
            reserve: Account::new(burst, now),
            reported: None,
        };
        let KindAccounts { all, reserve, .. } = self.kinds.entry(kind).or_insert(new);
        all.refill(of_all, every / ALL, now);
        reserve.refill(burst, every, now);
        let account = self
            .sources
            .entry((kind, source))
            .or_insert(Account::new(burst, now));
        account.refill(burst, every, now);
        let rare_after = every.saturating_mul(RARE);
        let is_rare = source.is_some()
            && account
                .written
                .is_none_or(|at| now.saturating_duration_since(at) >= rare_after);
        let all = if all.lines < 1.0 && is_rare {
            reserve
        } else {
            all
        };
        if account.lines < 1.0 || all.lines < 1.0 {
            account.suppressed += 1;
            return None;
        }
        account.written = Some(now);
        account.lines -= 1.0;
        all.lines -= 1.0;
        debug_assert!(
            account.lines >= 0.0 && all.lines >= 0.0,
            "no account is overdrawn"
        );
        let suppressed = std::mem::take(&mut account.suppressed);
        debug_assert!(self.sources.len() <= MOST_SOURCES + self.kinds.len());
        Some(suppressed)
    }

    /// The source if it is remembered or there is room for it; `None` if it shares an account.
    fn known(&mut self, kind: K, source: S, now: Instant) -> Option<S> {
        let is_known = |sources: &HashMap<_, _>| {
            sources.len() < MOST_SOURCES || sources.contains_key(&(kind, Some(source)))
        };
        let is_due = self
            .swept
            .is_none_or(|swept| now.saturating_duration_since(swept) >= self.every);
        if !is_known(&self.sources) && is_due {
            self.swept = Some(now);
            self.forget_idle(now);
        }
        is_known(&self.sources).then_some(source)
    }

    /// Forgets sources that may write all their lines again and have no suppressed ones.
    fn forget_idle(&mut self, now: Instant) {
        let full_after = self.every.saturating_mul(self.burst);
        self.sources.retain(|_, account| {
            account.suppressed > 0 || now.saturating_duration_since(account.seen) < full_after
        });
    }

    /// The suppressed lines of each kind, of sources that are quiet again, to be reported as one
    /// line for a kind. Called periodically.
    pub fn overdue(&mut self, now: Instant) -> Vec<(K, u64)> {
        let mut reported = Vec::new();
        for (kind, state) in &mut self.kinds {
            if state
                .reported
                .is_some_and(|reported| now.saturating_duration_since(reported) < REPORT_EVERY)
            {
                continue;
            }
            let of_kind = self
                .sources
                .iter_mut()
                .filter(|((of, _), _)| of == kind)
                .map(|(_, account)| account);
            let quiet =
                of_kind.filter(|account| now.saturating_duration_since(account.seen) >= self.every);
            let suppressed: u64 = quiet
                .map(|account| std::mem::take(&mut account.suppressed))
                .sum();
            if suppressed > 0 {
                state.reported = Some(now);
                reported.push((*kind, suppressed));
            }
        }
        self.forget_idle(now);
        reported
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_flood_is_cut_and_counted_and_others_are_heard() {
        let (mut limiter, now) = (LogLimiter::new(3, 10 * SECOND), crate::time::now());
        let written = (0..1000)
            .filter(|_| limiter.permit("kind", "flood", now).is_some())
            .count();
        assert_eq!(written, 3);
        assert_eq!(limiter.permit("kind", "other", now), Some(0));
        assert_eq!(
            limiter.permit("kind", "flood", now + 10 * SECOND),
            Some(997)
        );
        assert_eq!(limiter.permit("kind", "flood", now + 11 * SECOND), None);
        assert!(limiter.overdue(now + 12 * SECOND).is_empty());
        assert_eq!(limiter.overdue(now + 25 * SECOND), [("kind", 1)]);
        assert!(limiter.overdue(now + 100 * SECOND).is_empty() && limiter.sources.is_empty());
    }

    #[test]
    fn many_sources_of_a_kind_hide_no_other_kind_and_are_told_in_one_line() {
        let (mut limiter, now) = (LogLimiter::new(10, SECOND), crate::time::now());
        let written = (0..10_000)
            .filter(|source| limiter.permit("flood", *source, now).is_some())
            .count();
        assert_eq!(
            written,
            10 * (ALL + 1) as usize,
            "the lines of all, and the reserve"
        );
        assert_eq!(
            limiter.permit("other", 10_000, now),
            Some(0),
            "another kind, of a source there was no room for"
        );
        assert_eq!(
            limiter.overdue(now + SECOND),
            [("flood", 10_000 - written as u64)]
        );
        for source in 0..10_000 {
            limiter.permit("flood", source, now + SECOND);
        }
        assert!(
            limiter.overdue(now + 3 * SECOND).is_empty(),
            "told a moment ago"
        );
        assert_eq!(limiter.overdue(now + SECOND + REPORT_EVERY).len(), 1);
    }

    #[test]
    fn a_flood_of_others_does_not_hide_a_source_that_writes_rarely() {
        let (mut limiter, start) = (LogLimiter::new(10, SECOND), crate::time::now());
        let mut heard = 0;
        for second in 0..60 {
            let now = start + SECOND * second;
            // Six sources use up what all together may write.
            for flood in 0..6 {
                assert!(
                    (0..20)
                        .filter(|_| limiter.permit("login failed", flood, now).is_some())
                        .count()
                        <= 10
                );
            }
            heard +=
                usize::from(second % 10 == 9 && limiter.permit("login failed", 99, now).is_some());
        }
        assert_eq!(heard, 6, "every line of who writes one in ten seconds");
    }

    #[test]
    fn sources_without_end_take_bounded_memory_and_share_an_account() {
        let (mut limiter, now) = (LogLimiter::new(2, 1000 * SECOND), crate::time::now());
        for source in 0..100_000u64 {
            limiter.permit("flood", source, now);
        }
        assert!(
            limiter.sources.len() <= MOST_SOURCES + 1
                && limiter.sources.capacity() <= 4 * MOST_SOURCES
        );
        let newcomers = (200_000..200_010)
            .filter(|source| limiter.permit("other", *source, now).is_some())
            .count();
        assert_eq!(
            newcomers, 2,
            "those there is no room for have the lines of one source"
        );
    }

    proptest! {
        #![proptest_config(crate::testing::cases(24, module_path!()))]

        /// Whatever comes, every line is either written or counted exactly once, lines stay within
        /// the bound, and so does the table.
        #[test]
        fn no_line_is_lost_or_written_too_often(steps in prop::collection::vec((0u16..1200, 0u64..3), 1..2500)) {
            let (mut limiter, start) = (LogLimiter::new(2, SECOND), crate::time::now());
            let (mut now, mut written, mut counted) = (start, 0u64, 0u64);
            for (source, seconds) in &steps {
                now += SECOND * u32::try_from(*seconds / 2).unwrap();
                if let Some(suppressed) = limiter.permit("kind", *source, now) {
                    written += 1;
                    counted += suppressed;
                }
                prop_assert!(limiter.sources.len() <= MOST_SOURCES + 1);
            }
            let most = (2.0 + (now - start).as_secs_f64()) * f64::from(ALL + 1);
            prop_assert!(written as f64 <= most + 1e-6);
            counted += limiter.overdue(now + 10 * SECOND).into_iter().map(|(_, count)| count).sum::<u64>();
            prop_assert_eq!(written + counted, steps.len() as u64);
        }
    }
}
