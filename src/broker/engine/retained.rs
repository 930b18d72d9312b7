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
}

impl Retained {
    pub(super) fn new(max: usize) -> Self {
        Self { by_topic: BTreeMap::new(), max }
    }

    pub(super) fn count(&self) -> usize {
        self.by_topic.len()
    }

    /// Replaces the retained message of its topic; an empty payload removes it [MQTT-3.3.1-6]. False if there is no room.
    pub(super) fn keep(&mut self, message: &Arc<Message>) -> bool {
        if message.payload.is_empty() {
            self.by_topic.remove(&message.topic);
            return true;
        }
        if self.by_topic.len() >= self.max && !self.by_topic.contains_key(&message.topic) {
            return false;
        }
        self.by_topic.insert(message.topic.clone(), message.clone());
        true
    }

    /// The retained messages a filter matches, in the order of their topics; expired ones are forgotten.
    pub(super) fn matching(&mut self, filter: &TopicFilter, now: Instant) -> Vec<Arc<Message>> {
        self.by_topic.retain(|_, message| !message.is_expired(now));
        let text = filter.as_str();
        let literal = text.find(['+', '#']).and_then(|at| text.get(..at)).unwrap_or(text);
        // `a/#` also matches `a`: the search begins without the last slash.
        let prefix = literal.strip_suffix('/').unwrap_or(literal);
        self.by_topic
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(topic, _)| topic.as_str().starts_with(prefix))
            .filter(|(topic, _)| filter.matches(topic))
            .map(|(_, message)| message.clone())
            .collect()
    }
}
