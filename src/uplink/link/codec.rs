//! Packets of an uplink as rumqttc's codecs write and read them, for MQTT 5 and 3.1.1.

mod v4;
mod v5;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::v4::Codec as CodecV4;
use rumqttc::v5::mqttbytes::v5::Codec as CodecV5;
use tokio_util::codec::{Decoder, Encoder};

use super::{Alias, Command, Incoming, identifiers};
use crate::log::Printable;
use crate::mqtt::{self, Packet, PacketId, Progress, Properties, QoS, ReasonCode, TopicName};
use crate::uplink::Protocol;
use crate::uplink::failure::LinkError;
use crate::uplink::session::OTHER_IDS;

/// Largest packet taken from a remote, in bytes.
const MAX_INCOMING: u32 = 16 << 20;
/// Bytes of a text of the remote that are shown.
const MOST_SAID: usize = 128;

/// The codec of one protocol version.
pub(super) enum Codec {
    V4(CodecV4),
    V5(CodecV5),
}

impl Codec {
    pub(super) fn new(protocol: Protocol) -> Self {
        match protocol {
            Protocol::V311 => Self::V4(CodecV4 {
                max_incoming_size: MAX_INCOMING as usize,
                max_outgoing_size: usize::MAX,
            }),
            Protocol::V5 => Self::V5(CodecV5 {
                max_incoming_size: Some(MAX_INCOMING),
                max_outgoing_size: None,
            }),
        }
    }

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
        match self {
            // The codec drops the explanation of a refusal.
            Self::V4(_) if is_refusal(&frame) => refused(frame, mqtt::Version::V311).map(Some),
            Self::V5(_) if is_refusal(&frame) => refused(frame, mqtt::Version::V5).map(Some),
            // The codec cannot read the short forms of DISCONNECT, nor AUTH.
            Self::V5(_) if frame.first() == Some(&0xE0) => Ok(Some(disconnected(frame))),
            Self::V4(codec) => {
                let packet = codec.decode(&mut frame).map_err(|e| not_mqtt(&e))?;
                v4::incoming(packet.ok_or_else(incomplete)?).map(Some)
            }
            Self::V5(codec) => decode_v5(codec, frame).map(Some),
        }
    }

    /// Appends a packet to `buffer`. `alias` is that of the topic.
    pub(super) fn encode(
        &mut self,
        command: Command,
        alias: Option<Alias>,
        buffer: &mut BytesMut,
    ) -> Result<(), LinkError> {
        let failed = |e: &dyn std::fmt::Display| {
            LinkError::Broken(format!("a packet cannot be written: {e}"))
        };
        match self {
            Self::V4(codec) => codec
                .encode(v4::outgoing(command), buffer)
                .map_err(|e| failed(&e)),
            Self::V5(codec) => codec
                .encode(v5::outgoing(command, alias), buffer)
                .map_err(|e| failed(&e)),
        }
    }
}

/// A whole packet of MQTT 5.
fn decode_v5(codec: &mut CodecV5, frame: BytesMut) -> Result<Incoming, LinkError> {
    let is_publish = frame.first().is_some_and(|first| first >> 4 == 3);
    let taken = if is_publish {
        identifiers::taken_out(&frame)
    } else {
        None
    };
    let (mut frame, identifiers) = taken.unwrap_or_else(|| (frame, Vec::new()));
    let packet = codec.decode(&mut frame).map_err(|e| not_mqtt(&e))?;
    let mut incoming = v5::incoming(packet.ok_or_else(incomplete)?)?;
    if let Incoming::Publish(received) = &mut incoming {
        received.subscriptions = identifiers;
    }
    Ok(incoming)
}

/// A whole packet that the codec calls incomplete.
fn incomplete() -> LinkError {
    not_mqtt(&"a packet that contradicts its length")
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

/// The bytes behind the length of a packet.
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
        Ok(Progress::NeedMore) => Err(incomplete()),
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

/// The explanation that a remote adds to its reason, cut to the room of a line.
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

fn qos_of(bits: u8) -> QoS {
    QoS::from_bits(bits).unwrap_or(QoS::AtMostOnce)
}

/// The remedy for a refusal.
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
        _ => "ask its operator",
    }
}

/// SUBACK of `receive`, or of the question what state is retained.
fn suback(packet_id: u16, granted: Vec<Option<QoS>>) -> Incoming {
    if packet_id == subscribe_id(STATE_SUBSCRIBE) {
        Incoming::QuestionAck(granted)
    } else {
        Incoming::SubAck(granted)
    }
}

/// The number of the SUBSCRIBE that asks for a state.
const STATE_SUBSCRIBE: u16 = OTHER_IDS / 2 - 1;

/// The identifiers of SUBSCRIBE and UNSUBSCRIBE packets come from the [`OTHER_IDS`] that the
/// session never gives to a message.
fn subscribe_id(number: u16) -> u16 {
    u16::MAX - number % (OTHER_IDS / 2)
}

fn unsubscribe_id(number: u16) -> u16 {
    u16::MAX - OTHER_IDS / 2 - number % (OTHER_IDS / 2)
}
