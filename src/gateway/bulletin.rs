//! The messages about lines, uplinks and losses, and when each is due. Pure.
//!
//! Invariants:
//! * A topic is published when its value has changed, at most once per interval; its last value is
//!   always published. The first interval begins with the gateway.
//! * While a topic keeps changing, its interval doubles up to [`SLOWEST`] intervals: a flapping
//!   line costs about 90 messages a day at the usual interval. A topic that has said nothing new
//!   for so long after its interval begins with the first interval again.
//! * Messages about losses do not feed themselves: when no more was lost than these messages may
//!   have been, the interval doubles, up to a day, until nothing was lost for an hour after the
//!   interval.
//! * The message about a line that a reload has removed is cleared.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::message::Origin;
use crate::uplink::ToldGap;

/// The longest interval of a topic that keeps changing, in first intervals.
const SLOWEST: u32 = 16;
/// The same for losses, if that is longer: the numbers add up, so that none is missed.
const SLOWEST_LOSSES: Duration = Duration::from_secs(3600);
/// The longest interval of losses that may be those of the messages about them.
const SLOWEST_OWN_LOSSES: Duration = Duration::from_secs(86_400);

/// The state of a line or an uplink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct LinkState {
    pub(super) state: &'static str,
    /// When that changed; `None` while the clock is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
}

/// The losses of an uplink.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Losses {
    /// Messages given up by the outbox.
    pub(super) lost: u64,
    /// Dead letters that are kept.
    pub(super) dead: u64,
    /// Messages that did not come into the outbox.
    pub(super) dropped: u64,
    /// Since when `lost` and `dropped` are counted: the start of the gateway. `None` while the
    /// clock is not set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<String>,
    /// The newest gap since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<ToldGap>,
    /// The last few gaps since then, the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) gaps: Vec<ToldGap>,
}

impl Losses {
    fn total(&self) -> u64 {
        self.lost
            .saturating_add(self.dead)
            .saturating_add(self.dropped)
    }
}

/// The value of a topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub(super) enum HealthValue {
    State(LinkState),
    Losses(Losses),
}

impl HealthValue {
    /// True if the value is the same; times do not count.
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::State(one), Self::State(other)) => one.state == other.state,
            (Self::Losses(one), Self::Losses(other)) => {
                (one.lost, one.dead, one.dropped) == (other.lost, other.dead, other.dropped)
            }
            _ => false,
        }
    }

    fn lost(&self) -> Option<u64> {
        match self {
            Self::State(_) => None,
            Self::Losses(losses) => Some(losses.total()),
        }
    }
}

/// One thing that can be published.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Fact {
    /// Below the topic of the gateway.
    pub(super) topic: String,
    /// Its value; `None` clears the topic.
    pub(super) said: Option<HealthValue>,
    /// The state of an uplink is not for that uplink.
    pub(super) origin: Origin,
}

#[derive(Debug)]
struct Published {
    said: Option<HealthValue>,
    origin: Origin,
    at: Instant,
    /// Until the next one.
    pause: Duration,
    /// How many facts had been published before it.
    count: u64,
}

/// The values that were published, and when.
#[derive(Debug)]
pub(super) struct Bulletin {
    every: Duration,
    started: Instant,
    published: HashMap<String, Published>,
    count: u64,
}

impl Bulletin {
    pub(super) fn new(every: Duration, started: Instant) -> Self {
        Self {
            every,
            started,
            published: HashMap::new(),
            count: 0,
        }
    }

    /// The facts that are due, and those that clear topics.
    pub(super) fn due(&mut self, facts: Vec<Fact>, now: Instant) -> Vec<Fact> {
        let mut due = self.gone(&facts);
        for fact in facts {
            let Some(said) = &fact.said else { continue };
            let first = Published {
                said: None,
                origin: fact.origin,
                at: self.started,
                pause: self.every,
                count: self.count,
            };
            let last = self.published.entry(fact.topic.clone()).or_insert(first);
            let is_known = last.said.as_ref().is_some_and(|last| last.is_like(said));
            if is_known || now < last.at + last.pause {
                continue;
            }
            let pause = last.pause(said, now, self.every, self.count);
            *last = Published {
                said: Some(said.clone()),
                origin: fact.origin,
                at: now,
                pause,
                count: self.count,
            };
            self.count += 1;
            due.push(fact);
        }
        due
    }

