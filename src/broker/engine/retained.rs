//! The retained message of each topic.
//!
//! Invariants: `weight` is the sum of the weights in `by_topic`; `expiries` names those of
//! `by_topic` that expire, and when; `states` of them are states of bridge connections that clients
//! have published, of which there are few. A publish costs the logarithm of what is retained, a
//! subscription the steps of [`Seek`].

use std::collections::btree_map::Range;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::delivery::SharedMessage;
use super::seek::{Fit, Seek};
use crate::message::{Message, Origin};
use crate::mqtt::{TopicFilter, TopicName};

/// States of bridge connections that clients may have retained: they cannot take the room of other
/// messages.
const MOST_STATES: usize = 1000;
/// Of all messages that may be retained, this part may be such states.
const STATES_PART: usize = 10;

/// Some of the retained messages that a filter matches.
#[derive(Debug, Default)]
pub(super) struct Matching {
    pub(super) found: Vec<Arc<SharedMessage>>,
    /// Topics that were looked at.
    pub(super) seen: usize,
    /// The last of these, if there may be more.
    pub(super) last: Option<TopicName>,
}

/// The bounds of one piece of a search.
#[derive(Debug, Clone, Copy)]
pub(super) struct SearchBounds {
    /// Topics that may be looked at.
    pub(super) seen: usize,
    /// Messages that may be found.
    pub(super) found: usize,
}

/// At most one message per topic, and a bounded number of topics.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: BTreeMap<TopicName, Arc<SharedMessage>>,
    expiries: BTreeSet<(Instant, TopicName)>,
    states: usize,
    max: usize,
    weight: usize,
    max_bytes: usize,
}

