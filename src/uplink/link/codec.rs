//! Packets of an uplink as rumqttc's codecs write and read them, for MQTT 5 and 3.1.1.

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::v5;
use tokio_util::codec::{Decoder, Encoder};

use super::{Accepted, Command, Incoming, LinkError, Received, Start, identifiers};
use crate::log::Printable;
use crate::mqtt::{self, Packet, PacketId, Progress, Properties, QoS, ReasonCode, TopicName};
use crate::uplink::Protocol;
use crate::uplink::presence::Will;
use crate::uplink::session::OTHER_IDS;
use crate::uplink::subscriptions::Asked;

/// Largest packet taken from a remote, in bytes.
const MAX_INCOMING: u32 = 16 << 20;
/// Messages of the remote that may be unacknowledged: as many as an uplink remembers, with room to spare.
const RECEIVE_MAXIMUM: u16 = 100;
/// QoS 2 messages in flight in MQTT 3.1.1, where a remote cannot tell how many it takes, nor say that it did not take one: mosquitto 2.0.11
/// answers the 21st of a session with PUBREC and drops it. Less than half of that, because two gateways may share a session by mistake.
const MAX_EXACT_UNTOLD: usize = 8;
/// Bytes of a text of the remote that are shown.
const MOST_SAID: usize = 128;

/// The codec of one protocol version.
pub(super) enum Codec {
    V4(v4::Codec),
    V5(v5::Codec),
}

impl Codec {
    pub(super) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::V311 => Self::V4(v4::Codec {
                max_incoming_size: MAX_INCOMING as usize,
                max_outgoing_size: usize::MAX,
            }),
            Protocol::V5 => Self::V5(v5::Codec {
                max_incoming_size: Some(MAX_INCOMING),
                max_outgoing_size: None,
            }),
        }
    }
}

impl Codec {
    /// The next packet in `buffer`, if it is whole.
    pub(super) fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<Incoming>, LinkError> {
        let Some(length) = frame_length(buffer)? else {
            return Ok(None);
        };
        if length > MAX_INCOMING as usize {
            return Err(LinkError::Broken(format!(
                "the remote sent a packet of {length} bytes, more than the {MAX_INCOMING} it was told"
            )));
        }
        if buffer.len() < length {
            return Ok(None);
        }
        let mut frame = buffer.split_to(length);
        // Whole, so that what the codec calls incomplete is wrong.
        let incomplete = || not_mqtt(&"a packet that contradicts its length");
        match self {
            // The codec does not tell what a refusal says.
            Self::V4(_) if is_refusal(&frame) => refused(frame, mqtt::Version::V311).map(Some),
            Self::V5(_) if is_refusal(&frame) => refused(frame, mqtt::Version::V5).map(Some),
            Self::V4(codec) => from_v4(
                codec
                    .decode(&mut frame)
                    .map_err(|e| not_mqtt(&e))?
                    .ok_or_else(incomplete)?,
            )
            .map(Some),
            // The codec cannot read the short forms of DISCONNECT, nor AUTH.
            Self::V5(_) if frame.first() == Some(&0xE0) => Ok(Some(disconnected(frame))),
            Self::V5(codec) => {
                let is_publish = frame.first().is_some_and(|first| first >> 4 == 3);
                let taken = if is_publish {
                    identifiers::taken_out(&frame)
                } else {
                    None
                };
                let (mut frame, identifiers) = taken.unwrap_or_else(|| (frame, Vec::new()));
                let mut incoming = from_v5(
                    codec
                        .decode(&mut frame)
                        .map_err(|e| not_mqtt(&e))?
                        .ok_or_else(incomplete)?,
                )?;
                if let Incoming::Publish(received) = &mut incoming {
                    received.subscriptions = identifiers;
                }
                Ok(Some(incoming))
            }
        }
    }

