//! Bytes to packets, strictly [MQTT 3.1.1 and 5.0, chapters 2 and 3].

mod connect;

use bytes::{Buf, BytesMut};
use bytestring::ByteString;

use super::properties::{Place, read_properties};
use super::wire::{
    DecodeError, Reader, checked_packet_id, malformed, protocol_error, remaining_length,
};
use super::{
    Ack, ConnAck, Disconnect, Grants, Packet, Properties, Publish, QoS, ReasonCode, RetainHandling,
    Subscribe, SubscribeOptions, TopicFilter, TopicName, Unsubscribe, Version,
};
pub use connect::claimed_version;
use connect::{connect, protocol_version};

/// The outcome of decoding.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A packet, removed from the buffer.
    Packet(Packet),
    /// The next frame is not complete.
    NeedMore,
}

/// A bound on packets; none is larger than 256 MB.
fn bound(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Cuts packets off a byte stream. It learns the protocol version from the CONNECT that passes
/// through it.
#[derive(Debug, Clone)]
pub struct Decoder {
    version: Option<Version>,
    max_packet: u32,
    /// Until CONNECT was decoded.
    max_first: u32,
    is_server: bool,
}

impl Decoder {
    /// The server's side: the first packet must be CONNECT. `max_packet` bounds a whole frame, in
    /// bytes.
    pub fn server(max_packet: usize) -> Self {
        let max_packet = bound(max_packet);
        Self {
            version: None,
            max_packet,
            max_first: max_packet,
            is_server: true,
        }
    }

    /// The same, with a bound of its own for CONNECT: its sender is not known yet.
    #[must_use]
    pub fn with_first(self, max_first: usize) -> Self {
        Self {
            max_first: bound(max_first).min(self.max_packet),
            ..self
        }
    }

    /// The client's side, where the version is known.
    pub fn client(version: Version, max_packet: usize) -> Self {
        let max_packet = bound(max_packet);
        Self {
            version: Some(version),
            max_packet,
            max_first: max_packet,
            is_server: false,
        }
    }

    /// The version of the CONNECT that was decoded.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// Takes the next packet off `buffer`. After an error the stream cannot be used any more.
    pub fn decode(&mut self, buffer: &mut BytesMut) -> Result<Progress, DecodeError> {
        let Some((header, body_len, header_len)) = self.frame(buffer)? else {
            return Ok(Progress::NeedMore);
        };
        let total = header_len + body_len;
        if buffer.len() < total {
            return Ok(Progress::NeedMore);
        }
        if let (4..=7, Some(&[high, low])) = (header >> 4, buffer.get(header_len..total)) {
            buffer.advance(total);
            return Ok(Progress::Packet(plain_ack(header, [high, low])?));
        }
        let mut frame = buffer.split_to(total).freeze();
        frame.advance(header_len);
        let packet = self.packet(header, Reader::new(frame))?;
        Ok(Progress::Packet(packet))
    }

    /// The first byte, the length of the body and that of the fixed header; `None` if the header is
    /// not complete.
    fn frame(&self, buffer: &[u8]) -> Result<Option<(u8, usize, usize)>, DecodeError> {
        let Some((&header, rest)) = buffer.split_first() else {
            return Ok(None);
        };
        check_header(header, self.version)?;
        let is_strict = self.version == Some(Version::V5);
        let Some((body_len, length_len)) = remaining_length(rest, is_strict)? else {
            return Ok(None);
        };
        let header_len = 1 + length_len;
        let most = if self.version.is_none() {
            self.max_first
        } else {
            self.max_packet
        };
        if header_len + body_len > most as usize {
            let what = "a packet larger than the maximum";
            return Err(DecodeError::new(ReasonCode::PACKET_TOO_LARGE, what));
        }
        Ok(Some((header, body_len, header_len)))
    }

    fn packet(&mut self, header: u8, mut body: Reader) -> Result<Packet, DecodeError> {
        let packet = if header >> 4 == 1 {
            if self.is_server && self.version.is_some() {
                return Err(protocol_error("a second CONNECT")); // [MQTT-3.1.0-2]
            }
            let claimed = protocol_version(&mut body.clone())
                .ok()
                .map(|(version, _)| version);
            let connect = connect(&mut body).map_err(|error| DecodeError {
                version: error.version.or(claimed),
                ..error
            })?;
            if header & 0x0F != 0 && connect.version != Version::V31 {
                return Err(malformed("packet type or flags that do not exist"));
            }
            self.version = Some(connect.version);
            Packet::Connect(Box::new(connect))
        } else {
            let version = self
                .version
                .ok_or(protocol_error("the first packet is not CONNECT"))?;
            other(header, version, &mut body)?
        };
        if body.is_empty() {
            Ok(packet)
        } else {
            Err(malformed("bytes after the end of a packet"))
        }
    }
}

/// [MQTT-2.1.3-1]: the packet type exists and the flag bits are what they must be;
/// [MQTT-3.1.0-1]: CONNECT comes first. MQTT 3.1 has flags that it does not use, and says nothing
/// of their values.
fn check_header(header: u8, version: Option<Version>) -> Result<(), DecodeError> {
    let (kind, flags) = (header >> 4, header & 0x0F);
    if version.is_none() && kind != 1 {
        return Err(protocol_error("the first packet is not CONNECT"));
    }
    let is_old = version == Some(Version::V31);
    let ok = match kind {
        0 => false,
        // Those of CONNECT are checked when its version is known.
        1 if version.is_none() => true,
        3 => flags & 0b0110 != 0b0110 && (flags & 0b0110 != 0 || flags & 0b1000 == 0 || is_old),
        // MQTT 3.1 sets DUP on repeated PUBREL, SUBSCRIBE and UNSUBSCRIBE, and does not use RETAIN.
        6 | 8 | 10 => flags == 0b0010 || (is_old && flags & 0b0110 == 0b0010),
        15 => version == Some(Version::V5) && flags == 0,
        _ => flags == 0 || is_old,
    };
    if ok {
        Ok(())
    } else {
        Err(malformed("packet type or flags that do not exist"))
    }
}

/// An acknowledgement of a packet identifier and nothing else, as most are: it is read where it
/// lies.
fn plain_ack(header: u8, packet_id: [u8; 2]) -> Result<Packet, DecodeError> {
    let ack = Ack::new(
        checked_packet_id(u16::from_be_bytes(packet_id))?,
        ReasonCode::SUCCESS,
    );
    Ok(match header >> 4 {
        4 => Packet::PubAck(ack),
        5 => Packet::PubRec(ack),
        6 => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    })
}

fn other(header: u8, version: Version, body: &mut Reader) -> Result<Packet, DecodeError> {
    Ok(match header >> 4 {
        2 => Packet::ConnAck(connack(version, body)?),
        3 => Packet::Publish(publish(header, version, body)?),
        4 => Packet::PubAck(ack(Place(4), version, body)?),
        5 => Packet::PubRec(ack(Place(5), version, body)?),
        6 => Packet::PubRel(ack(Place(6), version, body)?),
        7 => Packet::PubComp(ack(Place(7), version, body)?),
        8 => Packet::Subscribe(subscribe(version, body)?),
        9 => Packet::SubAck(grants(Place(9), version, body)?),
        10 => Packet::Unsubscribe(unsubscribe(version, body)?),
        11 => Packet::UnsubAck(grants(Place(11), version, body)?),
        12 => Packet::PingReq,
        13 => Packet::PingResp,
        14 => Packet::Disconnect(disconnect(Place(14), version, body)?),
        _ => Packet::Auth(disconnect(Place(15), version, body)?),
    })
}

fn properties(
    place: Place,
    version: Version,
    body: &mut Reader,
) -> Result<Properties, DecodeError> {
    if version == Version::V5 {
        read_properties(body, place)
    } else {
        Ok(Properties::default())
    }
}

/// Properties at the end of a packet, which may be left out.
fn last_properties(place: Place, body: &mut Reader) -> Result<Properties, DecodeError> {
    if body.is_empty() {
        Ok(Properties::default())
    } else {
        read_properties(body, place)
    }
}

fn connack(version: Version, body: &mut Reader) -> Result<ConnAck, DecodeError> {
    let flags = body.u8()?;
    if flags > 1 {
        return Err(malformed("reserved CONNACK flags are set"));
    }
    let code = body.u8()?;
    if version != Version::V5 && code > 5 {
        return Err(malformed("a return code that does not exist"));
    }
    let reason = if version == Version::V5 {
        ReasonCode(code)
    } else {
        reason_of_return_code(code)
    };
    if flags == 1 && (reason != ReasonCode::SUCCESS || version == Version::V31) {
        return Err(malformed(
            "a session that is present although the connection is refused",
        )); // [MQTT-3.2.2-6]
    }
    Ok(ConnAck {
        session_present: flags == 1,
        reason,
        properties: properties(Place(2), version, body)?,
    })
}

/// The reason code for a CONNACK return code of 3.1 and 3.1.1.
fn reason_of_return_code(code: u8) -> ReasonCode {
    match code {
        0 => ReasonCode::SUCCESS,
        1 => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        2 => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
        3 => ReasonCode::SERVER_UNAVAILABLE,
        4 => ReasonCode::BAD_USER_NAME_OR_PASSWORD,
        5 => ReasonCode::NOT_AUTHORIZED,
        _ => ReasonCode::UNSPECIFIED,
    }
}

fn topic_name(text: ByteString) -> Result<TopicName, DecodeError> {
    let what = "a topic name that is none";
    TopicName::of_any_depth(text)
        .map_err(|_| DecodeError::new(ReasonCode::TOPIC_NAME_INVALID, what))
}

fn topic_filter(body: &mut Reader) -> Result<TopicFilter, DecodeError> {
    let what = "a topic filter that is none";
    TopicFilter::of_any_depth(body.owned_text()?)
        .map_err(|_| DecodeError::new(ReasonCode::TOPIC_FILTER_INVALID, what))
}

fn publish(header: u8, version: Version, body: &mut Reader) -> Result<Publish, DecodeError> {
    let qos = QoS::from_bits((header >> 1) & 3).ok_or(malformed("QoS 3"))?;
    let text = body.text()?;
    let packet_id = if qos == QoS::AtMostOnce {
        None
    } else {
        Some(body.packet_id()?)
    };
    let properties = properties(Place::PUBLISH, version, body)?;
    let topic = if text.is_empty() && properties.topic_alias.is_some() {
        None
    } else if text.is_empty() && version == Version::V5 {
        return Err(protocol_error("neither topic nor topic alias"));
    } else {
        Some(topic_name(text)?)
    };
    let dup = header & 0x08 != 0 && qos != QoS::AtMostOnce;
    Ok(Publish {
        dup,
        qos,
        retain: header & 0x01 != 0,
        topic,
        packet_id,
        properties,
        payload: body.rest(),
    })
}

fn ack(place: Place, version: Version, body: &mut Reader) -> Result<Ack, DecodeError> {
    let packet_id = body.packet_id()?;
    if version != Version::V5 || body.is_empty() {
        return Ok(Ack::new(packet_id, ReasonCode::SUCCESS));
    }
    let reason = ReasonCode(body.u8()?);
    let known = match place.0 {
        4 | 5 => matches!(
            reason.0,
            0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99
        ),
        _ => matches!(reason.0, 0x00 | 0x92),
    };
    if !known {
        return Err(malformed("a reason code that may not stand in this packet"));
    }
    let properties = last_properties(place, body)?;
    Ok(Ack {
        packet_id,
        reason,
        properties,
    })
}

fn subscribe_options(byte: u8, version: Version) -> Result<SubscribeOptions, DecodeError> {
    let qos = QoS::from_bits(byte & 3).ok_or(protocol_error("subscription QoS 3"))?;
    if version != Version::V5 {
        // [MQTT-3.8.3-4] of 3.1.1; 3.1 does not use these bits.
        return if byte & 0xFC == 0 || version == Version::V31 {
            Ok(SubscribeOptions {
                qos,
                ..SubscribeOptions::default()
            })
        } else {
            Err(malformed("reserved subscription bits are set"))
        };
    }
    if byte & 0xC0 != 0 {
        return Err(malformed("reserved subscription bits are set")); // [MQTT-3.8.3-5]
    }
    let retain_handling = match (byte >> 4) & 3 {
        0 => RetainHandling::Always,
        1 => RetainHandling::IfNew,
        2 => RetainHandling::Never,
        _ => return Err(protocol_error("retain handling 3")),
    };
    Ok(SubscribeOptions {
        qos,
        no_local: byte & 0x04 != 0,
        retain_as_published: byte & 0x08 != 0,
        retain_handling,
    })
}

fn subscribe(version: Version, body: &mut Reader) -> Result<Subscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = properties(Place(8), version, body)?;
    let mut filters = Vec::new();
    while !body.is_empty() {
        let filter = topic_filter(body)?;
        let options = subscribe_options(body.u8()?, version)?;
        if options.no_local && filter.is_shared() {
            return Err(protocol_error("No Local on a shared subscription")); // [MQTT-3.8.3-4]
        }
        filters.push((filter, options));
    }
    if filters.is_empty() {
        return Err(protocol_error("SUBSCRIBE without a filter")); // [MQTT-3.8.3-2]
    }
    Ok(Subscribe {
        packet_id,
        filters,
        properties,
    })
}