impl Retained {
    pub(super) fn new(max: usize, max_bytes: usize) -> Self {
        Self {
            by_topic: BTreeMap::new(),
            expiries: BTreeSet::new(),
            states: 0,
            max,
            weight: 0,
            max_bytes,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// Bytes they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.weight
    }

    /// Replaces the retained message of its topic; an empty payload removes it [MQTT-3.3.1-6].
    /// False if there is no room: then the old one, which is not the last one any more, is gone
    /// too.
    pub(super) fn keep(
        &mut self,
        message: &Message,
        now: Instant,
        make: impl FnOnce(&Message) -> Arc<SharedMessage>,
    ) -> bool {
        self.remove(&message.topic);
        if message.payload.is_empty() {
            return true;
        }
        if !self.has_room(message) {
            self.remove_expired(now);
            if !self.has_room(message) {
                return false;
            }
        }
        let kept = make(message);
        self.weight += kept.weight();
        self.states += usize::from(is_state(&kept));
        self.expiries
            .extend(kept.expires_at.map(|at| (at, kept.topic.clone())));
        self.by_topic.insert(kept.topic.clone(), kept);
        true
    }

    fn remove(&mut self, topic: &TopicName) {
        let Some((topic, old)) = self.by_topic.remove_entry(topic) else {
            return;
        };
        self.weight -= old.weight();
        self.states -= usize::from(is_state(&old));
        if let Some(at) = old.expires_at {
            self.expiries.remove(&(at, topic));
        }
    }

    fn remove_expired(&mut self, now: Instant) {
        while let Some((_, topic)) = self.expiries.first().filter(|(at, _)| *at <= now) {
            let topic = topic.clone();
            self.remove(&topic);
        }
    }

    fn has_room(&self, message: &Message) -> bool {
        let has_place = !is_state(message) || self.has_room_for_state(&message.topic);
        has_place
            && self.by_topic.len() < self.max
            && self.weight + message.weight() <= self.max_bytes
    }

    /// False if a topic is for the state of a bridge connection that has no place among those of
    /// clients.
    pub(super) fn has_room_for_state(&self, topic: &TopicName) -> bool {
        let has_place = || self.by_topic.get(topic).is_some_and(|kept| is_state(kept));
        bridge_of(topic).is_none()
            || self.states < MOST_STATES.min(self.max / STATES_PART)
            || has_place()
    }

    /// True if a topic has just this payload.
    pub(super) fn is(&self, topic: &TopicName, payload: &[u8]) -> bool {
        self.by_topic
            .get(topic)
            .is_some_and(|kept| kept.payload == payload)
    }

    /// The first one whose topic comes after `topic`, in the order of their bytes.
    pub(super) fn after(&self, topic: Option<&TopicName>) -> Option<&Arc<SharedMessage>> {
        let begin = topic.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_topic
            .range::<TopicName, _>((begin, Bound::Unbounded))
            .next()
            .map(|(_, kept)| kept)
    }

    /// The last topic before `topic`, in the order of their bytes.
    pub(super) fn before(&self, topic: &TopicName) -> Option<&TopicName> {
        self.by_topic
            .range::<TopicName, _>((Bound::Unbounded, Bound::Excluded(topic)))
            .next_back()
            .map(|(topic, _)| topic)
    }

    /// The next retained messages a filter matches, in the order of their topics: those after
    /// `after`, if that is said, and at most as many as `bounds` say. The last topic that was
    /// looked at is returned if there may be more.
    pub(super) fn matching(
        &self,
        filter: &TopicFilter,
        after: Option<&TopicName>,
        bounds: SearchBounds,
        now: Instant,
    ) -> Matching {
        let text = filter.as_str();
        let literal = literal_part(text);
        if literal.len() == text.len() {
            return self.exactly(text, now);
        }
        // `a/#` also matches `a`: the search begins without the last slash.
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        let begin = after.map_or(Bound::Included(prefix), |after| {
            Bound::Excluded(after.as_str())
        });
        let mut matching = Matching::default();
        let mut seek = Seek::new(filter);
        let mut topics = self.range(begin);
        let mut next = topics.next();
        while let Some((topic, message)) = next {
            if matching.seen == bounds.seen || matching.found.len() == bounds.found {
                return matching;
            }
            matching.seen += 1;
            matching.last = Some(topic.clone());
            let fit = seek.fit(topic.as_str());
            if fit == Fit::End {
                break;
            }
            if fit == Fit::Match && !message.is_expired(now) {
                matching.found.push(message.clone());
            }
            next = topics.next();
            if fit == Fit::Skip && next.is_some_and(|(topic, _)| topic.as_str() < seek.target()) {
                topics = self.range(Bound::Included(seek.target()));
                next = topics.next();
            }
        }
        matching.last = None;
        matching
    }

    /// The topics from `begin` on, in the order of their bytes.
    fn range(&self, begin: Bound<&str>) -> Range<'_, TopicName, Arc<SharedMessage>> {
        self.by_topic.range::<str, _>((begin, Bound::Unbounded))
    }

    /// The retained message of a filter without wildcards.
    fn exactly(&self, topic: &str, now: Instant) -> Matching {
        let message = self.by_topic.get(topic);
        let found = message.filter(|message| !message.is_expired(now));
        Matching {
            found: found.cloned().into_iter().collect(),
            seen: 1,
            last: None,
        }
    }

    /// Whether what is kept beside the messages agrees with them.
    pub(super) fn check_invariants(&self) {
        assert_eq!(
            self.weight,
            self.by_topic
                .values()
                .map(|message| message.weight())
                .sum::<usize>()
        );
        let expiries = self
            .by_topic
            .iter()
            .filter_map(|(topic, message)| Some((message.expires_at?, topic.clone())));
        assert_eq!(self.expiries, expiries.collect());
        assert!(self.by_topic.len() <= self.max);
        assert_eq!(
            self.states,
            self.by_topic.values().filter(|kept| is_state(kept)).count(),
            "states of bridge connections"
        );
        assert!(
            self.states <= MOST_STATES.min(self.max / STATES_PART),
            "{} states",
            self.states
        );
    }
}

/// The part of a filter before its first wildcard.
fn literal_part(filter: &str) -> &str {
    let wildcard = filter.find(['+', '#']);
    wildcard.and_then(|at| filter.get(..at)).unwrap_or(filter)
}

/// True for the state of a bridge connection that a client has published; the gateway has states of
/// its own.
fn is_state(message: &Message) -> bool {
    message.origin == Origin::Client && bridge_of(&message.topic).is_some()
}