    /// Appends a packet to `buffer`. `alias` is that of the topic, and whether the packet sets it.
    pub(super) fn encode(
        &mut self,
        command: Command,
        alias: Option<(u16, bool)>,
        buffer: &mut BytesMut,
    ) -> Result<(), LinkError> {
        let failed = |e: &dyn std::fmt::Display| {
            LinkError::Broken(format!("a packet cannot be written: {e}"))
        };
        match self {
            Self::V4(codec) => codec.encode(to_v4(command), buffer).map_err(|e| failed(&e)),
            Self::V5(codec) => codec
                .encode(to_v5(command, alias), buffer)
                .map_err(|e| failed(&e)),
        }
    }
}

/// Bytes of the packet that begins here, header and all; `None` if even that is not known yet.
fn frame_length(buffer: &[u8]) -> Result<Option<usize>, LinkError> {
    let mut length = 0;
    for (index, byte) in buffer.iter().skip(1).take(4).enumerate() {
        length |= usize::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(2 + index + length));
        }
    }
    if buffer.len() > 4 {
        Err(not_mqtt(&"a length of more than four bytes"))
    } else {
        Ok(None)
    }
}

/// What follows the length of a packet.
fn body(frame: &[u8]) -> &[u8] {
    let more = frame
        .iter()
        .skip(1)
        .take(3)
        .take_while(|byte| **byte & 0x80 != 0)
        .count();
    frame.get(2 + more..).unwrap_or_default()
}

/// CONNACK with any code but success.
fn is_refusal(frame: &[u8]) -> bool {
    frame.first() == Some(&0x20) && body(frame).get(1).is_some_and(|code| *code != 0)
}

/// A packet as this program's own codec reads it.
fn packet(mut frame: BytesMut, version: mqtt::Version) -> Result<Packet, LinkError> {
    match mqtt::Decoder::client(version, MAX_INCOMING as usize).decode(&mut frame) {
        Ok(Progress::Packet(packet)) => Ok(packet),
        Ok(Progress::NeedMore) => Err(not_mqtt(&"a packet that contradicts its length")),
        Err(error) => Err(not_mqtt(&error)),
    }
}

fn refused(frame: BytesMut, version: mqtt::Version) -> Result<Incoming, LinkError> {
    let code = ReasonCode(body(&frame).get(1).copied().unwrap_or(0x80));
    let (reason, said) = match packet(frame, version) {
        Ok(Packet::ConnAck(connack)) => (connack.reason, said(&connack.properties)),
        // Its properties are wrong; its code is enough.
        _ => (code, String::new()),
    };
    Ok(Incoming::Refused(
        reason,
        format!("{reason}; {}{said}", remedy(reason)),
    ))
}

/// DISCONNECT: the reason is left out if it is 0 [MQTT-3.14.2].
fn disconnected(frame: BytesMut) -> Incoming {
    let code = ReasonCode(body(&frame).first().copied().unwrap_or(0));
    let (reason, said) = match packet(frame, mqtt::Version::V5) {
        Ok(Packet::Disconnect(end)) => (end.reason, said(&end.properties)),
        _ => (code, String::new()),
    };
    Incoming::Disconnect(
        reason,
        format!("the remote broker disconnected: {reason}{said}"),
    )
}

/// What a remote adds to its reason, as far as a line has room for it.
fn said(properties: &Properties) -> String {
    let short = |text: &str| Printable(&Printable::cut(text, MOST_SAID)).to_string();
    let told = properties
        .reason_string
        .as_deref()
        .filter(|text| !text.is_empty());
    let other = properties
        .server_reference
        .as_deref()
        .filter(|text| !text.is_empty());
    let told = told.map_or_else(String::new, |text| format!("; it says: {}", short(text)));
    let other = other.map_or_else(String::new, |text| {
        format!("; it names another server: {}", short(text))
    });
    format!("{told}{other}")
}

