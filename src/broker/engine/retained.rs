//! The retained message of each topic.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use super::session::Kept;
use crate::message::Message;
use crate::mqtt::{TopicFilter, TopicName};

/// At most one message per topic, and a bounded number of topics.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: BTreeMap<TopicName, Arc<Kept>>,
    max: usize,
    /// Of all of them, and of those that were replaced and still wait for somebody.
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
}

impl Retained {
    pub(super) fn new(max: usize, max_bytes: usize) -> Self {
        Self { by_topic: BTreeMap::new(), max, bytes: Arc::default(), max_bytes }
    }

    pub(super) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// Bytes they take, about.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Replaces the retained message of its topic; an empty payload removes it [MQTT-3.3.1-6]. False if there is no room.
    pub(super) fn keep(&mut self, message: &Message, now: Instant, make: impl FnOnce(&Message, &Arc<AtomicUsize>) -> Arc<Kept>) -> bool {
        if message.payload.is_empty() {
            self.by_topic.remove(&message.topic);
            return true;
        }
        if !self.has_room(message) {
            self.by_topic.retain(|_, message| !message.is_expired(now));
            if !self.has_room(message) {
                return false;
            }
        }
        let kept = make(message, &self.bytes);
        self.insert(kept);
        true
    }

    /// Puts a message in its place, whatever the limits say.
    pub(super) fn insert(&mut self, kept: Arc<Kept>) {
        // The old key is kept by an insertion, and so would be the memory it shares.
        self.by_topic.remove(&kept.topic);
        self.by_topic.insert(kept.topic.clone(), kept);
    }

    fn has_room(&self, message: &Message) -> bool {
        let old = self.by_topic.get(&message.topic).map(|message| message.weight());
        let count = self.by_topic.len() + usize::from(old.is_none());
        count <= self.max && self.bytes().saturating_sub(old.unwrap_or(0)) + message.weight() <= self.max_bytes
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

    /// The retained messages a filter matches, in the order of their topics.
    pub(super) fn matching(&self, filter: &TopicFilter, now: Instant) -> Vec<Arc<Kept>> {
        let text = filter.as_str();
        let literal = text.find(['+', '#']).and_then(|at| text.get(..at)).unwrap_or(text);
        if literal.len() == text.len() {
            return self.by_topic.get(text).filter(|message| !message.is_expired(now)).cloned().into_iter().collect();
        }
        // `a/#` also matches `a`: the search begins without the last slash.
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        self.by_topic
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix))
            .filter(|(topic, message)| filter.matches(topic) && !message.is_expired(now))
            .map(|(_, message)| message.clone())
            .collect()
    }
}
