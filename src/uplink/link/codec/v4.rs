//! Packets of MQTT 3.1.1 as rumqttc has them.

use rumqttc::mqttbytes::{self, v4};

use super::{STATE_SUBSCRIBE, packet_id, qos_of, suback, subscribe_id, topic_name, unsubscribe_id};
use crate::mqtt::{PacketId, Properties, QoS, ReasonCode};
use crate::outbox::Outgoing;
use crate::uplink::failure::LinkError;
use crate::uplink::link::{Accepted, Command, Incoming, Opening, Received, Start};
use crate::uplink::subscriptions::SubscribeRequest;

/// QoS 2 messages in flight: a remote cannot say how many it takes, nor that it did not take one.
/// mosquitto 2.0.11 answers the 21st of a session with PUBREC and drops it. Less than half of that,
/// because two gateways may share a session by mistake.
const MAX_EXACT_UNTOLD: usize = 8;

/// A packet of the remote.
pub(super) fn incoming(packet: v4::Packet) -> Result<Incoming, LinkError> {
    Ok(match packet {
        v4::Packet::ConnAck(connack) => Incoming::Accepted(accepted(&connack)),
        v4::Packet::Publish(publish) => published(publish),
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

/// A remote says nothing of its limits.
fn accepted(connack: &v4::ConnAck) -> Accepted {
    Accepted {
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
    }
}

fn published(publish: v4::Publish) -> Incoming {
    let (packet_id, qos) = (PacketId::new(publish.pkid), qos_of(publish.qos as u8));
    let Ok(topic) = topic_name(publish.topic.into()) else {
        return Incoming::Unusable(packet_id, qos);
    };
    Incoming::Publish(Received {
        topic,
        payload: publish.payload,
        qos,
        retain: publish.retain,
        is_repeated: publish.dup,
        packet_id,
        properties: Properties::default(),
        subscriptions: Vec::new(),
    })
}

/// The packet of a command.
pub(super) fn outgoing(command: Command) -> v4::Packet {
    match command {
        Command::Connect(opening) => v4::Packet::Connect(connect(*opening)),
        Command::Own { packet_id, message } => v4::Packet::Publish(publish(packet_id, message)),
        Command::Publish {
            packet_id,
            dup,
            message,
            ..
        } => v4::Packet::Publish(v4::Publish {
            dup,
            ..publish(packet_id, message)
        }),
        Command::PubAck(id) => v4::Packet::PubAck(v4::PubAck::new(id.get())),
        Command::PubRec(id) => v4::Packet::PubRec(v4::PubRec::new(id.get())),
        Command::PubRel(id) => v4::Packet::PubRel(v4::PubRel::new(id.get())),
        Command::PubComp(id) => v4::Packet::PubComp(v4::PubComp::new(id.get())),
        Command::Subscribe(asked) => v4::Packet::Subscribe(subscribe(&asked)),
        Command::AskForState(topic) => {
            let mut subscribe = v4::Subscribe::new(topic.to_string(), mqttbytes::QoS::AtMostOnce);
            subscribe.pkid = subscribe_id(STATE_SUBSCRIBE);
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

fn connect(opening: Opening) -> v4::Connect {
    let hello = opening.hello;
    let mut connect = v4::Connect::new(opening.client_id);
    connect.keep_alive = opening.keep_alive;
    connect.clean_session = hello.start == Start::Clean;
    connect.login = hello
        .login
        .map(|(user, password)| v4::Login::new(user, password.0));
    connect.last_will = hello.will.map(|will| v4::LastWill {
        topic: will.topic.to_string(),
        message: will.payload,
        qos: qos(will.qos),
        retain: will.retain,
    });
    connect
}

fn publish(packet_id: Option<PacketId>, message: Outgoing) -> v4::Publish {
    let mut publish = v4::Publish::new(message.topic.as_str(), qos(message.qos), Vec::new());
    publish.payload = message.payload.encode();
    publish.retain = message.retain;
    publish.pkid = packet_id.map_or(0, PacketId::get);
    publish
}

fn subscribe(asked: &SubscribeRequest) -> v4::Subscribe {
    let filters = asked
        .filters
        .iter()
        .map(|wanted| v4::SubscribeFilter::new(wanted.filter.as_str().to_owned(), qos(wanted.qos)));
    let mut subscribe = v4::Subscribe::new_many(filters);
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
