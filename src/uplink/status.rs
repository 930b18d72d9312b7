//! What an uplink tells about itself: to local clients on `$SYS`, and in the log once per change.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use tokio::sync::mpsc;

use crate::message::{Message, Origin};
use crate::metrics::Counter;
use crate::mqtt::TopicName;
use crate::outbox::Outbox;
use crate::time::{rfc3339, unix_ms};

/// Reasons that are remembered as told.
const MAX_TOLD: usize = 32;

/// What went over the link.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) acknowledged: Counter,
    pub(super) refused: Counter,
    pub(super) received: Counter,
    pub(super) connects: Counter,
}

#[derive(Serialize, Clone, PartialEq)]
struct Shape {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    since: String,
    waiting: u64,
    lost: u64,
    acknowledged: u64,
    refused: u64,
    received: u64,
    connects: u64,
    stalled: bool,
}

/// The status topics of one uplink.
pub(super) struct Status {
    name: String,
    live: Option<mpsc::Sender<Message>>,
    outbox: Outbox,
    pub(super) counters: Arc<Counters>,
    connected: bool,
    reason: Option<String>,
    /// What was told since the link was last up.
    told: HashSet<String>,
    since_ms: i64,
    shown: Option<Shape>,
}

impl Status {
    pub(super) fn new(name: String, live: Option<mpsc::Sender<Message>>, outbox: Outbox) -> Self {
        Self {
            name,
            live,
            outbox,
            counters: Arc::default(),
            connected: false,
            reason: None,
            told: HashSet::new(),
            since_ms: unix_ms(),
            shown: None,
        }
    }

    pub(super) fn connected(&mut self, remote: &dyn std::fmt::Display) {
        self.counters.connects.count();
        let waiting = self.outbox.counters().waiting.value();
        tracing::info!(uplink = %self.name, %remote, waiting, "link is up");
        self.change(true, None);
    }

    /// The link is down, or could not be made. Each reason is told once until the link has been up for good.
    pub(super) fn disconnected(&mut self, reason: &str) {
        if self.told.len() < MAX_TOLD && self.told.insert(reason.to_owned()) {
            tracing::warn!(uplink = %self.name, %reason, "link is down; messages wait in the outbox");
        }
        self.change(false, Some(reason.to_owned()));
    }

    /// The link has proven itself: what breaks it from here on is told again.
    pub(super) fn proven(&mut self) {
        self.told.clear();
    }

    fn change(&mut self, connected: bool, reason: Option<String>) {
        if self.connected != connected {
            self.since_ms = unix_ms();
        }
        self.connected = connected;
        self.reason = reason;
        self.show();
        self.publish(&format!("$SYS/broker/connection/{}/state", self.name), u8::from(connected).to_string());
    }

    /// Publishes the status if it changed.
    pub(super) fn show(&mut self) {
        let outbox = self.outbox.counters();
        let shape = Shape {
            state: if self.connected { "connected" } else { "disconnected" },
            reason: self.reason.clone(),
            since: rfc3339(self.since_ms),
            waiting: outbox.waiting.value(),
            lost: outbox.lost.value(),
            acknowledged: self.counters.acknowledged.value(),
            refused: self.counters.refused.value(),
            received: self.counters.received.value(),
            connects: self.counters.connects.value(),
            stalled: outbox.stalled.value() != 0,
        };
        if self.shown.as_ref() == Some(&shape) {
            return;
        }
        // A structure of texts and numbers cannot fail to be written.
        let text = serde_json::to_string(&shape).unwrap_or_default();
        self.shown = Some(shape);
        self.publish(&format!("$SYS/wellhead/uplink/{}", self.name), text);
    }

    fn publish(&self, topic: &str, text: String) {
        if let (Some(live), Ok(topic)) = (&self.live, TopicName::new(topic.to_owned())) {
            // A busy broker shows the next status instead.
            let _ = live.try_send(Message::new(topic, text, Origin::Own).retained());
        }
    }
}
