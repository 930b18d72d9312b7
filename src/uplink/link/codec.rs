//! Packets of an uplink as rumqttc's codecs write and read them, for MQTT 5 and 3.1.1.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5;
use tokio_util::codec::{Decoder, Encoder};

use super::{Accepted, Command, Incoming, LinkError};
use crate::mqtt::{PacketId, Properties, QoS, ReasonCode, TopicName};
use crate::uplink::Protocol;

/// Largest packet taken from a remote, in bytes.
const MAX_INCOMING: u32 = 16 << 20;
/// How long the remote keeps the session of this gateway: a month without a link.
const SESSION_EXPIRY: u32 = 30 * 24 * 3600;

/// The codec of one protocol version.
pub(super) enum Codec {
    V4(v4::Codec),
    V5(v5::Codec),
}

impl Codec {
    pub(super) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::V311 => Self::V4(v4::Codec { max_incoming_size: MAX_INCOMING as usize, max_outgoing_size: usize::MAX }),
            Protocol::V5 => Self::V5(v5::Codec { max_incoming_size: Some(MAX_INCOMING), max_outgoing_size: None }),
        }
    }
}

impl Codec {
    /// The next packet in `buffer`, if it is whole.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, LinkError> {
        match self {
            Self::V4(codec) => codec.decode(buffer).map_err(|e| not_mqtt(&e))?.map(from_v4).transpose(),
            Self::V5(codec) => codec.decode(buffer).map_err(|e| not_mqtt(&e))?.map(from_v5).transpose(),
        }
    }
}

impl Codec {
    /// Appends a packet to `buffer`.
    pub(super) fn encode(&mut self, command: Command, buffer: &mut BytesMut) -> Result<(), LinkError> {
        match self {
            Self::V4(codec) => {
                codec.encode(to_v4(command), buffer).map_err(|e| LinkError::Broken(format!("a packet cannot be written: {e}")))
            }
            Self::V5(codec) => {
                codec.encode(to_v5(command), buffer).map_err(|e| LinkError::Broken(format!("a packet cannot be written: {e}")))
            }
        }
    }
}

fn not_mqtt(error: &dyn std::fmt::Display) -> LinkError {
    LinkError::Broken(format!("the remote sent something that is not MQTT: {error}"))
}

fn topic_name(topic: Bytes) -> Result<TopicName, LinkError> {
    let text = bytestring::ByteString::try_from(topic).map_err(|e| not_mqtt(&e))?;
    TopicName::new(text).map_err(|e| not_mqtt(&e))
}

fn packet_id(id: u16) -> Result<PacketId, LinkError> {
    PacketId::new(id).ok_or_else(|| not_mqtt(&"packet identifier 0"))
}

fn from_v4(packet: v4::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) if connack.code == v4::ConnectReturnCode::Success => Incoming::Accepted(Accepted {
            session_present: connack.session_present,
            receive_maximum: u16::MAX,
            max_packet: None,
            keep_alive: None,
        }),
        v4::Packet::ConnAck(connack) => Incoming::Refused(refusal(&format!("{:?}", connack.code))),
        v4::Packet::Publish(publish) => Incoming::Publish {
            topic: match topic_name(publish.topic.into()) {
                Ok(topic) => topic,
                Err(_) => return Ok(Incoming::Unusable(PacketId::new(publish.pkid))),
            },
            payload: publish.payload,
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            properties: Properties::default(),
        },
        v4::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, ReasonCode::SUCCESS),
        v4::Packet::SubAck(ack) => {
            let failed = ack.return_codes.iter().enumerate().filter(|(_, code)| **code == v4::SubscribeReasonCode::Failure);
            Incoming::SubAck(failed.map(|(index, _)| index).collect())
        }
        _ => Incoming::Other,
    })
}

fn from_v5(packet: v5::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) if connack.code == v5::ConnectReturnCode::Success => Incoming::Accepted(accepted(&connack)),
        v5::Packet::ConnAck(connack) => {
            let told = connack.properties.and_then(|properties| properties.reason_string).unwrap_or_default();
            Incoming::Refused(format!(
                "{}{}{told}",
                refusal(&format!("{:?}", connack.code)),
                if told.is_empty() { "" } else { "; it says: " }
            ))
        }
        v5::Packet::Publish(publish) => Incoming::Publish {
            topic: match topic_name(publish.topic) {
                Ok(topic) => topic,
                Err(_) => return Ok(Incoming::Unusable(PacketId::new(publish.pkid))),
            },
            payload: publish.payload,
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            properties: publish.properties.map(received_properties).transpose()?.unwrap_or_default(),
        },
        v5::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, reason_of(ack.reason)),
        v5::Packet::SubAck(ack) => {
            let failed = ack.return_codes.iter().enumerate().filter(|(_, code)| !matches!(code, v5::SubscribeReasonCode::Success(_)));
            Incoming::SubAck(failed.map(|(index, _)| index).collect())
        }
        v5::Packet::Disconnect(end) => Incoming::Disconnect(format!("{:?}", end.reason_code)),
        _ => Incoming::Other,
    })
}

fn accepted(connack: &v5::ConnAck) -> Accepted {
    let properties = connack.properties.as_ref();
    Accepted {
        session_present: connack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_packet: properties.and_then(|p| p.max_packet_size),
        keep_alive: properties.and_then(|p| p.server_keep_alive),
    }
}

/// The code and what a person can do about it.
fn refusal(code: &str) -> String {
    let remedy = match code {
        "BadUserNamePassword" | "NotAuthorized" => "check `user`, `password` and the client certificate of the uplink",
        "BadClientId" | "ClientIdentifierNotValid" => "choose another `client_id`",
        "RefusedProtocolVersion" | "UnsupportedProtocolVersion" => "set `protocol` of the uplink to 3.1.1 (or to 5)",
        _ => "ask whoever runs it",
    };
    format!("{code}; {remedy}")
}

