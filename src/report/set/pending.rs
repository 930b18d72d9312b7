//! A write that was asked for, until it is answered.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value as Json;

use super::result::{WriteResult, WriteStatus};
use crate::field::Values;
use crate::field::write::{ReadBack, Written};
use crate::message::{Message, Publisher};
use crate::mqtt::TopicName;
use crate::reading::{PointId, Value};

/// See the module.
pub(super) struct PendingWrite {
    pub(super) topic: TopicName,
    pub(super) publisher: Option<Arc<Publisher>>,
    /// The payload of its message, for the log.
    pub(super) payload: Bytes,
    reply_to: Option<ReplyTo>,
    /// Chosen by the client; the result carries it.
    pub(super) id: Option<Json>,
    /// Its values, as far as the command was understood.
    pub(super) wanted: Vec<WantedValue>,
}

/// Where the result of a write goes.
pub(super) struct ReplyTo {
    pub(super) topic: TopicName,
    pub(super) correlation: Option<Bytes>,
}

/// The value that a point shall hold.
pub(super) struct WantedValue {
    /// Empty for a single point.
    pub(super) name: String,
    pub(super) point: PointId,
    pub(super) value: Value,
    pub(super) read_back: Option<ReadBack>,
}

impl PendingWrite {
    /// Of a message whose command is not read yet.
    pub(super) fn of(message: &Message, reply_to: Option<ReplyTo>) -> Self {
        Self {
            topic: message.topic.clone(),
            publisher: message.publisher.clone(),
            payload: message.payload.clone(),
            reply_to,
            id: None,
            wanted: Vec::new(),
        }
    }

    /// The topic of its result; `None` if its own topic is too long to have one.
    pub(super) fn result_topic(&self) -> Option<TopicName> {
        match &self.reply_to {
            Some(reply_to) => Some(reply_to.topic.clone()),
            None => TopicName::new(format!("{}/result", self.topic)).ok(),
        }
    }

    /// The correlation data of its result.
    pub(super) fn correlation(&self) -> Option<&Bytes> {
        self.reply_to.as_ref()?.correlation.as_ref()
    }

    /// Its values, for the log.
    pub(super) fn wanted_text(&self) -> String {
        let one = |WantedValue { name, value, .. }: &WantedValue| {
            if name.is_empty() {
                value.to_string()
            } else {
                format!("{name}={value}")
            }
        };
        self.wanted.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    /// Its result, when the line has ended it.
    pub(super) fn result(&self, written: Written) -> WriteResult {
        match written {
            Written::Done(values) => self.done(self.named(values)),
            Written::Refused(code, why) => WriteResult {
                code,
                // A code says it all.
                reason: code.is_none().then_some(why),
                ..WriteResult::new(WriteStatus::Exception)
            },
            Written::Unknown(values, why) => WriteResult {
                values: self.named(values),
                reason: Some(format!("it was sent, and not confirmed: {why}")),
                ..WriteResult::new(WriteStatus::TimeoutUnknown)
            },
            Written::NotSent(why) => WriteResult::rejected(why),
            Written::Expired => WriteResult::new(WriteStatus::Expired),
        }
    }

    /// The values that could be read back, by the names of their points.
    fn named(&self, values: Values) -> Vec<(String, Value)> {
        let name = |id: PointId| {
            let wanted = self.wanted.iter().find(|wanted| wanted.point == id);
            wanted.map(|wanted| wanted.name.clone())
        };
        values
            .into_iter()
            .filter_map(|sample| Some((name(sample.point)?, sample.value.ok()?)))
            .collect()
    }

    /// The result of a write that was carried out, after which `shown` was read back.
    fn done(&self, shown: Vec<(String, Value)>) -> WriteResult {
        if !self.is_shown(&shown) {
            return WriteResult {
                values: shown,
                ..WriteResult::new(WriteStatus::VerifyMismatch)
            };
        }
        let values = if shown.is_empty() {
            let wanted = self.wanted.iter();
            wanted
                .map(|wanted| (wanted.name.clone(), wanted.value.clone()))
                .collect()
        } else {
            shown
        };
        WriteResult {
            values,
            ..WriteResult::new(WriteStatus::Ok)
        }
    }

    /// True if the values read back are those that were wanted; a value that was not read back is a
    /// contradiction only if it was asked for.
    fn is_shown(&self, values: &[(String, Value)]) -> bool {
        self.wanted.iter().all(|wanted| {
            let Some(check) = wanted.read_back else {
                return true;
            };
            let Some((_, shown)) = values.iter().find(|(other, _)| *other == wanted.name) else {
                return false;
            };
            check.holds(&wanted.value, shown)
        })
    }
}
