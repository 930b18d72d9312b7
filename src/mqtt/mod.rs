//! MQTT on the wire: one packet model for 3.1, 3.1.1 and 5.0, its codec, topics. No I/O, no state,
//! no clock.
//!
//! Invariants:
//! * A packet that was decoded is well formed: text is UTF-8 without U+0000, topic names hold no
//!   wildcard, topic filters are valid, packet identifiers are not zero, reserved bits were right,
//!   properties are allowed in their packet and are there once. Topics may have more levels than
//!   are allowed: the receiver of the packet refuses them, because the connection need not end.
//! * "Incomplete" is only ever said of a frame whose bytes have not all arrived; everything else is
//!   an error with the reason code that the standard prescribes.
//! * Decoding never panics and never allocates more than the frame it was given.

mod client;
mod decode;
mod encode;
mod mapping;
mod mapping_error;
mod properties;
mod reason;
mod topic;
mod wire;

use std::num::NonZeroU16;

use bytes::Bytes;
use bytestring::ByteString;

pub use client::{ClientLogin, MqttClient};
pub use decode::{Decoder, Progress, claimed_version};
pub use encode::{PublishContent, PublishFlags, PublishTemplate, SizedPublish, encode};
pub use mapping::Mapping;
pub use mapping_error::MappingError;
pub use properties::{Extras, Fields, Place, Properties, decode_properties, encode_properties};
pub use reason::ReasonCode;
pub use topic::{TopicError, TopicFilter, TopicName};
pub use wire::DecodeError;

/// A packet identifier; never zero [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// The protocol versions in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`, level 3).
    V31,
    /// MQTT 3.1.1 (level 4).
    V311,
    /// MQTT 5.0 (level 5).
    V5,
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// At most once.
    #[default]
    AtMostOnce = 0,
    /// At least once.
    AtLeastOnce = 1,
    /// Exactly once.
    ExactlyOnce = 2,
}

impl QoS {
    /// The value of the two QoS bits; `None` for 3.
    pub fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Any control packet.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    /// Client asks for a session.
    Connect(Box<Connect>),
    /// Server answers.
    ConnAck(ConnAck),
    /// An application message.
    Publish(Publish),
    /// QoS 1 acknowledgement.
    PubAck(Ack),
    /// QoS 2, first answer.
    PubRec(Ack),
    /// QoS 2, release.
    PubRel(Ack),
    /// QoS 2, done.
    PubComp(Ack),
    /// Client subscribes.
    Subscribe(Subscribe),
    /// Server answers, a code per filter.
    SubAck(Grants),
    /// Client unsubscribes.
    Unsubscribe(Unsubscribe),
    /// Server answers; the codes are on the wire in MQTT 5 only.
    UnsubAck(Grants),
    /// Keep alive.
    PingReq,
    /// Answer to it.
    PingResp,
    /// Orderly end.
    Disconnect(Disconnect),
    /// MQTT 5 enhanced authentication.
    Auth(Disconnect),
}

impl Packet {
    /// The name in the standard.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect(_) => "CONNECT",
            Self::ConnAck(_) => "CONNACK",
            Self::Publish(_) => "PUBLISH",
            Self::PubAck(_) => "PUBACK",
            Self::PubRec(_) => "PUBREC",
            Self::PubRel(_) => "PUBREL",
            Self::PubComp(_) => "PUBCOMP",
            Self::Subscribe(_) => "SUBSCRIBE",
            Self::SubAck(_) => "SUBACK",
            Self::Unsubscribe(_) => "UNSUBSCRIBE",
            Self::UnsubAck(_) => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect(_) => "DISCONNECT",
            Self::Auth(_) => "AUTH",
        }
    }
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    /// Protocol name and level in one.
    pub version: Version,
    /// The highest bit of the level: what bridges (mosquitto's `try_private`) say before MQTT 5,
    /// where they can ask for No Local and Retain As Published themselves.
    pub is_bridge: bool,
    /// `Clean Session` before MQTT 5, `Clean Start` in it.
    pub clean_start: bool,
    /// Seconds; 0 is off.
    pub keep_alive: u16,
    /// May be empty.
    pub client_id: ByteString,
    /// Published when the connection ends without DISCONNECT.
    pub will: Option<Will>,
    /// User name.
    pub username: Option<ByteString>,
    /// Password; any bytes.
    pub password: Option<Bytes>,
    /// MQTT 5.
    pub properties: Properties,
}

/// The will message of a CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    /// The topic it is published to.
    pub topic: TopicName,
    /// Its payload.
    pub payload: Bytes,
    /// Its QoS.
    pub qos: QoS,
    /// Whether it is retained.
    pub retain: bool,
    /// MQTT 5; the delay is among them.
    pub properties: Properties,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck {
    /// The server had a session for this client.
    pub session_present: bool,
    /// Success or the reason of the refusal (MQTT 5 code; the codec maps it for older versions).
    pub reason: ReasonCode,
    /// MQTT 5.
    pub properties: Properties,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    /// A repeated delivery.
    pub dup: bool,
    /// Its QoS.
    pub qos: QoS,
    /// Retained, or to be retained.
    pub retain: bool,
    /// `None` only when a topic alias stands for it (MQTT 5).
    pub topic: Option<TopicName>,
    /// Present exactly for QoS 1 and 2 [MQTT-2.2.1-2].
    pub packet_id: Option<PacketId>,
    /// MQTT 5.
    pub properties: Properties,
    /// The message.
    pub payload: Bytes,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    /// The identifier of the message.
    pub packet_id: PacketId,
    /// MQTT 5; success in older versions.
    pub reason: ReasonCode,
    /// MQTT 5.
    pub properties: Properties,
}

impl Ack {
    /// An acknowledgement without properties.
    pub fn new(packet_id: PacketId, reason: ReasonCode) -> Self {
        Self {
            packet_id,
            reason,
            properties: Properties::default(),
        }
    }
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe {
    /// Echoed in the answer.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Vec<(TopicFilter, SubscribeOptions)>,
    /// MQTT 5.
    pub properties: Properties,
}

/// The options of a filter in SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SubscribeOptions {
    /// Highest QoS wanted.
    pub qos: QoS,
    /// MQTT 5: not the client's own messages.
    pub no_local: bool,
    /// MQTT 5: keep the retain flag as it was published.
    pub retain_as_published: bool,
    /// MQTT 5: which retained messages to send at once.
    pub retain_handling: RetainHandling,
}

/// MQTT 5 Retain Handling.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RetainHandling {
    /// At every SUBSCRIBE; the only behaviour before MQTT 5.
    #[default]
    Always,
    /// Only if the subscription is new.
    IfNew,
    /// Not at all.
    Never,
}

/// SUBACK and UNSUBACK: one code per filter, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Grants {
    /// That of the request.
    pub packet_id: PacketId,
    /// Granted QoS (0, 1, 2) or a failure.
    pub reasons: Vec<ReasonCode>,
    /// MQTT 5.
    pub properties: Properties,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe {
    /// Echoed in the answer.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: Vec<TopicFilter>,
    /// MQTT 5.
    pub properties: Properties,
}

/// DISCONNECT and AUTH.
#[derive(Debug, Clone, PartialEq)]
pub struct Disconnect {
    /// Why.
    pub reason: ReasonCode,
    /// MQTT 5.
    pub properties: Properties,
}

impl Disconnect {
    /// Without properties.
    pub fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            properties: Properties::default(),
        }
    }
}
