//! One `send` rule of an uplink. Pure.

use crate::message::{Class, Lane};
use crate::mqtt::{Mapping, QoS, TopicName};
use crate::units::Rate;

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
    /// False clears the retain flag.
    pub keeps_retained: bool,
    /// Limit for its messages.
    pub rate: Option<Rate>,
    /// The lanes that its messages can be in; empty for all.
    pub lanes: Vec<Lane>,
}

impl Rule {
    /// Names a rule; the same for another rate.
    pub fn id(&self) -> u32 {
        crc32c::crc32c(format!("{} {:?}", self.mapping.filter(), self.only).as_bytes())
    }

    /// True if it is for messages of a class on a topic.
    pub fn wants(&self, topic: &TopicName, class: Class) -> bool {
        (self.only.is_empty() || self.only.contains(&class.id))
            && self.mapping.filter().matches(topic)
    }
}
