//! The lines that a peer can cause, bounded. Pure.
//!
//! Invariants:
//! * A source writes at most `burst` lines at once, and then one in `every`; all sources together at most [`ALL`] times as many.
//! * What is remembered is bounded: [`MOST_SOURCES`] sources; those beyond share the account of all.
//! * Every line that is left out is counted, and the count is told with a later line of its source, or by [`LogLimiter::overdue`].

use std::collections::HashMap;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// Sources that are remembered; each takes a few dozen bytes.
const MOST_SOURCES: usize = 1024;
/// Times the lines of one source, for all of them together.
const ALL: u32 = 10;

#[derive(Debug, Clone, Copy)]
struct Account {
    /// Lines that may be written at once, up to the burst.
    lines: f64,
    seen: Instant,
    suppressed: u64,
}

impl Account {
    fn new(burst: u32, now: Instant) -> Self {
        Self { lines: f64::from(burst), seen: now, suppressed: 0 }
    }

    fn refill(&mut self, burst: u32, every: Duration, now: Instant) {
        let gained = now.saturating_duration_since(self.seen).as_secs_f64() / every.as_secs_f64().max(1e-3);
        self.lines = (self.lines + gained).min(f64::from(burst));
        self.seen = now;
    }

    fn is_idle(&self, burst: u32) -> bool {
        self.suppressed == 0 && self.lines >= f64::from(burst)
    }
}

/// Decides which lines are written. `K` names a kind of line and its source.
#[derive(Debug)]
pub struct LogLimiter<K> {
    burst: u32,
    every: Duration,
    sources: HashMap<K, Account>,
    all: Option<Account>,
}

impl<K: Clone + Eq + Hash> LogLimiter<K> {
    /// `burst` lines at once from one source, then one in `every`.
    pub fn new(burst: u32, every: Duration) -> Self {
        Self { burst: burst.max(1), every, sources: HashMap::new(), all: None }
    }

    /// Whether a line of `source` may be written, and how many like it were left out since the last one; `None` counts it as left out.
    pub fn permit(&mut self, source: &K, now: Instant) -> Option<u64> {
        let (burst, every, of_all) = (self.burst, self.every, self.burst.saturating_mul(ALL));
        let all = self.all.get_or_insert(Account::new(of_all, now));
        all.refill(of_all, every / ALL, now);
        if self.sources.len() >= MOST_SOURCES && !self.sources.contains_key(source) {
            self.sources.retain(|_, account| {
                account.refill(burst, every, now);
                !account.is_idle(burst)
            });
        }
        if self.sources.len() >= MOST_SOURCES && !self.sources.contains_key(source) {
            // Its lines would need an account of their own: they are counted with those of all.
            all.suppressed += 1;
            return None;
        }
        let account = self.sources.entry(source.clone()).or_insert(Account::new(burst, now));
        account.refill(burst, every, now);
        if account.lines < 1.0 || all.lines < 1.0 {
            account.suppressed += 1;
            return None;
        }
        account.lines -= 1.0;
        all.lines -= 1.0;
        debug_assert!(account.lines >= 0.0 && all.lines >= 0.0, "no account is overdrawn");
        let suppressed = std::mem::take(&mut account.suppressed);
        debug_assert!(self.sources.len() <= MOST_SOURCES);
        Some(suppressed)
    }

    /// What was left out of sources that are quiet again, to be written as one line each; `None` stands for sources beyond those that
    /// are remembered. To be called now and then.
    pub fn overdue(&mut self, now: Instant) -> Vec<(Option<K>, u64)> {
        let (burst, every) = (self.burst, self.every);
        let mut told = Vec::new();
        for (source, account) in &mut self.sources {
            let is_quiet = now.saturating_duration_since(account.seen) >= every;
            if account.suppressed > 0 && is_quiet {
                told.push((Some(source.clone()), std::mem::take(&mut account.suppressed)));
            }
        }
        self.sources.retain(|_, account| account.suppressed > 0 || now.saturating_duration_since(account.seen) < every * burst);
        if let Some(all) = self.all.as_mut().filter(|all| all.suppressed > 0) {
            told.push((None, std::mem::take(&mut all.suppressed)));
        }
        told
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
        let written = (0..1000).filter(|_| limiter.permit(&"flood", now).is_some()).count();
        assert_eq!(written, 3);
        assert_eq!(limiter.permit(&"other", now), Some(0));
        assert_eq!(limiter.permit(&"flood", now + 10 * SECOND), Some(997));
        assert_eq!(limiter.permit(&"flood", now + 11 * SECOND), None);
        assert!(limiter.overdue(now + 12 * SECOND).is_empty());
        assert_eq!(limiter.overdue(now + 25 * SECOND), [(Some("flood"), 1)]);
        assert!(limiter.overdue(now + 100 * SECOND).is_empty() && limiter.sources.is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Whatever comes, every line is either written or counted exactly once, lines stay within the bound, and so does the table.
        #[test]
        fn no_line_is_lost_or_written_too_often(steps in prop::collection::vec((0u16..1200, 0u64..3), 1..2500)) {
            let (mut limiter, start) = (LogLimiter::new(2, SECOND), crate::time::now());
            let (mut now, mut written, mut counted) = (start, 0u64, 0u64);
            for (source, seconds) in &steps {
                now += SECOND * u32::try_from(*seconds / 2).unwrap();
                if let Some(suppressed) = limiter.permit(source, now) {
                    written += 1;
                    counted += suppressed;
                }
                prop_assert!(limiter.sources.len() <= MOST_SOURCES);
            }
            let most = 2.0 * f64::from(ALL) + (now - start).as_secs_f64() * f64::from(ALL);
            prop_assert!(written as f64 <= most + 1e-6);
            counted += limiter.overdue(now + 10 * SECOND).into_iter().map(|(_, count)| count).sum::<u64>();
            prop_assert_eq!(written + counted, steps.len() as u64);
        }
    }
}