fn not_mqtt(error: &dyn std::fmt::Display) -> LinkError {
    LinkError::Broken(format!(
        "the remote sent something that is not MQTT: {error}"
    ))
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
        v4::Packet::ConnAck(connack) => Incoming::Accepted(Accepted {
            session_present: connack.session_present,
            receive_maximum: u16::MAX,
            max_exact: MAX_EXACT_UNTOLD,
            max_packet: None,
            keep_alive: None,
            max_qos: QoS::ExactlyOnce,
            retain_available: true,
            wildcards_available: true,
            topic_aliases: 0,
            identifiers_available: false,
            keeps_retained_quiet: false,
        }),
        v4::Packet::Publish(publish) => Incoming::Publish(Received {
            topic: match topic_name(publish.topic.into()) {
                Ok(topic) => topic,
                Err(_) => {
                    return Ok(Incoming::Unusable(
                        PacketId::new(publish.pkid),
                        qos_of(publish.qos as u8),
                    ));
                }
            },
            payload: publish.payload,
            qos: qos_of(publish.qos as u8),
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            properties: Properties::default(),
            subscriptions: Vec::new(),
        }),
        v4::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, ReasonCode::SUCCESS),
        v4::Packet::PubRec(ack) => Incoming::PubRec(packet_id(ack.pkid)?, ReasonCode::SUCCESS),
        v4::Packet::PubRel(ack) => Incoming::PubRel(packet_id(ack.pkid)?),
        v4::Packet::PubComp(ack) => Incoming::PubComp(packet_id(ack.pkid)?),
        v4::Packet::SubAck(ack) => {
            let granted = |code: &v4::SubscribeReasonCode| match code {
                v4::SubscribeReasonCode::Success(qos) => Some(qos_of(*qos as u8)),
                v4::SubscribeReasonCode::Failure => None,
            };
            suback(ack.pkid, ack.return_codes.iter().map(granted).collect())
        }
        v4::Packet::PingResp => Incoming::PingResp,
        _ => Incoming::Other,
    })
}

/// SUBACK of `receive`, or of the question what state is retained.
fn suback(packet_id: u16, granted: Vec<Option<QoS>>) -> Incoming {
    if packet_id == subscribe_id(LAST_SUBSCRIBE) {
        Incoming::QuestionAck(granted)
    } else {
        Incoming::SubAck(granted)
    }
}

fn from_v5(packet: v5::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) => Incoming::Accepted(accepted(&connack)?),
        v5::Packet::Publish(publish) => Incoming::Publish(Received {
            topic: match topic_name(publish.topic) {
                Ok(topic) => topic,
                Err(_) => {
                    return Ok(Incoming::Unusable(
                        PacketId::new(publish.pkid),
                        qos_of(publish.qos as u8),
                    ));
                }
            },
            payload: publish.payload,
            qos: qos_of(publish.qos as u8),
            retain: publish.retain,
            packet_id: PacketId::new(publish.pkid),
            subscriptions: Vec::new(),
            properties: publish
                .properties
                .map(received_properties)
                .unwrap_or_default(),
        }),
        v5::Packet::PubAck(ack) => Incoming::PubAck(packet_id(ack.pkid)?, reason_of(ack.reason)),
        v5::Packet::PubRec(ack) => {
            Incoming::PubRec(packet_id(ack.pkid)?, reason_of_receipt(ack.reason))
        }
        v5::Packet::PubRel(ack) => Incoming::PubRel(packet_id(ack.pkid)?),
        v5::Packet::PubComp(ack) => Incoming::PubComp(packet_id(ack.pkid)?),
        v5::Packet::SubAck(ack) => {
            let granted = |code: &v5::SubscribeReasonCode| match code {
                v5::SubscribeReasonCode::Success(qos) => Some(qos_of(*qos as u8)),
                _ => None,
            };
            suback(ack.pkid, ack.return_codes.iter().map(granted).collect())
        }
        v5::Packet::PingResp(_) => Incoming::PingResp,
        _ => Incoming::Other,
    })
}

