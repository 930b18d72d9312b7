//! Which ups and downs of a link are logged. Pure.
//!
//! Invariants:
//! * "up" is never told twice without a "down" between them.
//! * A reason is logged once until the link has proven itself, however the numbers in it change; a
//!   link that stays down is logged in any case.

use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Reasons that are remembered as told.
const MOST_TOLD: usize = 32;
/// A cut for a reason that was logged is logged again if the link stays down for this time.
const STAYS_DOWN: Duration = Duration::from_secs(10);

/// The log of one link.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Reasons since the link was last proven, without their numbers.
    told: HashSet<String>,
    /// The last that was told is that it is up.
    is_up: bool,
    /// A cut that was not told.
    untold: Option<(Instant, String)>,
    /// Cuts that were not told since the last line.
    cuts: u64,
}

impl News {
    /// The link is up. How many cuts were not told, if this is to be told.
    pub(super) fn up(&mut self) -> Option<u64> {
        self.untold = None;
        let is_news = !std::mem::replace(&mut self.is_up, true);
        is_news.then(|| std::mem::take(&mut self.cuts))
    }

    /// The link is down, or could not be made. How many cuts were not told, if this is to be told.
    pub(super) fn down(&mut self, reason: &str, now: Instant) -> Option<u64> {
        if self.told.len() < MOST_TOLD && self.told.insert(kind_of(reason)) {
            return Some(self.is_down());
        }
        if self.is_up && self.untold.is_none() {
            self.cuts += 1;
            self.untold = Some((now, reason.to_owned()));
        }
        None
    }

    /// A link that stays down after a cut that was not told: the reason, and how many others were
    /// not told.
    pub(super) fn stays_down(&mut self, now: Instant) -> Option<(String, u64)> {
        let (_, reason) = self
            .untold
            .take_if(|(since, _)| now >= *since + STAYS_DOWN)?;
        let cuts = self.is_down();
        Some((reason, cuts.saturating_sub(1)))
    }

    fn is_down(&mut self) -> u64 {
        self.is_up = false;
        self.untold = None;
        std::mem::take(&mut self.cuts)
    }

    /// The link has proven itself: the next break is logged again.
    pub(super) fn proven(&mut self) {
        self.told.clear();
    }
}

/// A reason without the numbers that differ each time: seconds, bytes, messages. Numbers of
/// addresses and codes stay.
fn kind_of(reason: &str) -> String {
    let plain = |word: &str| {
        let number = word.trim_matches(|mark: char| !mark.is_alphanumeric());
        let digits = number.trim_end_matches(|mark: char| mark.is_ascii_alphabetic());
        let is_number = !digits.is_empty()
            && digits
                .chars()
                .all(|digit| digit.is_ascii_digit() || digit == '.' || digit == ',');
        if is_number && digits.matches('.').count() < 2 {
            word.replace(number, "#")
        } else {
            word.to_owned()
        }
    };
    reason.split(' ').map(plain).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    #[test]
    fn a_flapping_link_is_told_in_pairs_and_its_last_cut_too() {
        let (mut news, at) = (News::default(), now());
        assert_eq!(news.up(), Some(0));
        assert_eq!(news.down("cut", at), Some(0));
        assert_eq!(news.up(), Some(0));
        for _ in 0..6 {
            assert_eq!(news.down("cut", at), None);
            assert_eq!(news.stays_down(at + STAYS_DOWN / 2), None);
            assert_eq!(news.up(), None, "\"up\" was the last that was told");
        }
        assert_eq!(news.down("cut", at), None);
        assert_eq!(news.down("refused", at), Some(7), "another reason");
        assert_eq!(news.down("refused", at), None);
        assert_eq!(news.up(), Some(0));
        assert_eq!(news.down("cut", at), None);
        assert_eq!(
            news.stays_down(at + STAYS_DOWN),
            Some(("cut".to_owned(), 0))
        );
        assert_eq!(news.stays_down(at + STAYS_DOWN * 2), None);
        assert_eq!(news.up(), Some(0));
        news.proven();
        assert_eq!(news.down("cut", at), Some(0));
    }

    #[test]
    fn numbers_that_change_make_no_new_reason_and_those_of_addresses_do() {
        let same = [
            (
                "the remote was silent for 31 s",
                "the remote was silent for 360 s",
            ),
            ("expired (1795977460 s ago)", "expired (1795977461 s ago)"),
            (
                "does not answer message 7, only others",
                "does not answer message 8, only others",
            ),
            ("did not answer within 2.5s", "did not answer within 8s"),
        ];
        for (one, other) in same {
            assert_eq!(kind_of(one), kind_of(other));
        }
        let different = [
            (
                "127.0.0.1:1883 cannot be reached",
                "127.0.0.1:1884 cannot be reached",
            ),
            ("10.0.0.1 is silent", "10.0.0.2 is silent"),
            ("not authorized (0x87)", "banned (0x8a)"),
            ("well-7 is silent", "well-8 is silent"),
        ];
        for (one, other) in different {
            assert_ne!(kind_of(one), kind_of(other));
        }
    }
}
