//! The retained message of each topic.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use super::session::Kept;
use crate::message::Message;
use crate::mqtt::{TopicFilter, TopicName};

/// Some of the retained messages that a filter matches.
#[derive(Debug)]
pub(super) struct Matching {
    pub(super) found: Vec<Arc<Kept>>,
    /// Topics that were looked at.
    pub(super) seen: usize,
    /// The last of these, if there may be more.
    pub(super) last: Option<TopicName>,
}

/// At most one message per topic, and a bounded number of topics.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: BTreeMap<TopicName, Arc<Kept>>,
    max: usize,
    weight: usize,
    max_bytes: usize,
}

impl Retained {
    pub(super) fn new(max: usize, max_bytes: usize) -> Self {
        Self { by_topic: BTreeMap::new(), max, weight: 0, max_bytes }
    }

    pub(super) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// Bytes they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.weight
    }

    /// Replaces the retained message of its topic; an empty payload removes it [MQTT-3.3.1-6]. False if there is no room: then the old
    /// one, which is not the last one any more, is gone too.
    pub(super) fn keep(&mut self, message: &Message, now: Instant, make: impl FnOnce(&Message) -> Arc<Kept>) -> bool {
        self.remove(&message.topic);
        if message.payload.is_empty() {
            return true;
        }
        if !self.has_room(message) {
            self.by_topic.retain(|_, message| !message.is_expired(now));
            self.weight = self.by_topic.values().map(|message| message.weight()).sum();
            if !self.has_room(message) {
                return false;
            }
        }
        let kept = make(message);
        self.weight += kept.weight();
        self.by_topic.insert(kept.topic.clone(), kept);
        true
    }

    fn remove(&mut self, topic: &TopicName) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.weight -= old.weight();
        }
    }

    fn has_room(&self, message: &Message) -> bool {
        self.by_topic.len() < self.max && self.weight + message.weight() <= self.max_bytes
    }

    /// True if a topic has just this payload.
    pub(super) fn is(&self, topic: &TopicName, payload: &[u8]) -> bool {
        self.by_topic.get(topic).is_some_and(|kept| kept.payload == payload)
    }

    /// The first one whose topic comes after `topic`, in the order of their bytes.
    pub(super) fn after(&self, topic: Option<&TopicName>) -> Option<&Arc<Kept>> {
        let begin = topic.map_or(Bound::Unbounded, Bound::Excluded);
        self.by_topic.range::<TopicName, _>((begin, Bound::Unbounded)).next().map(|(_, kept)| kept)
    }

    /// The next retained messages a filter matches, in the order of their topics: those after `after`, if that is said, and of at most
    /// `most` topics that are looked at. The last of these is returned if there may be more.
    pub(super) fn matching(&self, filter: &TopicFilter, after: Option<&TopicName>, most: usize, now: Instant) -> Matching {
        let text = filter.as_str();
        let literal = text.find(['+', '#']).and_then(|at| text.get(..at)).unwrap_or(text);
        if literal.len() == text.len() {
            let found = self.by_topic.get(text).filter(|message| !message.is_expired(now));
            return Matching { found: found.cloned().into_iter().collect(), seen: 1, last: None };
        }
        // `a/#` also matches `a`: the search begins without the last slash.
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        let begin = after.map_or(Bound::Included(prefix), |after| Bound::Excluded(after.as_str()));
        let (mut found, mut last, mut seen) = (Vec::new(), None, 0);
        for (topic, message) in self.by_topic.range::<str, _>((begin, Bound::Unbounded)) {
            if !topic.as_str().starts_with(prefix) {
                return Matching { found, seen, last: None };
            }
            if seen == most {
                return Matching { found, seen, last };
            }
            seen += 1;
            last = Some(topic.clone());
            if filter.matches(topic) && !message.is_expired(now) {
                found.push(message.clone());
            }
        }
        Matching { found, seen, last: None }
    }
}
