//! One `send` rule of an uplink. Pure.

use super::{Condition, Subject};
use crate::message::{Class, Lane};
use crate::mqtt::{Mapping, QoS, TopicFilter, TopicName};
use crate::payload::ReadingFormat;
use crate::units::Rate;

/// One `send` rule; the first one that matches decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Local topics to those of the remote broker.
    pub mapping: Mapping,
    /// Classes it is for, by their index; empty for all.
    pub only: Vec<u16>,
    /// What must be true of a message; without one it is for all.
    pub condition: Option<Condition>,
    /// The class it gives to messages; without one they keep theirs.
    pub class: Option<Class>,
    /// The QoS of that class.
    pub qos: Option<QoS>,
    /// The highest QoS in any case.
    pub most: QoS,
    /// False clears the retain flag.
    pub keeps_retained: bool,
    /// Limit for its messages.
    pub rate: Option<Rate>,
    /// How its readings are written; `None`: as those of the uplink.
    pub format: Option<ReadingFormat>,
    /// The lanes that its messages can be in; empty for all.
    pub lanes: Vec<Lane>,
}

impl Rule {
    /// All messages of a filter, as they are.
    pub fn keep(filter: TopicFilter) -> Self {
        Self {
            mapping: Mapping::keep(filter),
            only: Vec::new(),
            condition: None,
            class: None,
            qos: None,
            most: QoS::ExactlyOnce,
            keeps_retained: true,
            rate: None,
            format: None,
            lanes: Vec::new(),
        }
    }

    /// Names a rule; the same for another rate or format.
    pub fn id(&self) -> u32 {
        let mut name = format!("{} {:?}", self.mapping.filter(), self.only);
        if let Some(condition) = &self.condition {
            name.extend([" ", &condition.to_string()]);
        }
        crc32c::crc32c(name.as_bytes())
    }

    /// True if it is for messages of a class on a topic, whatever is in them.
    pub fn covers(&self, topic: &TopicName, class: Class) -> bool {
        (self.only.is_empty() || self.only.contains(&class.id))
            && self.mapping.filter().matches(topic)
    }

    /// True if it is for a message.
    pub fn takes(&self, subject: &Subject<'_>) -> bool {
        let message = subject.message();
        self.covers(&message.topic, message.class) && self.is_true_of(subject)
    }

    /// True if nothing in a message keeps it from being for it.
    pub fn is_true_of(&self, subject: &Subject<'_>) -> bool {
        self.condition
            .as_ref()
            .is_none_or(|condition| condition.is_true_of(subject))
    }
}
