//! The content of messages while records are read: deliveries name their messages by number.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::delivery::SharedMessage;
use super::kept::KeptMessages;
use crate::message::Message;

/// Bytes of messages that may be kept although all known deliveries are done.
const MOST_SPARE: usize = 4 << 20;

/// Content of messages, by their numbers. A checkpoint may say later that a message has more
/// deliveries than those that are done: it is kept for a while.
///
/// Invariant: `spare_bytes` is what the messages in `spare` weigh.
#[derive(Debug, Default)]
pub(super) struct MessageContents {
    messages: HashMap<u64, Arc<SharedMessage>>,
    /// Those without deliveries that are to come, from the oldest to the newest.
    spare: VecDeque<(u64, usize)>,
    spare_bytes: usize,
}

impl MessageContents {
    /// The content of a message.
    pub(super) fn get(&self, id: u64) -> Option<&Arc<SharedMessage>> {
        self.messages.get(&id)
    }

    /// Keeps the content of a message, unless it is here already.
    pub(super) fn put(&mut self, message: &Message, id: u64, kept: &mut KeptMessages) {
        self.messages
            .entry(id)
            .or_insert_with(|| kept.keep(message, id));
    }

    /// A delivery of a message is over: its content goes when it is spare for long.
    pub(super) fn done(&mut self, message: Arc<SharedMessage>) {
        // One here, and one with the caller.
        if Arc::strong_count(&message) > 2 || !self.messages.contains_key(&message.id) {
            return;
        }
        self.spare_bytes += message.weight();
        self.spare.push_back((message.id, message.weight()));
        while self.spare_bytes > MOST_SPARE
            && let Some((id, weight)) = self.spare.pop_front()
        {
            self.spare_bytes -= weight;
            if self
                .messages
                .get(&id)
                .is_some_and(|message| Arc::strong_count(message) == 1)
            {
                self.messages.remove(&id);
            }
        }
    }
}