fn reason_of(reason: v5::PubAckReason) -> ReasonCode {
    use v5::PubAckReason as R;
    match reason {
        R::Success => ReasonCode::SUCCESS,
        R::NoMatchingSubscribers => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        R::UnspecifiedError => ReasonCode::UNSPECIFIED,
        R::ImplementationSpecificError => ReasonCode::IMPLEMENTATION_SPECIFIC,
        R::NotAuthorized => ReasonCode::NOT_AUTHORIZED,
        R::TopicNameInvalid => ReasonCode::TOPIC_NAME_INVALID,
        R::PacketIdentifierInUse => ReasonCode::PACKET_IDENTIFIER_IN_USE,
        R::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
        R::PayloadFormatInvalid => ReasonCode::PAYLOAD_FORMAT_INVALID,
    }
}

fn received_properties(from: v5::PublishProperties) -> Result<Properties, LinkError> {
    let mut properties = Properties::default();
    let fields = properties.edit();
    fields.payload_is_text = from.payload_format_indicator.map(|byte| byte == 1);
    fields.message_expiry = from.message_expiry_interval;
    fields.content_type = from.content_type.map(Into::into);
    fields.response_topic = from.response_topic.map(|topic| topic_name(topic.into())).transpose()?;
    fields.correlation_data = from.correlation_data;
    fields.user = from.user_properties.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
    Ok(properties)
}

fn sent_properties(from: &Properties, number: Option<u64>) -> Option<v5::PublishProperties> {
    if from.is_empty() && number.is_none() {
        return None;
    }
    let mut user_properties: Vec<(String, String)> = from.user.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    user_properties.extend(number.map(|number| ("seq".to_owned(), number.to_string())));
    Some(v5::PublishProperties {
        payload_format_indicator: from.payload_is_text.map(u8::from),
        message_expiry_interval: from.message_expiry,
        topic_alias: None,
        response_topic: from.response_topic.as_ref().map(ToString::to_string),
        correlation_data: from.correlation_data.clone(),
        user_properties,
        subscription_identifiers: Vec::new(),
        content_type: from.content_type.as_ref().map(ToString::to_string),
    })
}

fn to_v4(command: Command) -> v4::Packet {
    match command {
        Command::Connect { client_id, keep_alive, login } => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.clean_session = false;
            connect.login = login.map(|(user, password)| v4::Login::new(user, password));
            v4::Packet::Connect(connect)
        }
        Command::Publish { packet_id, dup, message, .. } => {
            let qos = if message.qos == QoS::AtMostOnce { mqttbytes::QoS::AtMostOnce } else { mqttbytes::QoS::AtLeastOnce };
            let mut publish = v4::Publish::new(message.topic.as_str(), qos, Vec::new());
            publish.payload = message.payload;
            publish.retain = message.retain;
            publish.dup = dup;
            publish.pkid = packet_id.map_or(0, PacketId::get);
            v4::Packet::Publish(publish)
        }
        Command::PubAck(id) => v4::Packet::PubAck(v4::PubAck::new(id.get())),
        Command::Subscribe(filters) => {
            let filters = filters.iter().map(|filter| v4::SubscribeFilter::new(filter.as_str().to_owned(), mqttbytes::QoS::AtLeastOnce));
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = SUBSCRIBE_ID;
            v4::Packet::Subscribe(subscribe)
        }
        Command::Ping => v4::Packet::PingReq,
        Command::Disconnect => v4::Packet::Disconnect,
    }
}

/// The one identifier that the session never gives to a message.
const SUBSCRIBE_ID: u16 = u16::MAX;

fn to_v5(command: Command) -> v5::Packet {
    match command {
        Command::Connect { client_id, keep_alive, login } => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = Some(SESSION_EXPIRY);
            properties.max_packet_size = Some(MAX_INCOMING);
            let connect = v5::Connect { keep_alive, client_id, clean_start: false, properties: Some(properties) };
            v5::Packet::Connect(connect, None, login.map(|(user, password)| v5::Login::new(user, password)))
        }
        Command::Publish { packet_id, dup, message, number } => {
            let qos = if message.qos == QoS::AtMostOnce { mqttbytes5::QoS::AtMostOnce } else { mqttbytes5::QoS::AtLeastOnce };
            v5::Packet::Publish(v5::Publish {
                dup,
                qos,
                retain: message.retain,
                topic: bytestring::ByteString::from(message.topic).into_bytes(),
                pkid: packet_id.map_or(0, PacketId::get),
                payload: message.payload,
                properties: sent_properties(&message.properties, number),
            })
        }
        Command::PubAck(id) => v5::Packet::PubAck(v5::PubAck::new(id.get(), None)),
        Command::Subscribe(filters) => {
            let filters = filters.iter().map(|filter| {
                let mut wanted = v5::Filter::new(filter.as_str(), mqttbytes5::QoS::AtLeastOnce);
                wanted.nolocal = true;
                wanted.preserve_retain = true;
                wanted
            });
            let mut subscribe = v5::Subscribe::new_many(filters, None);
            subscribe.pkid = SUBSCRIBE_ID;
            v5::Packet::Subscribe(subscribe)
        }
        Command::Ping => v5::Packet::PingReq(v5::PingReq),
        Command::Disconnect => v5::Packet::Disconnect(v5::Disconnect::new(v5::DisconnectReasonCode::NormalDisconnection)),
    }
}
