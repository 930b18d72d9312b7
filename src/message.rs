//! The MQTT application message, apart from how it travelled.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use bytestring::ByteString;
use serde::Deserialize;

use crate::log::Source;
use crate::mqtt::{PacketId, Properties, QoS, TopicName};
use crate::payload::json;
use crate::reading::{Reading, Timestamp};

/// Prefix of the topics on which the gateway publishes its own status.
pub const STATUS: &str = "$SYS/wellhead/";

/// Payloads below this many bytes are worth a copy where they are kept for long.
const COPIED_BELOW: usize = 8 * 1024;

/// Where a message came from; decides where it may go, so that no message loops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// An instrument of this gateway.
    Field,
    /// A client of the local broker.
    Client,
    /// The remote broker of the uplink with this index; there are 63 at most.
    Uplink(u8),
    /// This program itself: `$SYS`.
    Own,
}

impl Origin {
    /// The remote broker of an uplink.
    pub fn uplink(index: usize) -> Self {
        debug_assert!(index < 64, "the number of uplinks is bounded");
        Self::Uplink(u8::try_from(index).unwrap_or(u8::MAX))
    }
}

/// Priority over a link: all messages of one lane go before any of the next.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Default,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Lane {
    /// First.
    Alarm,
    /// Current values.
    #[default]
    Live,
    /// Last, when nothing else waits.
    Backlog,
}

/// The fate of a message that may have arrived, when the remote has lost the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SessionLost {
    /// Send it again: it may arrive twice.
    #[default]
    Resend,
    /// Drop it: it may never have arrived.
    Drop,
}

/// How important a message is, as the site sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Class {
    /// Its index in the configuration; 0 is `normal`.
    pub id: u16,
    /// Its priority to the remote.
    pub lane: Lane,
    /// Whether it is sent again when the remote has lost the session.
    pub if_session_lost: SessionLost,
}

/// One application message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Where it is published.
    pub topic: TopicName,
    /// The payload.
    pub payload: Bytes,
    /// The QoS it was published with.
    pub qos: QoS,
    /// Whether it replaces the retained message of its topic.
    pub retain: bool,
    /// The MQTT 5 properties that travel with a message to its receivers; the expiry interval is
    /// kept in `expires_at`.
    pub properties: Properties,
    /// When it expires, on the monotonic clock.
    pub expires_at: Option<Instant>,
    /// Where it came from.
    pub origin: Origin,
    /// How important it is.
    pub class: Class,
    /// The local client that published it, known on topics that write to instruments only.
    pub publisher: Option<Arc<Publisher>>,
}

/// A message of a remote broker on its way to the local one.
#[derive(Debug)]
pub struct InboundMessage {
    /// The message.
    pub message: Message,
    /// Present at QoS 2.
    pub exact: Option<ExactInbound>,
}

/// How a QoS 2 message of a remote is recognised when the remote repeats it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExactInbound {
    /// That of the remote.
    pub packet_id: PacketId,
    /// Grows from message to message of the uplink, over a crash too.
    pub number: u64,
    /// The uplink itself remembers the messages up to this number, also after a crash. Above all
    /// numbers: the remote has forgotten every earlier message.
    pub known: u64,
    /// The remote says that it may have sent the message before.
    pub is_repeated: bool,
}

/// A client of the local broker, as the log names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Publisher {
    /// Its identifier.
    pub client_id: ByteString,
    /// Its user name, if it has one.
    pub user: Option<ByteString>,
    /// Bounds the log lines it causes.
    pub source: Source,
}

impl Message {
    /// A message without properties.
    pub fn new(topic: TopicName, payload: impl Into<Bytes>, origin: Origin) -> Self {
        Self {
            topic,
            payload: payload.into(),
            qos: QoS::AtMostOnce,
            retain: false,
            properties: Properties::default(),
            expires_at: None,
            origin,
            class: Class::default(),
            publisher: None,
        }
    }

    /// The same message, to be kept by brokers for later subscribers.
    #[must_use]
    pub fn retained(self) -> Self {
        Self {
            retain: true,
            ..self
        }
    }

