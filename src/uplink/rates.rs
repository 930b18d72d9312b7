//! What the rates of an uplink and of its rules leave: messages of QoS 1 and 2 wait for them. Pure: the caller brings the time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::outbox::{Bucket, EVENLY, Routes, Rule, Waiting};

#[derive(Debug, Default)]
pub(super) struct Rates {
    routes: Arc<Routes>,
    /// Of the uplink.
    whole: Option<Bucket>,
    rules: HashMap<u32, Bucket>,
}

impl Rates {
    /// Takes over the rates of these rules; what is left of those that stay is kept. True if the rules were others before.
    pub(super) fn follow(&mut self, routes: &Arc<Routes>) -> bool {
        if Arc::ptr_eq(&self.routes, routes) {
            return false;
        }
        let new = |rate| Bucket::new(rate, EVENLY);
        self.whole = routes.rate.map(|rate| self.whole.take().filter(|bucket| bucket.rate() == rate).unwrap_or_else(|| new(rate)));
        let mut before = std::mem::take(&mut self.rules);
        for (id, rate) in routes.send.iter().filter_map(|rule| Some((rule.id(), rule.rate?))) {
            let kept = before.remove(&id).filter(|bucket| bucket.rate() == rate);
            self.rules.insert(id, kept.unwrap_or_else(|| new(rate)));
        }
        self.routes = Arc::clone(routes);
        true
    }

    /// The rule whose rate a message has to wait for.
    pub(super) fn rule_of(&self, waiting: &Waiting) -> Option<u32> {
        let message = Some(&waiting.message).filter(|message| message.is_rated)?;
        self.routes.rated(&message.topic, waiting.lane).map(Rule::id)
    }

    /// True if no message may be sent now.
    pub(super) fn is_used_up(&mut self, at: Instant) -> bool {
        self.whole.as_mut().is_some_and(|bucket| !bucket.has_room(at))
    }

    /// True if another message may be taken to be sent, behind those that were taken and not sent yet: their number and bytes. What is in
    /// the outbox can be overtaken by an alarm, what was taken cannot.
    pub(super) fn may_take_behind(&mut self, unsent: impl FnOnce() -> (usize, usize), at: Instant) -> bool {
        self.whole.as_mut().is_none_or(|bucket| bucket.has_room_behind(unsent(), at))
    }

    /// The rules whose messages may not be sent now.
    pub(super) fn closed(&mut self, at: Instant) -> HashSet<u32> {
        self.rules.iter_mut().filter_map(|(rule, bucket)| (!bucket.has_room(at)).then_some(*rule)).collect()
    }

    /// A packet with a message of so many bytes was written.
    pub(super) fn sent(&mut self, bytes: u64, at: Instant) {
        if let Some(bucket) = &mut self.whole {
            bucket.take(usize::try_from(bytes).unwrap_or(usize::MAX), at);
        }
    }

    /// A message of a rule is taken to be sent.
    pub(super) fn taken(&mut self, rule: u32, bytes: usize, at: Instant) {
        if let Some(bucket) = self.rules.get_mut(&rule) {
            bucket.take(bytes, at);
        }
    }

    /// When to look again for what may be sent; `holds_back` says that messages wait for the rate of their rule.
    pub(super) fn ready_at(&mut self, at: Instant, holds_back: bool) -> Option<Instant> {
        let rules = self.rules.values_mut().filter(|_| holds_back);
        rules.chain(&mut self.whole).filter_map(|bucket| (!bucket.has_room(at)).then(|| bucket.ready_at(at))).min()
    }
}