/// What the remote allows. Values that the standard forbids are protocol errors [MQTT-3.2.2.3].
fn accepted(connack: &v5::ConnAck) -> Result<Accepted, LinkError> {
    let properties = connack.properties.as_ref();
    let forbidden = |what: &str| {
        LinkError::Broken(format!(
            "the remote breaks the protocol: {what} in its CONNACK"
        ))
    };
    if properties.and_then(|p| p.max_packet_size) == Some(0) {
        return Err(forbidden("a Maximum Packet Size of 0"));
    }
    if properties.and_then(|p| p.receive_max) == Some(0) {
        return Err(forbidden("a Receive Maximum of 0"));
    }
    if properties
        .and_then(|p| p.max_qos)
        .is_some_and(|most| most > 1)
    {
        return Err(forbidden("a Maximum QoS above 1"));
    }
    Ok(Accepted {
        session_present: connack.session_present,
        receive_maximum: properties.and_then(|p| p.receive_max).unwrap_or(u16::MAX),
        max_exact: usize::MAX,
        max_packet: properties.and_then(|p| p.max_packet_size),
        keep_alive: properties.and_then(|p| p.server_keep_alive),
        max_qos: properties
            .and_then(|p| p.max_qos)
            .and_then(QoS::from_bits)
            .unwrap_or(QoS::ExactlyOnce),
        retain_available: properties.and_then(|p| p.retain_available) != Some(0),
        wildcards_available: properties.and_then(|p| p.wildcard_subscription_available) != Some(0),
        topic_aliases: properties.and_then(|p| p.topic_alias_max).unwrap_or(0),
        identifiers_available: properties.and_then(|p| p.subscription_identifiers_available)
            != Some(0),
        keeps_retained_quiet: true,
    })
}

fn qos_of(bits: u8) -> QoS {
    QoS::from_bits(bits).unwrap_or(QoS::AtMostOnce)
}

/// What a person can do about a refusal.
fn remedy(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::NOT_AUTHORIZED => {
            "check `user`, `password` and the client certificate of the uplink"
        }
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => "choose another `client_id`",
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => {
            "set `protocol` of the uplink to 3.1.1 (or to 5)"
        }
        ReasonCode::USE_ANOTHER_SERVER | ReasonCode::SERVER_MOVED => "change `to` of the uplink",
        ReasonCode::SERVER_UNAVAILABLE
        | ReasonCode::SERVER_BUSY
        | ReasonCode::CONNECTION_RATE_EXCEEDED => "the gateway tries again by itself",
        _ => "ask whoever runs it",
    }
}

