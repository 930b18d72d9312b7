//! The content of messages that is kept for clients: its numbers, its bytes, and the topics that
//! messages share.
//!
//! Invariant: numbers are never used again, not even after a start.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::delivery::SharedMessage;
use crate::message::Message;
use crate::mqtt::TopicName;

/// Topics that are remembered, and the longest of them: 64 kB in all.
const TOPICS: usize = 256;
const LONGEST: usize = 200;

/// The content of messages that is kept for clients.
#[derive(Debug, Default)]
pub(super) struct KeptMessages {
    last_id: u64,
    /// Of all messages that wait for sessions or are in flight to them, each counted once.
    bytes: Arc<AtomicUsize>,
    topics: RecentTopics,
}

impl KeptMessages {
    /// The number of the newest message.
    pub(super) fn last_id(&self) -> u64 {
        self.last_id
    }

    /// New numbers are above this one.
    pub(super) fn know_id(&mut self, id: u64) {
        self.last_id = self.last_id.max(id);
    }

    /// The number of a new message.
    pub(super) fn draw_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Bytes of all messages that wait for sessions or are in flight to them.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A copy of a message, to be kept under a number that was drawn.
    pub(super) fn keep(&mut self, message: &Message, id: u64) -> Arc<SharedMessage> {
        let topic = self.topics.detached(&message.topic);
        SharedMessage::new(message.detached_with(topic), id, &self.bytes)
    }
}

/// Topics that came again and again: their messages share the text. A topic has one place, given by
/// its text; whatever else has that place waits until it has come twice in a row.
#[derive(Debug, Default)]
struct RecentTopics(Vec<RecentTopic>);

#[derive(Debug, Clone, Default)]
struct RecentTopic {
    /// Of the topic that came last.
    hash: u32,
    kept: Option<TopicName>,
}

impl RecentTopics {
    /// A copy of a topic that keeps no packet alive.
    fn detached(&mut self, topic: &TopicName) -> TopicName {
        let text = topic.as_str();
        if text.len() > LONGEST {
            return topic.detached();
        }
        if self.0.is_empty() {
            self.0.resize(TOPICS, RecentTopic::default());
        }
        let hash = crc32c::crc32c(text.as_bytes());
        let Some(place) = self.0.get_mut(hash as usize % TOPICS) else {
            return topic.detached();
        };
        if let Some(kept) = place.kept.as_ref().filter(|kept| *kept == topic) {
            return kept.clone();
        }
        let own = topic.detached();
        if place.hash == hash {
            place.kept = Some(own.clone());
        }
        place.hash = hash;
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> TopicName {
        TopicName::new(text.to_owned()).unwrap()
    }

    #[test]
    fn a_topic_that_comes_again_is_kept_once() {
        let mut topics = RecentTopics::default();
        let copies: Vec<TopicName> = (0..4).map(|_| topics.detached(&name("plant/a"))).collect();
        assert!(copies.iter().all(|copy| *copy == name("plant/a")));
        let places: Vec<_> = copies.iter().map(|copy| copy.as_str().as_ptr()).collect();
        assert_eq!(places[1], places[2]);
        assert_eq!(places[2], places[3]);
    }

    #[test]
    fn topics_with_the_same_place_are_told_apart_and_long_ones_are_not_remembered() {
        let mut topics = RecentTopics::default();
        for _ in 0..3 {
            for number in 0..4 * TOPICS {
                let topic = name(&format!("plant/{number}"));
                assert_eq!(topics.detached(&topic), topic);
            }
        }
        let long = name(&"x".repeat(LONGEST + 1));
        let copies = [topics.detached(&long), topics.detached(&long)];
        assert_ne!(copies[0].as_str().as_ptr(), copies[1].as_str().as_ptr());
    }
}
