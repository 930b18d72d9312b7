//! CONNECT, the packet that says which version the others are in [MQTT 3.1.1 and 5.0, chapter 3.1].

use bytes::Bytes;

use super::super::properties::Place;
use super::super::wire::{
    BRIDGE, DecodeError, Reader, malformed, protocol_error, remaining_length,
};
use super::super::{Connect, QoS, ReasonCode, Version, Will};
use super::{properties, topic_name};

/// The version in which the sender of a CONNECT understands an answer, from its first bytes; `None`
/// if more of them are needed.
pub fn claimed_version(begun: &[u8]) -> Result<Option<Version>, DecodeError> {
    let Some((header, rest)) = begun.split_first() else {
        return Ok(None);
    };
    if header >> 4 != 1 {
        return Err(protocol_error("the first packet is not CONNECT"));
    }
    let Some((_, length)) = remaining_length(rest, false)? else {
        return Ok(None);
    };
    let body = rest.get(length..).unwrap_or_default();
    let longest_name = b"MQIsdp".len();
    match protocol_version(&mut Reader::new(Bytes::copy_from_slice(body))) {
        Ok((version, _)) => Ok(Some(version)),
        Err(DecodeError {
            version: Some(version),
            ..
        }) => Ok(Some(version)),
        // Two bytes of length, the name, the level.
        Err(_) if body.len() < 2 + longest_name + 1 => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn protocol_version(body: &mut Reader) -> Result<(Version, bool), DecodeError> {
    let name = body.binary()?;
    let level = body.u8()?;
    // Later versions get the answer of MQTT 5; older dialects know return codes only.
    let answered_as = if &name[..] == b"MQTT" && level > 5 {
        Version::V5
    } else {
        Version::V311
    };
    let unsupported = DecodeError {
        reason: ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
        what: "a protocol version that is not spoken here",
        version: Some(answered_as),
    };
    match (&name[..], level) {
        (b"MQTT", 4) => Ok((Version::V311, false)),
        (b"MQTT", 5) => Ok((Version::V5, false)),
        (b"MQIsdp", 3) => Ok((Version::V31, false)),
        (b"MQTT", level) if level == BRIDGE | 4 => Ok((Version::V311, true)),
        (b"MQIsdp", level) if level == BRIDGE | 3 => Ok((Version::V31, true)),
        (b"MQTT" | b"MQIsdp", _) => Err(unsupported),
        _ => Err(malformed("not MQTT")),
    }
}

pub(super) fn connect(body: &mut Reader) -> Result<Connect, DecodeError> {
    let (version, is_bridge) = protocol_version(body)?;
    let flags = body.u8()?;
    check_connect_flags(flags, version)?;
    let keep_alive = body.u16()?;
    let connect_properties = properties(Place(1), version, body)?;
    if connect_properties.authentication_data.is_some()
        && connect_properties.authentication_method.is_none()
    {
        return Err(protocol_error("authentication data without a method"));
    }
    let client_id = body.owned_text()?;
    let has = |flag: u8| flags & flag != 0;
    let will = has(0x04).then(|| will(flags, version, body)).transpose()?;
    let username = has(0x80).then(|| body.text()).transpose()?;
    let password = has(0x40).then(|| body.binary()).transpose()?;
    let clean_start = flags & 0x02 != 0;
    Ok(Connect {
        version,
        is_bridge,
        clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties: connect_properties,
    })
}

fn check_connect_flags(flags: u8, version: Version) -> Result<(), DecodeError> {
    let will = flags & 0x04 != 0;
    // MQTT 3.1 has a bit that it does not use, and does not look at QoS and retain of a will that
    // is not there.
    let is_old = version == Version::V31;
    if flags & 0x01 != 0 && !is_old {
        return Err(malformed("the reserved connect flag is set")); // [MQTT-3.1.2-3]
    }
    if (will && flags & 0x18 == 0x18) || (!will && flags & 0x38 != 0 && !is_old) {
        return Err(malformed("will flags that contradict each other")); // [MQTT-3.1.2-11..15]
    }
    if version != Version::V5 && flags & 0xC0 == 0x40 {
        return Err(malformed("a password without a user name")); // [MQTT-3.1.2-22] of 3.1.1
    }
    Ok(())
}

fn will(flags: u8, version: Version, body: &mut Reader) -> Result<Will, DecodeError> {
    let will_properties = properties(Place::WILL, version, body)?;
    let topic = topic_name(body.text()?)?;
    let payload = body.binary()?;
    let qos = QoS::from_bits((flags >> 3) & 3).ok_or(malformed("will QoS 3"))?;
    Ok(Will {
        topic,
        payload,
        qos,
        retain: flags & 0x20 != 0,
        properties: will_properties,
    })
}
