//! The way into an outbox: which local messages go north, under which topic, class and QoS. What is in an outbox keeps the topic that
//! it was taken with, whatever the rules say later.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Outbox, Outgoing, Routes};
use crate::message::{Class, Message, Origin};
use crate::mqtt::{Mapping, QoS, TopicError, TopicName};
use crate::payload::json;
use crate::reading::Timestamp;
use crate::store::{AppendError, Receipt};
use crate::time::{moment, now};

/// One `send` rule; the first one that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Local topics to those of the remote broker.
    pub mapping: Mapping,
    /// Classes it is for, by their index; empty for all.
    pub only: Vec<u16>,
    /// The class it gives to messages; without one they keep theirs.
    pub class: Option<Class>,
    /// The QoS of that class.
    pub qos: Option<QoS>,
    /// The highest QoS in any case.
    pub most: QoS,
    /// False takes the retain flag off.
    pub keeps_retained: bool,
}

impl Rule {
    /// True if it is for messages of a class on a topic.
    pub fn wants(&self, topic: &TopicName, class: Class) -> bool {
        (self.only.is_empty() || self.only.contains(&class.id)) && self.mapping.filter().matches(topic)
    }
}

/// Why a message is not in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// Ours: the outbox is closed.
    #[error("the outbox is closed")]
    Closed,
    /// Peer: as the rule writes it, the topic is none; the message cannot go there.
    #[error("its topic as the `send` rule writes it is not possible: {0}")]
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
    /// They may become others.
    routes: watch::Receiver<Arc<Routes>>,
    uplink: usize,
    /// Of a backup: whether the other uplink is up. Messages are taken only while it is not.
    primary: Option<watch::Receiver<bool>>,
}

impl Intake {
    /// For the uplink with index `uplink`. That of a backup takes messages only while `primary`, the state of the other, is false.
    pub fn new(outbox: Outbox, routes: watch::Receiver<Arc<Routes>>, uplink: usize, primary: Option<watch::Receiver<bool>>) -> Self {
        Self { outbox, routes, uplink, primary }
    }

    /// Puts a message into the outbox if a rule wants it; waits while too much waits for the disk. `None` if no rule wants it.
    pub async fn offer(&self, message: &Message) -> Result<Option<Receipt>, OfferError> {
        if self.primary.as_ref().is_some_and(|is_up| *is_up.borrow()) {
            return Ok(None);
        }
        match self.outgoing(message)? {
            Some((class, outgoing)) => Ok(Some(self.outbox.append(class.lane, &outgoing).await?)),
            None => Ok(None),
        }
    }

    fn outgoing(&self, message: &Message) -> Result<Option<(Class, Outgoing)>, OfferError> {
        if message.origin == Origin::Uplink(self.uplink) || message.topic.is_reserved() {
            return Ok(None);
        }
        let routes = self.routes.borrow();
        let Some((rule, topic)) = routes.outward(message) else { return Ok(None) };
        let topic = topic.map_err(OfferError::Topic)?;
        let mut properties = message.properties.clone();
        if let Some(local) = &message.properties.response_topic {
            properties.edit().response_topic = Some(routes.answered_at(local));
        }
        if let Some(seconds) = message.seconds_left(now()) {
            properties.edit().message_expiry = Some(seconds);
        }
        let class = rule.class.unwrap_or(message.class);
        let enqueued = Timestamp::from(moment());
        // One that was kept back since before the clock was set.
        let step = message.measured.and_then(|time| time.set_by(enqueued));
        let payload = step.and_then(|step| json::moved(&message.payload, step)).unwrap_or_else(|| message.payload.clone());
        let outgoing = Outgoing {
            topic,
            qos: rule.qos.unwrap_or(message.qos).min(rule.most),
            retain: message.retain && rule.keeps_retained,
            if_session_lost: class.if_session_lost,
            enqueued,
            properties,
            payload,
            is_reading: message.measured.is_some(),
        };
        Ok(Some((class, outgoing)))
    }
}