fn unsubscribe(version: Version, body: &mut Reader) -> Result<Unsubscribe, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = properties(Place(10), version, body)?;
    let mut filters = Vec::new();
    while !body.is_empty() {
        filters.push(topic_filter(body)?);
    }
    if filters.is_empty() {
        return Err(protocol_error("UNSUBSCRIBE without a filter")); // [MQTT-3.10.3-2]
    }
    Ok(Unsubscribe {
        packet_id,
        filters,
        properties,
    })
}

fn grants(place: Place, version: Version, body: &mut Reader) -> Result<Grants, DecodeError> {
    let packet_id = body.packet_id()?;
    let properties = properties(place, version, body)?;
    let reasons: Vec<ReasonCode> = body.rest().iter().map(|code| ReasonCode(*code)).collect();
    let known = match (place.0, version) {
        (_, Version::V5) => true,
        (9, _) => reasons.iter().all(|code| matches!(code.0, 0..=2 | 0x80)),
        _ => reasons.is_empty(),
    };
    if !known {
        return Err(malformed("a return code that does not exist"));
    }
    Ok(Grants {
        packet_id,
        reasons,
        properties,
    })
}

fn disconnect(
    place: Place,
    version: Version,
    body: &mut Reader,
) -> Result<Disconnect, DecodeError> {
    if version != Version::V5 || body.is_empty() {
        return Ok(Disconnect::new(ReasonCode::SUCCESS));
    }
    let reason = ReasonCode(body.u8()?);
    let known = match place.0 {
        15 => matches!(reason.0, 0x00 | 0x18 | 0x19),
        _ => {
            matches!(reason.0, 0x00 | 0x04 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2)
        }
    };
    if !known {
        return Err(malformed("a reason code that may not stand in this packet"));
    }
    let properties = last_properties(place, body)?;
    Ok(Disconnect { reason, properties })
}