fn reason_of_receipt(reason: v5::PubRecReason) -> ReasonCode {
    use v5::PubRecReason as R;
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

fn received_properties(from: v5::PublishProperties) -> Properties {
    let mut properties = Properties::default();
    let fields = properties.edit();
    fields.payload_is_text = from.payload_format_indicator.map(|byte| byte == 1);
    fields.message_expiry = from.message_expiry_interval;
    fields.content_type = from.content_type.map(Into::into);
    // One that is no topic here cannot be answered, and is no reason to refuse the message for ever.
    fields.response_topic = from
        .response_topic
        .and_then(|topic| topic_name(topic.into()).ok());
    fields.correlation_data = from.correlation_data;
    fields.user = from
        .user_properties
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    properties
}

fn sent_properties(
    from: &Properties,
    number: Option<String>,
    alias: Option<u16>,
) -> Option<v5::PublishProperties> {
    if from.is_empty() && number.is_none() && alias.is_none() {
        return None;
    }
    let mut user_properties: Vec<(String, String)> = from
        .user
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect();
    user_properties.extend(number.map(|number| ("seq".to_owned(), number)));
    Some(v5::PublishProperties {
        payload_format_indicator: from.payload_is_text.map(u8::from),
        message_expiry_interval: from.message_expiry,
        topic_alias: alias,
        response_topic: from.response_topic.as_ref().map(ToString::to_string),
        correlation_data: from.correlation_data.clone(),
        user_properties,
        subscription_identifiers: Vec::new(),
        content_type: from.content_type.as_ref().map(ToString::to_string),
    })
}

fn to_v4(command: Command) -> v4::Packet {
    match command {
        Command::Connect {
            client_id,
            keep_alive,
            login,
            start,
            will,
            ..
        } => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.clean_session = start == Start::Clean;
            connect.login = login.map(|(user, password)| v4::Login::new(user, password.0));
            connect.last_will = will.map(|will| v4::LastWill {
                topic: will.topic.to_string(),
                message: will.payload,
                qos: qos_v4(will.qos),
                retain: will.retain,
            });
            v4::Packet::Connect(connect)
        }
        Command::State { packet_id, message } => to_v4(Command::Publish {
            packet_id,
            dup: false,
            message,
            number: None,
        }),
        Command::Publish {
            packet_id,
            dup,
            message,
            ..
        } => {
            let mut publish =
                v4::Publish::new(message.topic.as_str(), qos_v4(message.qos), Vec::new());
            publish.payload = message.payload;
            publish.retain = message.retain;
            publish.dup = dup;
            publish.pkid = packet_id.map_or(0, PacketId::get);
            v4::Packet::Publish(publish)
        }
        Command::PubAck(id) => v4::Packet::PubAck(v4::PubAck::new(id.get())),
        Command::PubRec(id) => v4::Packet::PubRec(v4::PubRec::new(id.get())),
        Command::PubRel(id) => v4::Packet::PubRel(v4::PubRel::new(id.get())),
        Command::PubComp(id) => v4::Packet::PubComp(v4::PubComp::new(id.get())),
        Command::Subscribe(Asked {
            number, filters, ..
        }) => {
            let filters = filters.iter().map(|wanted| {
                v4::SubscribeFilter::new(wanted.filter.as_str().to_owned(), qos_v4(wanted.qos))
            });
            let mut subscribe = v4::Subscribe::new_many(filters);
            subscribe.pkid = subscribe_id(number);
            v4::Packet::Subscribe(subscribe)
        }
        Command::AskForState(topic) => {
            let mut subscribe = v4::Subscribe::new(topic.to_string(), mqttbytes::QoS::AtMostOnce);
            subscribe.pkid = subscribe_id(LAST_SUBSCRIBE);
            v4::Packet::Subscribe(subscribe)
        }
        Command::Unsubscribe(number, topics) => v4::Packet::Unsubscribe(v4::Unsubscribe {
            pkid: unsubscribe_id(number),
            topics,
        }),
        Command::Ping => v4::Packet::PingReq,
        Command::Disconnect => v4::Packet::Disconnect,
    }
}

fn qos_v4(qos: QoS) -> mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
    }
}

fn qos_v5(qos: QoS) -> mqttbytes5::QoS {
    match qos {
        QoS::AtMostOnce => mqttbytes5::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttbytes5::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttbytes5::QoS::ExactlyOnce,
    }
}

/// The number of the SUBSCRIBE that asks for a state.
const LAST_SUBSCRIBE: u16 = OTHER_IDS / 2 - 1;

/// The identifiers of SUBSCRIBE and UNSUBSCRIBE packets come from the [`OTHER_IDS`] that the session never gives to a message.
fn subscribe_id(number: u16) -> u16 {
    u16::MAX - number % (OTHER_IDS / 2)
}

fn unsubscribe_id(number: u16) -> u16 {
    u16::MAX - OTHER_IDS / 2 - number % (OTHER_IDS / 2)
}

fn will_v5(will: Will) -> v5::LastWill {
    let properties = v5::LastWillProperties {
        delay_interval: Some(will.delay).filter(|delay| *delay > 0),
        payload_format_indicator: None,
        message_expiry_interval: None,
        content_type: None,
        response_topic: None,
        correlation_data: None,
        user_properties: Vec::new(),
    };
    v5::LastWill {
        topic: bytestring::ByteString::from(will.topic).into_bytes(),
        message: will.payload,
        qos: qos_v5(will.qos),
        retain: will.retain,
        properties: Some(properties).filter(|properties| properties.delay_interval.is_some()),
    }
}