    /// Losses since the last that were published, before the end: their numbers are forgotten then.
    /// Dead letters are kept, and the next start tells of them. In its first interval a gateway
    /// publishes nothing.
    pub(super) fn last_losses(&self, facts: Vec<Fact>) -> Vec<Fact> {
        let forgotten = |said: &Option<HealthValue>| match said {
            Some(HealthValue::Losses(losses)) => losses.lost.saturating_add(losses.dropped),
            Some(HealthValue::State(_)) | None => 0,
        };
        let is_news = |fact: &Fact| {
            let last = self
                .published
                .get(&fact.topic)
                .filter(|last| last.said.is_some());
            last.is_some_and(|last| forgotten(&fact.said) > forgotten(&last.said))
        };
        facts.into_iter().filter(is_news).collect()
    }

    /// Clears the topics that have no fact any more.
    fn gone(&mut self, facts: &[Fact]) -> Vec<Fact> {
        let is_gone =
            |topic: &String, _: &mut Published| !facts.iter().any(|fact| fact.topic == *topic);
        let gone = self
            .published
            .extract_if(is_gone)
            .filter(|(_, last)| last.said.is_some());
        gone.map(|(topic, last)| Fact {
            topic,
            said: None,
            origin: last.origin,
        })
        .collect()
    }
}

