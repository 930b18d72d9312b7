//! Packets of MQTT 5 as rumqttc has them.

use bytes::Bytes;
use rumqttc::v5::mqttbytes::{self, v5};

use super::{
    Alias, MAX_INCOMING, STATE_SUBSCRIBE, packet_id, qos_of, suback, subscribe_id, topic_name,
    unsubscribe_id,
};
use crate::mqtt::{PacketId, Properties, QoS, ReasonCode};
use crate::outbox::Outgoing;
use crate::uplink::failure::LinkError;
use crate::uplink::link::{Accepted, Command, Incoming, Opening, Received, Start};
use crate::uplink::presence::PresenceWill;
use crate::uplink::subscriptions::SubscribeRequest;

/// Messages of the remote that may be unacknowledged: as many as an uplink remembers, with room to
/// spare.
const RECEIVE_MAXIMUM: u16 = 100;

/// A packet of the remote.
pub(super) fn incoming(packet: v5::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v5::Packet::ConnAck(connack) => Incoming::Accepted(accepted(&connack)?),
        v5::Packet::Publish(publish) => published(publish),
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

fn published(publish: v5::Publish) -> Incoming {
    let (packet_id, qos) = (PacketId::new(publish.pkid), qos_of(publish.qos as u8));
    let Ok(topic) = topic_name(publish.topic) else {
        return Incoming::Unusable(packet_id, qos);
    };
    Incoming::Publish(Received {
        topic,
        payload: publish.payload,
        qos,
        retain: publish.retain,
        is_repeated: publish.dup,
        packet_id,
        subscriptions: Vec::new(),
        properties: publish
            .properties
            .map(received_properties)
            .unwrap_or_default(),
    })
}

/// The limits of the remote. Values that the standard forbids are protocol errors [MQTT-3.2.2.3].
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
    // One that is no topic here cannot be answered, and is no reason to refuse the message for
    // ever.
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

/// The packet of a command; `alias` is that of the topic of PUBLISH.
// A table of the packets.
pub(super) fn outgoing(command: Command, alias: Option<Alias>) -> v5::Packet {
    match command {
        Command::Connect(opening) => connect(*opening),
        Command::Own { packet_id, message } => {
            v5::Packet::Publish(publish(packet_id, message, None, None))
        }
        Command::Publish {
            packet_id,
            dup,
            message,
            number,
        } => v5::Packet::Publish(v5::Publish {
            dup,
            ..publish(packet_id, message, number, alias)
        }),
        Command::PubAck(id) => v5::Packet::PubAck(v5::PubAck::new(id.get(), None)),
        Command::PubRec(id) => v5::Packet::PubRec(v5::PubRec::new(id.get(), None)),
        Command::PubRel(id) => v5::Packet::PubRel(v5::PubRel::new(id.get(), None)),
        Command::PubComp(id) => v5::Packet::PubComp(v5::PubComp::new(id.get(), None)),
        Command::Subscribe(asked) => v5::Packet::Subscribe(subscribe(&asked)),
        Command::AskForState(topic) => {
            let mut filter = v5::Filter::new(topic.to_string(), mqttbytes::QoS::AtMostOnce);
            (filter.nolocal, filter.preserve_retain) = (true, true);
            filter.retain_forward_rule = v5::RetainForwardRule::OnEverySubscribe;
            let mut subscribe = v5::Subscribe::new_many([filter], None);
            subscribe.pkid = subscribe_id(STATE_SUBSCRIBE);
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

fn connect(opening: Opening) -> v5::Packet {
    let hello = opening.hello;
    let mut properties = v5::ConnectProperties::new();
    properties.session_expiry_interval =
        (hello.start == Start::Resume).then_some(opening.session_expiry);
    properties.max_packet_size = Some(MAX_INCOMING);
    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
    let connect = v5::Connect {
        keep_alive: opening.keep_alive,
        client_id: opening.client_id,
        clean_start: hello.start == Start::Clean,
        properties: Some(properties),
    };
    let login = hello
        .login
        .map(|(user, password)| v5::Login::new(user, password.0));
    v5::Packet::Connect(connect, hello.will.map(last_will), login)
}

fn last_will(will: PresenceWill) -> v5::LastWill {
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
        qos: qos(will.qos),
        retain: will.retain,
        properties: Some(properties).filter(|properties| properties.delay_interval.is_some()),
    }
}

fn publish(
    packet_id: Option<PacketId>,
    message: Outgoing,
    number: Option<String>,
    alias: Option<Alias>,
) -> v5::Publish {
    let is_known = alias.is_some_and(|alias| !alias.is_new);
    let alias = alias.map(|alias| alias.number);
    v5::Publish {
        dup: false,
        qos: qos(message.qos),
        retain: message.retain,
        topic: if is_known {
            Bytes::new()
        } else {
            bytestring::ByteString::from(message.topic).into_bytes()
        },
        pkid: packet_id.map_or(0, PacketId::get),
        payload: message.payload.encode(),
        properties: sent_properties(&message.properties, number, alias),
    }
}

fn subscribe(asked: &SubscribeRequest) -> v5::Subscribe {
    let properties = asked
        .identifier
        .and_then(|identifier| usize::try_from(identifier).ok())
        .map(|id| v5::SubscribeProperties {
            id: Some(id),
            user_properties: Vec::new(),
        });
    let filters = asked.filters.iter().map(|wanted| {
        let mut filter = v5::Filter::new(wanted.filter.as_str(), qos(wanted.qos));
        // Not possible with a shared subscription [MQTT-3.8.3-4].
        filter.nolocal = !wanted.filter.is_shared();
        filter.preserve_retain = true;
        // What is retained comes once, not with every connection.
        filter.retain_forward_rule = v5::RetainForwardRule::OnNewSubscribe;
        filter
    });
    let mut subscribe = v5::Subscribe::new_many(filters, properties);
    subscribe.pkid = subscribe_id(asked.number);
    subscribe
}

fn qos(qos: QoS) -> mqttbytes::QoS {
    match qos {
        QoS::AtMostOnce => mqttbytes::QoS::AtMostOnce,
        QoS::AtLeastOnce => mqttbytes::QoS::AtLeastOnce,
        QoS::ExactlyOnce => mqttbytes::QoS::ExactlyOnce,
    }
}
