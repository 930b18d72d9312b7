//! Messages about lines, uplinks and losses on their way to local clients and into the outboxes.
//!
//! Invariants:
//! * Losses of an uplink go into its outbox although it is down: they are counted since the start,
//!   and a crash would forget them.
//! * The state of an uplink does not go over the uplink itself.

use super::bulletin::{Bulletin, Fact, HealthValue};
use crate::config::HealthMessages;
use crate::message::{Message, Origin};
use crate::mqtt::TopicName;
use crate::payload::json;
use crate::route::{RoutePublisher, StateKind};
use crate::time::now;

/// Publishes what is due.
#[derive(Debug)]
pub(super) struct Dispatch {
    settings: HealthMessages,
    bulletin: Bulletin,
    publisher: RoutePublisher,
}

impl Dispatch {
    pub(super) fn new(settings: HealthMessages, publisher: RoutePublisher) -> Self {
        Self {
            bulletin: Bulletin::new(settings.every, now()),
            settings,
            publisher,
        }
    }

    /// Publishes the facts that are due.
    pub(super) fn publish(&mut self, facts: Vec<Fact>) {
        let due = self.bulletin.due(facts, now());
        self.send(due);
    }

    /// Publishes the last losses before the end.
    pub(super) fn end(mut self, facts: Vec<Fact>) {
        let due = self.bulletin.last_losses(facts);
        self.send(due);
    }

    fn send(&mut self, facts: Vec<Fact>) {
        for fact in facts {
            self.send_one(&fact);
        }
        self.publisher.catch_up();
    }

    fn send_one(&mut self, fact: &Fact) {
        let Ok(topic) = TopicName::new(format!("{}/{}", self.settings.topic, fact.topic)) else {
            return;
        };
        // An empty payload takes back what is retained.
        let payload = fact.said.as_ref().map_or_else(String::new, json::text);
        let message = Message::new(topic, payload, Origin::Field)
            .retained()
            .with_qos(self.settings.qos)
            .in_class(self.settings.class);
        let kind = match fact.said {
            Some(HealthValue::Losses(_)) => StateKind::Losses,
            _ => StateKind::Health,
        };
        let except = match fact.origin {
            Origin::Uplink(index) => Some(usize::from(index)),
            _ => None,
        };
        self.publisher.publish_state(message, kind, except);
    }
}