/// The bridge whose state a topic is about: its client identifier.
pub(super) fn bridge_of(topic: &TopicName) -> Option<&str> {
    topic
        .as_str()
        .strip_prefix("$SYS/broker/connection/")?
        .strip_suffix("/state")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::message::Origin;
    use proptest::prelude::*;

    fn message(topic: &str, expires_at: Option<Instant>, payload: &'static [u8]) -> Message {
        Message {
            expires_at,
            payload: payload.into(),
            ..Message::new(TopicName::new(topic).unwrap(), "", Origin::Client)
        }
    }

    const ALL: SearchBounds = SearchBounds {
        seen: usize::MAX,
        found: usize::MAX,
    };

    fn topic_of(number: u8) -> String {
        format!("site{}/{}", number % 3, number)
    }

    proptest! {
        #![proptest_config(crate::testing::cases(256, module_path!()))]
        #[test]
        fn a_full_store_gives_up_what_has_expired_and_nothing_else(
            steps in prop::collection::vec((0_u8..12, prop::option::of(0_u64..10), any::<bool>()), 1..60),
        ) {
            let start = crate::time::now();
            let total = Arc::new(AtomicUsize::new(0));
            let mut retained = Retained::new(4, 1 << 20);
            let mut model: BTreeMap<String, Option<Instant>> = BTreeMap::new();
            for (second, (topic, lives, is_removal)) in steps.into_iter().enumerate() {
                let now = start + Duration::from_secs(second as u64);
                let expires_at = lives.map(|seconds| now + Duration::from_secs(seconds));
                let topic = topic_of(topic);
                let new = message(&topic, expires_at, if is_removal { b"" } else { b"x" });
                let is_kept = retained.keep(&new, now, |message| SharedMessage::new(message.detached(), 1, &total));
                retained.check_invariants();
                model.remove(&topic);
                if !is_removal {
                    if model.len() == 4 {
                        model.retain(|_, at| at.is_none_or(|at| at > now));
                    }
                    prop_assert_eq!(is_kept, model.len() < 4);
                    if is_kept {
                        model.insert(topic, expires_at);
                    }
                }
                prop_assert_eq!(retained.count(), model.len());
                let found = retained.matching(&TopicFilter::new("+/#").unwrap(), None, ALL, now).found;
                let expected = model.iter().filter(|(_, at)| at.is_none_or(|at| at > now)).map(|(topic, _)| topic.as_str());
                prop_assert!(found.iter().map(|kept| kept.topic.as_str()).eq(expected));
            }
        }
    }

    #[test]
    fn a_filter_that_begins_with_a_wildcard_looks_at_few_topics() {
        let (now, total) = (crate::time::now(), Arc::new(AtomicUsize::new(0)));
        let mut retained = Retained::new(10_000, 64 << 20);
        for topic in
            (0..10).flat_map(|site| (0..1000).map(move |tag| format!("site{site}/tag{tag:04}")))
        {
            assert!(retained.keep(&message(&topic, None, b"x"), now, |message| {
                SharedMessage::new(message.detached(), 1, &total)
            }));
        }
        let matching = retained.matching(&TopicFilter::new("+/tag0500").unwrap(), None, ALL, now);
        assert_eq!(matching.found.len(), 10);
        assert!(matching.seen <= 30, "{} topics looked at", matching.seen);
        // In pieces it finds the same.
        for bounds in [
            SearchBounds {
                seen: 3,
                found: 100,
            },
            SearchBounds {
                seen: 100,
                found: 3,
            },
            SearchBounds { seen: 1, found: 1 },
        ] {
            let (mut pieces, mut after) = (Vec::new(), None);
            loop {
                let piece = retained.matching(
                    &TopicFilter::new("+/tag0500").unwrap(),
                    after.as_ref(),
                    bounds,
                    now,
                );
                assert!(piece.seen <= bounds.seen && piece.found.len() <= bounds.found);
                pieces.extend(piece.found);
                after = piece.last;
                if after.is_none() {
                    break;
                }
            }
            assert!(
                pieces
                    .iter()
                    .map(|one| &one.topic)
                    .eq(matching.found.iter().map(|one| &one.topic)),
                "{bounds:?}"
            );
        }
    }
}
