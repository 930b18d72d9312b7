//! `$SYS`: what the broker tells about itself, under the names mosquitto users know.

use std::sync::Arc;
use std::time::Instant;

use super::Engine;
use crate::message::{Message, Origin};
use crate::mqtt::TopicName;

/// What went through the broker since it started.
#[derive(Debug, Default, Clone)]
pub struct Traffic {
    /// Control packets from clients.
    pub packets_received: u64,
    /// Control packets to clients.
    pub packets_sent: u64,
    /// PUBLISH packets from clients.
    pub publishes_received: u64,
    /// PUBLISH packets to clients.
    pub publishes_sent: u64,
    /// Messages that somebody was to get and did not: no room, too large, expired; and connections that did not take theirs.
    pub dropped: u64,
}

impl Engine {
    /// What went through the broker.
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    pub(super) fn publish_sys(&mut self, now: Instant) {
        let connected = self.sessions.iter().filter(|(_, session)| session.connection.is_some()).count();
        let total = self.sessions.len();
        let traffic = self.traffic.clone();
        let values = [
            ("version", format!("wellhead version {}", env!("CARGO_PKG_VERSION"))),
            ("uptime", format!("{} seconds", now.saturating_duration_since(self.started).as_secs())),
            ("clients/total", total.to_string()),
            ("clients/connected", connected.to_string()),
            ("clients/disconnected", (total - connected).to_string()),
            ("messages/received", traffic.packets_received.to_string()),
            ("messages/sent", traffic.packets_sent.to_string()),
            ("publish/messages/received", traffic.publishes_received.to_string()),
            ("publish/messages/sent", traffic.publishes_sent.to_string()),
            ("publish/messages/dropped", traffic.dropped.to_string()),
            ("retained messages/count", self.retained.count().to_string()),
            ("subscriptions/count", self.subscriptions.count().to_string()),
        ];
        for (name, value) in values {
            if let Ok(topic) = TopicName::new(format!("$SYS/broker/{name}")) {
                let message = Message::new(topic, value, Origin::Own).retained();
                self.accept(&Arc::new(message), None, now);
            }
        }
    }
}
