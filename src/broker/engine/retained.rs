//! The retained message of each topic.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use crate::message::Message;
use crate::mqtt::{TopicFilter, TopicName};

/// At most one message per topic, and a bounded number of topics.
#[derive(Debug)]
pub(super) struct Retained {
    by_topic: BTreeMap<TopicName, Arc<Message>>,
    max: usize,
    bytes: usize,
    max_bytes: usize,
}

impl Retained {
    pub(super) fn new(max: usize, max_bytes: usize) -> Self {
        Self { by_topic: BTreeMap::new(), max, bytes: 0, max_bytes }
    }

    pub(super) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// Replaces the retained message of its topic; an empty payload removes it [MQTT-3.3.1-6]. False if there is no room.
    pub(super) fn keep(&mut self, message: &Message, now: Instant) -> bool {
        if message.payload.is_empty() {
            self.remove(&message.topic);
            return true;
        }
        let weight = message.weight();
        if !self.has_room(&message.topic, weight) {
            self.forget_expired(now);
            if !self.has_room(&message.topic, weight) {
                return false;
            }
        }
        self.remove(&message.topic);
        self.bytes += weight;
        let kept = Arc::new(message.detached());
        self.by_topic.insert(kept.topic.clone(), kept);
        true
    }

    fn has_room(&self, topic: &TopicName, weight: usize) -> bool {
        let old = self.by_topic.get(topic).map(|message| message.weight());
        let count = self.by_topic.len() + usize::from(old.is_none());
        count <= self.max && self.bytes - old.unwrap_or(0) + weight <= self.max_bytes
    }

    fn remove(&mut self, topic: &TopicName) {
        if let Some(old) = self.by_topic.remove(topic) {
            self.bytes -= old.weight();
        }
    }

    fn forget_expired(&mut self, now: Instant) {
        self.by_topic.retain(|_, message| !message.is_expired(now));
        self.bytes = self.by_topic.values().map(|message| message.weight()).sum();
    }

    /// The retained messages a filter matches, in the order of their topics.
    pub(super) fn matching(&self, filter: &TopicFilter, now: Instant) -> Vec<Arc<Message>> {
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
