//! The rates of an uplink and of its rules, for which messages of QoS 1 and 2 wait. Pure: the
//! caller brings the time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use super::throttle::Throttle;
use crate::outbox::{RatedRule, Waiting};
use crate::route::{Bucket, EVENLY, Routes};

#[derive(Debug, Default)]
pub(super) struct Rates {
    routes: Arc<Routes>,
    /// Of the uplink.
    whole: Option<Bucket>,
    rules: HashMap<u32, Bucket>,
    /// How fast the remote takes messages, as far as it has shown.
    pub(super) throttle: Throttle,
}

impl Rates {
    /// The limits for all messages together.
    fn of_all(&mut self) -> impl Iterator<Item = &mut Bucket> {
        self.whole.iter_mut().chain(self.throttle.bucket())
    }

    /// Takes over the rates of these rules; what is left of those that stay is kept. True if the
    /// `send` rules were others before.
    pub(super) fn follow(&mut self, routes: &Arc<Routes>) -> bool {
        if Arc::ptr_eq(&self.routes, routes) {
            return false;
        }
        let is_other = self.routes.send != routes.send;
        let new = |rate| Bucket::new(rate, EVENLY);
        self.whole = routes.rate.map(|rate| {
            self.whole
                .take()
                .filter(|bucket| bucket.rate() == rate)
                .unwrap_or_else(|| new(rate))
        });
        let mut before = std::mem::take(&mut self.rules);
        for (id, rate) in routes.rates() {
            let kept = before.remove(&id).filter(|bucket| bucket.rate() == rate);
            self.rules.insert(id, kept.unwrap_or_else(|| new(rate)));
        }
        self.routes = Arc::clone(routes);
        is_other
    }

    /// The rule whose rate a message has to wait for.
    pub(super) fn rule_of(&self, waiting: &Waiting) -> Option<u32> {
        match waiting.message.rated? {
            RatedRule::Known(rule) if self.rules.contains_key(&rule) => Some(rule),
            // The rules are others now, or an early version did not note it.
            RatedRule::Known(_) | RatedRule::Unknown => {
                self.routes.rated_id(&waiting.message.topic, waiting.lane)
            }
        }
    }

    /// True if no message may be sent now.
    pub(super) fn is_used_up(&mut self, at: Instant) -> bool {
        self.of_all().any(|bucket| !bucket.has_room(at))
    }

    /// True if another message may be taken to be sent, behind those that were taken and not sent
    /// yet: their number and bytes. What is in the outbox can be overtaken by an alarm, what was
    /// taken cannot.
    pub(super) fn may_take_behind(
        &mut self,
        unsent: impl Fn() -> (usize, usize),
        at: Instant,
    ) -> bool {
        self.of_all().all(|bucket| {
            let (messages, bytes) = unsent();
            bucket.has_room_behind(messages, bytes, at)
        })
    }

    /// The rules whose messages may not be sent now.
    pub(super) fn closed(&mut self, at: Instant) -> HashSet<u32> {
        self.rules
            .iter_mut()
            .filter_map(|(rule, bucket)| (!bucket.has_room(at)).then_some(*rule))
            .collect()
    }

    /// A packet of `bytes` with a message was written.
    pub(super) fn sent(&mut self, bytes: u64, at: Instant) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        self.of_all().for_each(|bucket| bucket.take(bytes, at));
    }

    /// A message of a rule is taken to be sent.
    pub(super) fn taken(&mut self, rule: u32, bytes: usize, at: Instant) {
        if let Some(bucket) = self.rules.get_mut(&rule) {
            bucket.take(bytes, at);
        }
    }

    /// When to look again for what may be sent; `holds_back` says that messages wait for the rate
    /// of their rule.
    pub(super) fn ready_at(&mut self, at: Instant, holds_back: bool) -> Option<Instant> {
        let rules = self.rules.values_mut().filter(|_| holds_back);
        rules
            .chain(&mut self.whole)
            .chain(self.throttle.bucket())
            .filter_map(|bucket| (!bucket.has_room(at)).then(|| bucket.ready_at(at)))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Lane, SessionLost};
    use crate::mqtt::{Properties, QoS, TopicFilter, TopicName};
    use crate::outbox::Outgoing;
    use crate::reading::Timestamp;
    use crate::route::{Condition, Rule};

    fn routes(rate_of_rule: &str, rate: &str) -> Arc<Routes> {
        let rule = Rule {
            rate: rate_of_rule.parse().ok(),
            ..Rule::keep(TopicFilter::new("a/#").unwrap())
        };
        let mut routes = Routes::new(vec![rule], Vec::new(), false, Arc::default());
        routes.rate = rate.parse().ok();
        Arc::new(routes)
    }

    #[test]
    fn a_message_waits_for_the_rate_of_the_rule_that_took_it_and_not_of_one_alike() {
        let rule = |condition: &str, rate: &str| Rule {
            condition: Condition::new(condition).ok(),
            rate: rate.parse().ok(),
            ..Rule::keep(TopicFilter::new("a/#").unwrap())
        };
        let send = vec![rule("v > 80", "1/h"), rule("v <= 80", "100/s")];
        let routes = Routes::new(send, Vec::new(), false, Arc::default());
        let ids: Vec<u32> = routes.send.iter().map(Rule::id).collect();
        let mut rates = Rates::default();
        rates.follow(&Arc::new(routes));
        let rule_of = |rated| {
            let message = Outgoing {
                topic: TopicName::new("a/x").unwrap(),
                qos: QoS::AtLeastOnce,
                retain: false,
                if_session_lost: SessionLost::Resend,
                enqueued: Timestamp::at(0),
                properties: Properties::default(),
                payload: bytes::Bytes::new().into(),
                rated,
                source: None,
            };
            let lane = Lane::Live;
            rates.rule_of(&Waiting {
                lane,
                seq: 1,
                message,
            })
        };
        assert_eq!(rule_of(None), None);
        for id in &ids {
            assert_eq!(rule_of(Some(RatedRule::Known(*id))), Some(*id));
        }
        // Of a rule that is gone, and of an early version: the first that could have taken it.
        assert_eq!(rule_of(Some(RatedRule::Known(7))), Some(ids[0]));
        assert_eq!(rule_of(Some(RatedRule::Unknown)), Some(ids[0]));
    }

    #[test]
    fn a_reload_that_changes_no_rule_reads_nothing_again_and_keeps_what_is_left() {
        let (mut rates, start) = (Rates::default(), crate::time::now());
        assert!(rates.follow(&routes("1/min", "10/s")));
        let rule = rates.routes.send[0].id();
        rates.taken(rule, 10, start);
        assert!(!rates.follow(&routes("1/min", "10/s")), "the same rules");
        assert_eq!(rates.closed(start), HashSet::from([rule]));
        assert!(
            !rates.follow(&routes("1/min", "1/h")),
            "another rate of the uplink"
        );
        rates.sent(10, start);
        assert!(rates.is_used_up(start + std::time::Duration::from_secs(60)));
        assert!(
            rates.follow(&routes("2/min", "1/h")),
            "another rate of the rule"
        );
        assert!(rates.closed(start).is_empty());
    }
}