impl Published {
    /// The interval after a new value. `every` is the first interval, `count` the number of facts
    /// published until now.
    fn pause(&self, said: &HealthValue, now: Instant, every: Duration, count: u64) -> Duration {
        let Some(before) = &self.said else {
            return every;
        };
        let slowest = every * SLOWEST;
        let doubled = self.pause * 2;
        // It could have said something new, and had nothing to say.
        let is_calm = |slowest: Duration| now >= self.at + self.pause + slowest;
        let Some((lost, known)) = said.lost().zip(before.lost()) else {
            return if is_calm(slowest) {
                every
            } else {
                doubled.min(slowest)
            };
        };
        let slowest = slowest.max(SLOWEST_LOSSES);
        // What these messages cause would have come soon after the last one.
        if is_calm(slowest) {
            return every;
        }
        // Each message is lost once at most at an uplink.
        let may_be_own = lost > known && lost - known <= count - self.count;
        doubled.min(if may_be_own {
            SLOWEST_OWN_LOSSES.max(every)
        } else {
            slowest
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::now;

    const EVERY: Duration = Duration::from_secs(60);

    fn state(state: &'static str) -> Vec<Fact> {
        let said = HealthValue::State(LinkState { state, since: None });
        vec![Fact {
            topic: "line/bus".to_owned(),
            said: Some(said),
            origin: Origin::Field,
        }]
    }

    fn losses(lost: u64) -> Vec<Fact> {
        let said = HealthValue::Losses(Losses {
            lost,
            dead: 0,
            dropped: 0,
            since: None,
            gap: None,
            gaps: Vec::new(),
        });
        vec![Fact {
            topic: "uplink/a/losses".to_owned(),
            said: Some(said),
            origin: Origin::Field,
        }]
    }

    #[test]
    fn a_change_is_published_at_once_and_nothing_else() {
        let start = now();
        let mut bulletin = Bulletin::new(EVERY, start);
        assert!(
            bulletin.due(state("down"), start + EVERY / 2).is_empty(),
            "lines need time to come up"
        );
        assert_eq!(bulletin.due(state("up"), start + EVERY).len(), 1);
        for hour in 1..100 {
            assert!(
                bulletin
                    .due(state("up"), start + EVERY * 60 * hour)
                    .is_empty(),
                "nothing has changed"
            );
        }
        assert_eq!(bulletin.due(state("down"), start + EVERY * 6000).len(), 1);
        assert!(
            bulletin
                .due(state("up"), start + EVERY * 6001 - Duration::from_secs(1))
                .is_empty()
        );
        assert_eq!(bulletin.due(state("up"), start + EVERY * 6001).len(), 1);
    }

    #[test]
    fn whatever_flaps_costs_a_bounded_number_of_messages_and_its_last_state_is_published() {
        for seconds in [1, 7, 60, 180, 600] {
            let start = now();
            let mut bulletin = Bulletin::new(EVERY, start);
            let mut published = 0;
            for second in 0..86_400 {
                let text = if second / seconds % 2 == 0 {
                    "down"
                } else {
                    "up"
                };
                published += bulletin
                    .due(state(text), start + Duration::from_secs(second))
                    .len();
            }
            assert!(
                (20..=100).contains(&published),
                "{published} messages a day, a change every {seconds} s"
            );
            let end = start + Duration::from_secs(86_400);
            assert_eq!(bulletin.due(state("gone"), end + EVERY * SLOWEST).len(), 1);
            let calm = end + EVERY * SLOWEST * 4;
            assert_eq!(bulletin.due(state("up"), calm).len(), 1);
            assert_eq!(
                bulletin.due(state("down"), calm + EVERY).len(),
                1,
                "after a calm time a change is published at once again"
            );
        }
    }

    #[test]
    fn losses_that_may_be_those_of_these_messages_are_published_less_and_less() {
        let start = now();
        let mut bulletin = Bulletin::new(EVERY, start);
        let (mut lost, mut count) = (5, 0);
        for minute in 1..=1440 * 3 {
            let published = bulletin.due(losses(lost), start + EVERY * minute).len();
            // Each message about a loss is lost itself.
            lost += published as u64;
            count += published;
        }
        assert!((5..=14).contains(&count), "{count} messages in three days");
        let later = start + EVERY * 1440 * 6;
        assert_eq!(bulletin.due(losses(lost + 1000), later).len(), 1);
        assert_eq!(
            bulletin.due(losses(lost + 2000), later + EVERY).len(),
            1,
            "real losses are published at once again"
        );
    }

    #[test]
    fn single_losses_that_are_far_apart_are_each_published_at_once() {
        let start = now();
        let mut bulletin = Bulletin::new(EVERY, start);
        assert_eq!(bulletin.due(losses(0), start + EVERY).len(), 1);
        for day in 1..=30_u64 {
            let at = start + EVERY * 1440 * u32::try_from(day).unwrap();
            assert_eq!(bulletin.due(losses(day * 2 - 1), at).len(), 1);
            assert_eq!(
                bulletin.due(losses(day * 2), at + EVERY * 2).len(),
                1,
                "the second one of day {day}"
            );
        }
    }

    #[test]
    fn losses_that_go_on_are_published_once_an_hour_and_the_last_before_the_end() {
        let start = now();
        let mut bulletin = Bulletin::new(EVERY, start);
        let published: usize = (1..=1440)
            .map(|minute| {
                bulletin
                    .due(losses(u64::from(minute) * 100), start + EVERY * minute)
                    .len()
            })
            .sum();
        assert!((24..=32).contains(&published), "{published} messages a day");
        assert_eq!(bulletin.last_losses(losses(144_001)).len(), 1);
        let told = bulletin
            .due(losses(150_000), start + EVERY * 1440 * 3)
            .len();
        assert_eq!(
            (told, bulletin.last_losses(losses(150_000)).len()),
            (1, 0),
            "they are published already"
        );
        assert!(
            Bulletin::new(EVERY, start)
                .last_losses(losses(1))
                .is_empty(),
            "it has not begun"
        );
        assert!(
            bulletin.last_losses(state("down")).is_empty(),
            "the next start says how lines are"
        );
    }

    #[test]
    fn what_is_gone_is_taken_back() {
        let start = now();
        let mut bulletin = Bulletin::new(EVERY, start);
        assert!(bulletin.due(Vec::new(), start).is_empty());
        assert_eq!(bulletin.due(state("up"), start + EVERY).len(), 1);
        let taken_back = bulletin.due(Vec::new(), start + EVERY);
        assert_eq!(
            taken_back,
            [Fact {
                topic: "line/bus".to_owned(),
                said: None,
                origin: Origin::Field
            }]
        );
        assert!(bulletin.due(Vec::new(), start + EVERY * 2).is_empty());
    }
}
