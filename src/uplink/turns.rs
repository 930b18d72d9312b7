//! The turn of the backlog: whether it goes before what is fresh, and when it may go at all. Pure:
//! the caller brings the time.
//!
//! Invariants:
//! * While both have messages, the backlog gets its share of the bytes, give or take a message and
//!   some bytes. Without a share it gets what the others leave.
//! * In any span of time it takes no more bytes than its rate allows, and a message.
//! * After an outage it begins a little later, by chance: gateways behind the same link do not
//!   begin together. That is a twentieth of the outage at most, and never long after a start.

use std::time::{Duration, Instant};

use super::lanes::BacklogPlace;
use crate::message::Lane;
use crate::route::{Bucket, CatchUp, CatchUpOrder, EVENLY};

/// Bytes by which either may be behind its share: about one message.
const MOST_OWED: f64 = 16_000.0;
/// The part of an outage over which the gateways behind a link are spread.
const PART_OF_OUTAGE: u32 = 20;
/// How far chance moves a gateway away from the place that its name gives it.
const CHANCE: f64 = 0.25;

/// The turn of the backlog of one uplink.
#[derive(Debug, Default)]
pub(super) struct BacklogTurns {
    rules: CatchUp,
    rate: Option<Bucket>,
    /// Bytes that it has had less than its share.
    owed: f64,
    /// Since when there is no link, after there was one.
    down_since: Option<Instant>,
    /// When it begins on this connection.
    begins: Option<Instant>,
}

impl BacklogTurns {
    /// Takes over how an uplink catches up; what is left of a rate that stays is kept.
    pub(super) fn follow(&mut self, rules: CatchUp) {
        if self.rules == rules {
            return;
        }
        if self.rules.max_rate != rules.max_rate {
            self.rate = rules.max_rate.map(|rate| Bucket::new(rate, EVENLY));
        }
        if rules.order != CatchUpOrder::Alternate {
            self.owed = 0.0;
        }
        self.rules = rules;
    }

    /// A link has broken.
    pub(super) fn disconnected(&mut self, at: Instant) {
        self.down_since.get_or_insert(at);
    }

    /// A link is there. `name` is the place of this gateway among others, and `chance` is drawn for
    /// each connection; both are from 0 to 1.
    pub(super) fn connected(&mut self, name: f64, chance: f64, at: Instant) {
        let outage = self.down_since.take();
        let outage = outage.map_or(Duration::ZERO, |since| at.saturating_duration_since(since));
        let longest = self.rules.spread.min(outage / PART_OF_OUTAGE);
        let part = (name + chance * CHANCE).fract();
        self.begins = Some(at + longest.mul_f64(part));
    }