fn to_v5(command: Command, alias: Option<(u16, bool)>) -> v5::Packet {
    match command {
        Command::Connect {
            client_id,
            keep_alive,
            login,
            start,
            will,
            session_expiry,
        } => {
            let mut properties = v5::ConnectProperties::new();
            properties.session_expiry_interval = (start == Start::Resume).then_some(session_expiry);
            properties.max_packet_size = Some(MAX_INCOMING);
            properties.receive_maximum = Some(RECEIVE_MAXIMUM);
            let connect = v5::Connect {
                keep_alive,
                client_id,
                clean_start: start == Start::Clean,
                properties: Some(properties),
            };
            v5::Packet::Connect(
                connect,
                will.map(will_v5),
                login.map(|(user, password)| v5::Login::new(user, password.0)),
            )
        }
        Command::State { packet_id, message } => to_v5(
            Command::Publish {
                packet_id,
                dup: false,
                message,
                number: None,
            },
            None,
        ),
        Command::Publish {
            packet_id,
            dup,
            message,
            number,
        } => {
            let is_known = alias.is_some_and(|(_, is_new)| !is_new);
            v5::Packet::Publish(v5::Publish {
                dup,
                qos: qos_v5(message.qos),
                retain: message.retain,
                topic: if is_known {
                    Bytes::new()
                } else {
                    bytestring::ByteString::from(message.topic).into_bytes()
                },
                pkid: packet_id.map_or(0, PacketId::get),
                payload: message.payload,
                properties: sent_properties(
                    &message.properties,
                    number,
                    alias.map(|(number, _)| number),
                ),
            })
        }
        Command::PubAck(id) => v5::Packet::PubAck(v5::PubAck::new(id.get(), None)),
        Command::PubRec(id) => v5::Packet::PubRec(v5::PubRec::new(id.get(), None)),
        Command::PubRel(id) => v5::Packet::PubRel(v5::PubRel::new(id.get(), None)),
        Command::PubComp(id) => v5::Packet::PubComp(v5::PubComp::new(id.get(), None)),
        Command::Subscribe(Asked {
            number,
            filters,
            identifier,
        }) => {
            let properties = identifier
                .and_then(|identifier| usize::try_from(identifier).ok())
                .map(|id| v5::SubscribeProperties {
                    id: Some(id),
                    user_properties: Vec::new(),
                });
            let filters = filters.iter().map(|wanted| {
                let mut filter = v5::Filter::new(wanted.filter.as_str(), qos_v5(wanted.qos));
                // Not possible with a shared subscription [MQTT-3.8.3-4].
                filter.nolocal = !wanted.filter.is_shared();
                filter.preserve_retain = true;
                // What is retained comes once, not with every connection.
                filter.retain_forward_rule = v5::RetainForwardRule::OnNewSubscribe;
                filter
            });
            let mut subscribe = v5::Subscribe::new_many(filters, properties);
            subscribe.pkid = subscribe_id(number);
            v5::Packet::Subscribe(subscribe)
        }
        Command::AskForState(topic) => {
            let mut filter = v5::Filter::new(topic.to_string(), mqttbytes5::QoS::AtMostOnce);
            (filter.nolocal, filter.preserve_retain) = (true, true);
            filter.retain_forward_rule = v5::RetainForwardRule::OnEverySubscribe;
            let mut subscribe = v5::Subscribe::new_many([filter], None);
            subscribe.pkid = subscribe_id(LAST_SUBSCRIBE);
            v5::Packet::Subscribe(subscribe)
        }
        Command::Unsubscribe(number, filters) => v5::Packet::Unsubscribe(v5::Unsubscribe {
            pkid: unsubscribe_id(number),
            filters,
            properties: None,
        }),
        Command::Ping => v5::Packet::PingReq(v5::PingReq),
        Command::Disconnect => v5::Packet::Disconnect(v5::Disconnect::new(
            v5::DisconnectReasonCode::NormalDisconnection,
        )),
    }
}