    /// The same message in another class.
    #[must_use]
    pub fn in_class(self, class: Class) -> Self {
        Self { class, ..self }
    }

    /// The same message with another QoS.
    #[must_use]
    pub fn with_qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// True for a status message of the gateway itself.
    pub fn is_status(&self) -> bool {
        self.origin == Origin::Own && self.topic.as_str().starts_with(STATUS)
    }

    /// Bytes of topic, payload and properties, about.
    pub fn weight(&self) -> usize {
        self.topic.as_str().len() + self.payload.len() + self.properties.weight()
    }

    /// A copy that does not keep alive the read buffer of a small message, nor a buffer that is
    /// mostly something else.
    #[must_use]
    pub fn detached(&self) -> Self {
        self.detached_with(self.topic.detached())
    }

    /// The same with a copy of its topic that is there already.
    #[must_use]
    pub fn detached_with(&self, topic: TopicName) -> Self {
        let is_less_than_half = self.payload.len() < self.properties.weight();
        let payload = if self.payload.len() < COPIED_BELOW || is_less_than_half {
            Bytes::copy_from_slice(&self.payload)
        } else {
            self.payload.clone()
        };
        Self {
            topic,
            payload,
            properties: self.properties.detached(),
            publisher: self.publisher.clone(),
            ..*self
        }
    }

    /// True if its expiry interval is over.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Seconds left, rounded up; `None` if it never expires.
    pub fn seconds_left(&self, now: Instant) -> Option<u32> {
        let left = self.expires_at?.saturating_duration_since(now);
        let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
        Some(u32::try_from(seconds).unwrap_or(u32::MAX))
    }
}

/// What the gateway itself publishes.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayMessage {
    /// Bytes that are the same for each receiver.
    Message(Message),
    /// A reading; each receiver gets it in the format it wants.
    Reading(ReadingMessage),
}

/// A reading on its topic.
#[derive(Debug, Clone, PartialEq)]
pub struct ReadingMessage {
    /// Everything but the payload.
    head: Message,
    /// The reading.
    pub reading: Reading,
}

impl ReadingMessage {
    /// A reading on the topic of its point, retained.
    pub fn new(topic: TopicName, reading: Reading, qos: QoS, class: Class) -> Self {
        let head = Message::new(topic, Bytes::new(), Origin::Field);
        Self {
            head: head.retained().with_qos(qos).in_class(class),
            reading,
        }
    }

    /// Where it is published, and how; its payload is empty.
    pub fn head(&self) -> &Message {
        &self.head
    }
}

impl GatewayMessage {
    /// Where it is published.
    pub fn topic(&self) -> &TopicName {
        match self {
            Self::Message(message) => &message.topic,
            Self::Reading(reading) => &reading.head.topic,
        }
    }

    /// The message for local clients, at the moment `now`.
    pub fn into_message(self, now: Timestamp) -> Message {
        match self {
            Self::Message(message) => message,
            Self::Reading(ReadingMessage { head, reading }) => Message {
                payload: json::encode_at(&reading, now),
                ..head
            },
        }
    }
}

impl From<Message> for GatewayMessage {
    fn from(message: Message) -> Self {
        Self::Message(message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_gateway_itself_says_below_its_own_topics_is_its_status() {
        let check = |topic: &'static str, origin: Origin, is_status: bool| {
            assert_eq!(
                Message::new(TopicName::new(topic).unwrap(), "", origin).is_status(),
                is_status,
                "{topic} {origin:?}"
            );
        };
        check("$SYS/wellhead/report", Origin::Own, true);
        for origin in [Origin::Client, Origin::Field, Origin::Uplink(0)] {
            check("$SYS/wellhead/report", origin, false);
        }
        for topic in [
            "$SYS/broker/uptime",
            "$SYS/wellheads/x",
            "$SYS/wellhead",
            "x/$SYS/wellhead/report",
        ] {
            check(topic, Origin::Own, false);
        }
    }
}
