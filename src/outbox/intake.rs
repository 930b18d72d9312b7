//! The way into an outbox: which local messages go north, and under which topic and QoS.

use super::{Outbox, Outgoing};
use crate::message::{Message, Origin};
use crate::mqtt::{QoS, TopicError, TopicFilter, TopicName};
use crate::reading::Timestamp;
use crate::store::{AppendError, Receipt};
use crate::time::{now, unix_ms};

/// One `send` rule; the first one that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendRule {
    /// Local topics.
    pub filter: TopicFilter,
    /// Put before the topic at the remote broker.
    pub prefix: String,
    /// The QoS of the rule's class; without one the message keeps its own.
    pub qos: Option<QoS>,
}

/// Why a message is not in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ours: the outbox is closed.
    #[error("the outbox is closed")]
    Closed,
    /// Peer: with the rule's prefix the topic is none; the message cannot go there.
    #[error("its topic with the prefix of the `send` rule is not possible: {0}")]
    Topic(TopicError),
}

impl From<AppendError> for OfferError {
    fn from(_: AppendError) -> Self {
        Self::Closed
    }
}

/// The rules of one uplink and its outbox; cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    outbox: Outbox,
    rules: Vec<SendRule>,
    uplink: usize,
}

impl Intake {
    /// For the uplink with index `uplink`.
    pub fn new(outbox: Outbox, rules: Vec<SendRule>, uplink: usize) -> Self {
        Self { outbox, rules, uplink }
    }

    /// Puts a message into the outbox if a rule wants it; waits while the outbox is busy. `None` if no rule wants it.
    pub async fn offer(&self, message: &Message) -> Result<Option<Receipt>, OfferError> {
        match self.outgoing(message)? {
            Some(outgoing) => Ok(Some(self.outbox.append(&outgoing).await?)),
            None => Ok(None),
        }
    }

    fn outgoing(&self, message: &Message) -> Result<Option<Outgoing>, OfferError> {
        if message.origin == Origin::Uplink(self.uplink) || message.topic.is_reserved() {
            return Ok(None);
        }
        let Some(rule) = self.rules.iter().find(|rule| rule.filter.matches(&message.topic)) else { return Ok(None) };
        let topic = TopicName::new(format!("{}{}", rule.prefix, message.topic)).map_err(OfferError::Topic)?;
        let mut properties = message.properties.clone();
        if let Some(seconds) = message.seconds_left(now()) {
            properties.edit().message_expiry = Some(seconds);
        }
        Ok(Some(Outgoing {
            topic,
            // Exactly once needs packet identifiers that survive a restart; the uplink speaks QoS 0 and 1.
            qos: rule.qos.unwrap_or(message.qos).min(QoS::AtLeastOnce),
            retain: message.retain,
            enqueued: Timestamp::at(unix_ms()),
            properties,
            payload: message.payload.clone(),
        }))
    }
}
