//! What the gateway publishes for local clients; a busy broker holds up nothing.

use std::collections::HashMap;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::message::GatewayMessage;
use crate::mqtt::TopicName;

/// See the module.
#[derive(Debug)]
pub(super) struct LocalView {
    live: mpsc::Sender<GatewayMessage>,
    /// The newest message of each topic that the broker had no room for; one per topic at most.
    unshown: HashMap<TopicName, GatewayMessage>,
}

impl LocalView {
    pub(super) fn new(live: mpsc::Sender<GatewayMessage>) -> Self {
        Self {
            live,
            unshown: HashMap::new(),
        }
    }

    /// Publishes a message, after those that had to wait. True if it has to wait itself.
    pub(super) fn show(&mut self, message: GatewayMessage) -> bool {
        self.catch_up();
        if self.unshown.is_empty() {
            match self.live.try_send(message) {
                Ok(()) => return false,
                Err(TrySendError::Full(message) | TrySendError::Closed(message)) => {
                    drop(self.unshown.insert(message.topic().clone(), message));
                }
            }
        } else {
            self.unshown.insert(message.topic().clone(), message);
        }
        true
    }

    /// Publishes messages that had to wait, as far as there is room: retained values must not stay
    /// wrong.
    pub(super) fn catch_up(&mut self) {
        while let Some(topic) = self.unshown.keys().next().cloned() {
            let Ok(place) = self.live.try_reserve() else {
                return;
            };
            if let Some(message) = self.unshown.remove(&topic) {
                place.send(message);
            }
        }
    }
}