    /// A message of a lane was written as a packet of `bytes`.
    pub(super) fn sent(&mut self, lane: Lane, bytes: u64, at: Instant) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match lane {
            Lane::Alarm => return,
            Lane::Live if self.rules.order == CatchUpOrder::Alternate => {
                self.owed += bytes as f64 * self.rules.share.for_each_other();
            }
            Lane::Live => return,
            Lane::Backlog => {
                self.owed -= bytes as f64;
                self.rate.iter_mut().for_each(|rate| rate.take(bytes, at));
            }
        }
        let most = MOST_OWED * self.rules.share.for_each_other().max(1.0);
        self.owed = self.owed.clamp(-MOST_OWED, most);
    }

    /// The place of the backlog among the lanes.
    pub(super) fn place_of_backlog(&mut self, at: Instant) -> BacklogPlace {
        if self.ready_at(at).is_some() {
            BacklogPlace::Waits
        } else if self.rules.order == CatchUpOrder::Alternate && self.owed > 0.0 {
            BacklogPlace::BeforeLive
        } else {
            BacklogPlace::Last
        }
    }

    /// When the backlog may go on, if it has to wait.
    pub(super) fn ready_at(&mut self, at: Instant) -> Option<Instant> {
        let begins = self.begins.filter(|begins| *begins > at);
        let rate = self.rate.iter_mut();
        let rated = rate.filter_map(|rate| (!rate.has_room(at)).then(|| rate.ready_at(at)));
        begins.into_iter().chain(rated).max()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn alternate(share: &str) -> CatchUp {
        CatchUp {
            order: CatchUpOrder::Alternate,
            share: share.parse().unwrap(),
            ..CatchUp::default()
        }
    }

    /// The part of the bytes that the backlog gets while both always have messages of these sizes.
    fn part_of_backlog(rules: CatchUp, live: u64, backlog: u64) -> f64 {
        let (mut turns, at) = (BacklogTurns::default(), crate::time::now());
        turns.follow(rules);
        let (mut of_backlog, mut all) = (0, 0);
        while all < 5_000_000 {
            let is_late = turns.place_of_backlog(at) == BacklogPlace::BeforeLive;
            let (lane, bytes) = if is_late {
                (Lane::Backlog, backlog)
            } else {
                (Lane::Live, live)
            };
            turns.sent(lane, bytes, at);
            all += bytes;
            of_backlog += if is_late { bytes } else { 0 };
        }
        of_backlog as f64 / all as f64
    }

    proptest! {
        #[test]
        fn the_backlog_gets_its_share_whatever_the_messages_are(
            percent in 1_u8..=99,
            live in 50_u64..3_000,
            backlog in 50_u64..3_000,
        ) {
            let part = part_of_backlog(alternate(&format!("{percent}%")), live, backlog);
            prop_assert!((part - f64::from(percent) / 100.0).abs() < 0.02, "{part}");
        }

        #[test]
        fn a_rate_bounds_the_backlog_in_any_span(
            sizes in prop::collection::vec(1_u64..5_000, 1..200),
            waits in prop::collection::vec(0_u64..3_000, 200),
        ) {
            let (mut turns, start) = (BacklogTurns::default(), crate::time::now());
            turns.follow(CatchUp { max_rate: "2kB/s".parse().ok(), ..CatchUp::default() });
            let (mut at, mut sent) = (start, 0);
            for (size, wait) in sizes.iter().zip(waits) {
                at += Duration::from_millis(wait);
                at = turns.ready_at(at).unwrap_or(at);
                prop_assert!(turns.place_of_backlog(at) != BacklogPlace::Waits);
                turns.sent(Lane::Live, 100_000, at);
                turns.sent(Lane::Backlog, *size, at);
                sent += size;
                let allowed = 2_000.0 * (at - start).as_secs_f64() + 200.0 + *size as f64;
                prop_assert!(sent as f64 <= allowed, "{sent} bytes instead of {allowed}");
            }
        }

        #[test]
        fn gateways_begin_within_the_spread_and_not_together(
            names in prop::collection::vec(0.0..1.0, 50),
            outage in 0_u64..100_000,
            spread in 0_u64..300,
        ) {
            let start = crate::time::now();
            let back = start + Duration::from_secs(outage);
            let longest = Duration::from_secs(spread).min(Duration::from_secs(outage) / PART_OF_OUTAGE);
            let mut begins = Vec::new();
            for name in names {
                let mut turns = BacklogTurns::default();
                turns.follow(CatchUp { spread: Duration::from_secs(spread), ..CatchUp::default() });
                turns.disconnected(start);
                turns.connected(name, 0.5, back);
                let begin = turns.ready_at(back).unwrap_or(back);
                prop_assert!(begin <= back + longest);
                begins.push(begin);
            }
            let (first, last) = (begins.iter().min().unwrap(), begins.iter().max().unwrap());
            prop_assert!(*last - *first >= longest / 2);
        }
    }

    #[test]
    fn the_first_connection_of_a_run_begins_at_once() {
        let (mut turns, at) = (BacklogTurns::default(), crate::time::now());
        turns.connected(0.9, 0.9, at);
        assert_eq!(turns.ready_at(at), None);
    }

    #[test]
    fn without_a_share_the_backlog_never_goes_first() {
        for order in [CatchUpOrder::NewestFirst, CatchUpOrder::OldestFirst] {
            let rules = CatchUp {
                order,
                ..CatchUp::default()
            };
            assert_eq!(part_of_backlog(rules, 100, 100), 0.0);
        }
    }

    #[test]
    fn a_reload_that_changes_nothing_keeps_what_is_used_up() {
        let (mut turns, at) = (BacklogTurns::default(), crate::time::now());
        let limited = |share| CatchUp {
            max_rate: "1kB/s".parse().ok(),
            ..alternate(share)
        };
        turns.follow(limited("50%"));
        turns.sent(Lane::Backlog, 10_000, at);
        turns.follow(limited("50%"));
        turns.follow(limited("70%"));
        let later = at + Duration::from_secs(9);
        assert_eq!(turns.place_of_backlog(later), BacklogPlace::Waits);
        turns.follow(alternate("70%"));
        assert_eq!(turns.ready_at(at), None);
    }
}
